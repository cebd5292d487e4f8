"""Each fault of a spec is named by its field, with what mends it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.api.types import GatewayVmssProfile, StaticGatewayConfigurationSpec
from egress_gateway.api.validation import parse_prefix_id, validate_spec

PREFIX = (
    "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Network/publicIPPrefixes/pip-prefix"
)
Spec = StaticGatewayConfigurationSpec
Profile = GatewayVmssProfile


@pytest.mark.parametrize(
    "spec",
    [
        Spec(gateway_nodepool_name="np"),
        Spec(gateway_nodepool_name="np", public_ip_prefix_id=PREFIX),
        Spec(gateway_nodepool_name="np", public_ip_prefix_id=PREFIX.lower()),
        Spec(gateway_nodepool_name="np", provision_public_ips=False),
        Spec(gateway_nodepool_name="np", exclude_cidrs=["10.0.0.0/8", "2001:db8::/32"]),
        Spec(
            gateway_vmss_profile=Profile(
                vmss_resource_group="rg", vmss_name="vmss", public_ip_prefix_size=31
            )
        ),
    ],
)
def test_sound_specs_pass(spec: Spec) -> None:
    assert validate_spec(spec) == []


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (Spec(), "spec.gatewayNodepoolName"),
        (
            Spec(gateway_nodepool_name="np", gateway_vmss_profile=Profile(vmss_name="v")),
            "spec.gatewayVmssProfile",
        ),
        (
            Spec(gateway_vmss_profile=Profile(vmss_name="v", public_ip_prefix_size=30)),
            "spec.gatewayVmssProfile.vmssResourceGroup",
        ),
        (
            Spec(
                gateway_vmss_profile=Profile(
                    vmss_resource_group="rg", vmss_name="v", public_ip_prefix_size=24
                )
            ),
            "spec.gatewayVmssProfile.publicIpPrefixSize",
        ),
        (Spec(gateway_nodepool_name="np", public_ip_prefix_id="/x"), "spec.publicIpPrefixId"),
        (
            Spec(
                gateway_nodepool_name="np", public_ip_prefix_id=PREFIX, provision_public_ips=False
            ),
            "spec.publicIpPrefixId",
        ),
        (Spec(gateway_nodepool_name="np", exclude_cidrs=["10.0.0.0"]), "spec.excludeCidrs[0]"),
        (
            Spec(gateway_nodepool_name="np", exclude_cidrs=["10.0.0.0/8", "10.0.0.0/33"]),
            "spec.excludeCidrs[1]",
        ),
        (Spec(gateway_nodepool_name="np", verify_targets=["a:1", "a"]), "spec.verifyTargets[1]"),
        (Spec(gateway_nodepool_name="np", verify_targets=["a:99999"]), "spec.verifyTargets[0]"),
        (Spec(gateway_nodepool_name="np", verify_targets=["::1:3478"]), "spec.verifyTargets[0]"),
        (Spec(gateway_nodepool_name="np", verify_targets=["a b:3478"]), "spec.verifyTargets[0]"),
        (Spec(gateway_nodepool_name="np", verify_targets=["a..b:1"]), "spec.verifyTargets[0]"),
        (Spec(gateway_nodepool_name="np", verify_targets=[".a:1"]), "spec.verifyTargets[0]"),
        (Spec(gateway_nodepool_name="np", verify_targets=["-a.b:1"]), "spec.verifyTargets[0]"),
        (Spec(gateway_nodepool_name="np", verify_targets=["a-.b:1"]), "spec.verifyTargets[0]"),
        (
            Spec(gateway_nodepool_name="np", verify_targets=["a" * 64 + ".b:1"]),
            "spec.verifyTargets[0]",
        ),
    ],
)
def test_faults_are_named_by_field(spec: Spec, field: str) -> None:
    (problem,) = validate_spec(spec)
    assert problem.field == field
    assert problem.mend


def test_a_prefix_id_comes_apart_whatever_its_case() -> None:
    upper = parse_prefix_id(PREFIX.upper())
    assert upper is not None
    assert upper.name == "PIP-PREFIX"
    assert parse_prefix_id(PREFIX + "/x") is None


@given(st.ip_addresses(), st.integers(0, 140))
def test_cidrs_agree_with_ipaddress(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int
) -> None:
    text = f"{address}/{length}"
    spec = Spec(gateway_nodepool_name="np", exclude_cidrs=[text])
    assert (validate_spec(spec) == []) == (length <= address.max_prefixlen)


@pytest.mark.parametrize("text", ["2001:db8::/124", "203.0.113.0/30", "pip prefix", "my:prefix"])
@pytest.mark.parametrize("field", ["public_ip_prefix_id", "public_ip_prefix_id_v6"])
def test_what_is_no_id_is_called_so_and_not_asked_for_one_character_less(
    field: str, text: str
) -> None:
    spec = StaticGatewayConfigurationSpec(gateway_nodepool_name="np", **{field: text})  # type: ignore[arg-type]
    (problem,) = validate_spec(spec)
    assert "is not the id of a public IP prefix" in str(problem)
    assert "--query id" in str(problem)
