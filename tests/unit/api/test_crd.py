"""The committed definitions: what they admit, refuse, keep, and say about it.

Judged by the lab's evaluator of structural schemas and CEL rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.api import crd, types
from egress_gateway.api.manifests import crd_files, deploy_dir
from egress_gateway.api.validation import validate_spec
from egress_gateway_lab.apiserver.writes.schema import CustomSchema
from tests.unit.api.bad_specs import BAD_SPECS, PREFIX

GOLDEN = Path(__file__).parents[3] / "lab/tests/azure/golden/end-state.json"
MOVED_OVER = [
    document
    for document in json.loads(GOLDEN.read_text())["kubernetes"]
    if document["kind"] == "StaticGatewayConfiguration"
]
"""Configurations as the Go project's controller left them."""


def openapi(kind: str) -> dict[str, Any]:
    for document in crd.documents():
        if document["spec"]["names"]["kind"] == kind:
            schema: dict[str, Any] = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
            return schema
    raise AssertionError(kind)


SCHEMAS = {
    kind: CustomSchema(openapi(kind))
    for kind in ("StaticGatewayConfiguration", "PodEndpoint", "GatewayStatus")
}


def faults(spec: dict[str, Any]) -> list[str]:
    """What the server would say about a StaticGatewayConfiguration with this spec."""
    obj = {"metadata": {"name": "a", "namespace": "n"}, "spec": json.loads(json.dumps(spec))}
    schema = SCHEMAS["StaticGatewayConfiguration"]
    assert schema.prepare(obj) == []
    return [f"{cause.field}: {cause.message}" for cause in schema.validate(obj, None)]


def test_the_committed_files_are_what_the_code_generates() -> None:
    assert crd.out_of_sync(deploy_dir() / "crds") == []
    assert [yaml.safe_load(p.read_text()) for p in crd_files()] == sorted(
        crd.documents(), key=lambda d: d["spec"]["names"]["plural"]
    )


def test_check_names_the_stale_file_and_the_mend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert crd.main(["--write", str(tmp_path)]) == 0
    assert crd.main(["--check", str(tmp_path)]) == 0
    (tmp_path / "podendpoints.yaml").write_text("stale")
    (tmp_path / "foreign.yaml").write_text("")
    assert crd.main(["--check", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "foreign.yaml, podendpoints.yaml" in said
    assert "--write" in said


def nodes(schema: dict[str, Any], at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield at, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{at}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{at}[]")


@pytest.mark.parametrize("kind", SCHEMAS)
def test_schemas_are_structural_and_every_field_is_documented(kind: str) -> None:
    for at, node in nodes(openapi(kind)):
        assert isinstance(node.get("type"), str), at
        assert not node.keys() & {"$ref", "anyOf", "oneOf", "allOf", "nullable"}, at
        if at.endswith("[]") or at == ".metadata":
            continue
        assert node.get("description", "").endswith((".", "empty.")), at


def test_the_kinds_are_named_as_users_know_them() -> None:
    spelled = {d["metadata"]["name"]: d["spec"]["names"] for d in crd.documents()}
    group = "egressgateway.kubernetes.azure.com"
    assert set(spelled) == {
        f"{plural}.{group}"
        for plural in ("staticgatewayconfigurations", "podendpoints", "gatewaystatuses")
    }
    assert spelled[f"staticgatewayconfigurations.{group}"]["shortNames"] == ["sgc"]


@pytest.mark.parametrize("obj", MOVED_OVER, ids=lambda o: o["metadata"]["name"])
def test_objects_of_the_go_project_are_valid_and_lose_nothing(obj: dict[str, Any]) -> None:
    schema = SCHEMAS[obj["kind"]]
    now = json.loads(json.dumps(obj))
    assert schema.prepare(now) == []
    assert now == obj
    assert schema.validate(now, None) == []


def test_defaults_are_the_go_projects_and_no_others() -> None:
    obj: dict[str, Any] = {"metadata": {"name": "a"}, "spec": {"gatewayNodepoolName": "np"}}
    SCHEMAS["StaticGatewayConfiguration"].prepare(obj)
    assert obj["spec"] == {
        "gatewayNodepoolName": "np",
        "defaultRoute": "staticEgressGateway",
        "provisionPublicIps": True,
    }


FULL = (
    types.StaticGatewayConfiguration(
        metadata=types.ObjectMeta(name="a", namespace="n"),
        spec=types.StaticGatewayConfigurationSpec(
            gateway_vmss_profile=types.GatewayVmssProfile(
                vmss_resource_group="rg", vmss_name="v", public_ip_prefix_size=30
            ),
            default_route="azureNetworking",
            public_ip_prefix_id=PREFIX,
            exclude_cidrs=["10.0.0.0/8"],
        ),
        status=types.StaticGatewayConfigurationStatus(
            egress_ip_prefix="203.0.113.0/30",
            gateway_server_profile=types.GatewayServerProfile(
                ip="10.224.0.9",
                port=6000,
                public_key="k",
                private_key_secret_ref=types.ObjectReference(
                    api_version="v1", kind="Secret", namespace="n", name="sgw-u"
                ),
            ),
            gateways=[
                types.Gateway(
                    node="n1", primary_ip="10.1", secondary_ip="10.2", public_ip="203.0.113.1"
                )
            ],
            conditions=[
                types.Condition(
                    type="Ready",
                    status="True",
                    reason="Ready",
                    message="m",
                    last_transition_time="2026-01-01T00:00:00Z",
                    observed_generation=1,
                )
            ],
            observed_generation=1,
        ),
    ),
    types.PodEndpoint(
        metadata=types.ObjectMeta(name="p", namespace="n"),
        spec=types.PodEndpointSpec(
            static_gateway_configuration="a",
            pod_ip_address="10.244.0.5",
            pod_public_key="k",
            pod_ips=["10.244.0.5"],
            pod_uid="u",
            node_name="n1",
        ),
    ),
    types.GatewayStatus(
        metadata=types.ObjectMeta(name="n1", namespace="s"),
        spec=types.GatewayStatusSpec(
            ready_gateway_configurations=[
                types.ReadyGatewayConfiguration(
                    static_gateway_configuration="n/a",
                    interface_name="wg-6000",
                    uid="u",
                    public_key="k",
                )
            ],
            problems=[types.GatewayProblem(static_gateway_configuration="n/b", message="m")],
            heartbeat="2026-01-01T00:00:00Z",
        ),
    ),
)


@pytest.mark.parametrize("struct", FULL, ids=lambda s: type(s).__name__)
def test_every_field_that_the_code_writes_survives(struct: msgspec.Struct) -> None:
    schema = SCHEMAS[type(struct).__name__]
    obj = msgspec.to_builtins(struct)
    assert schema.prepare(obj) == []
    assert schema.validate(obj, None) == []
    assert msgspec.convert(obj, type(struct)) == struct


@pytest.mark.parametrize(("spec", "field", "mend"), BAD_SPECS)
def test_a_bad_spec_is_refused_with_what_mends_it(
    spec: dict[str, Any], field: str, mend: str
) -> None:
    said = faults(spec)
    assert any(text.startswith(f"{field}: ") and mend in text for text in said), said


@pytest.mark.parametrize(
    "spec",
    [
        {"gatewayNodepoolName": "np", "gatewayVmssProfile": {}, "publicIpPrefixId": ""},
        {"gatewayNodepoolName": "np", "gatewayVmssProfile": {"vmssName": ""}},
        {"gatewayNodepoolName": "np", "provisionPublicIps": False, "publicIpPrefixId": ""},
        {"gatewayNodepoolName": "np", "publicIpPrefixId": PREFIX.upper()},
    ],
)
def test_empty_means_unset(spec: dict[str, Any]) -> None:
    assert faults(spec) == []


CIDRS = st.one_of(
    st.ip_addresses(v=4).flatmap(
        lambda ip: st.integers(0, 40).map(lambda length: f"{ip}/{length}")
    ),
    st.ip_addresses(v=6).flatmap(
        lambda ip: st.integers(0, 140).map(lambda length: f"{ip}/{length}")
    ),
    st.from_regex(r"[0-9./:%a]{1,12}", fullmatch=True),
    st.sampled_from(["10.0.0.0/08", "10.0.0.0/255.0.0.0", "010.0.0.0/8", "::/0", "fe80::%a/64"]),
)
SPECS = st.builds(
    types.StaticGatewayConfigurationSpec,
    gateway_nodepool_name=st.sampled_from(["", "np"]),
    gateway_vmss_profile=st.builds(
        types.GatewayVmssProfile,
        vmss_resource_group=st.sampled_from(["", "rg"]),
        vmss_name=st.sampled_from(["", "v"]),
        public_ip_prefix_size=st.integers(0, 31),
    ),
    provision_public_ips=st.booleans(),
    public_ip_prefix_id=st.sampled_from(["", PREFIX, PREFIX.lower(), PREFIX + "/x", "p"]),
)


@given(SPECS)
def test_the_controller_refuses_whatever_the_server_refuses(
    spec: types.StaticGatewayConfigurationSpec,
) -> None:
    assert bool(faults(msgspec.to_builtins(spec))) == bool(validate_spec(spec))


@given(CIDRS)
def test_they_agree_on_cidrs_except_that_ipv6_is_too_intricate_for_a_pattern(cidr: str) -> None:
    spec = types.StaticGatewayConfigurationSpec(gateway_nodepool_name="np", exclude_cidrs=[cidr])
    refused, problems = faults(msgspec.to_builtins(spec)), validate_spec(spec)
    assert bool(refused) <= bool(problems), "the server must not refuse what is sound"
    if ":" not in cidr:
        assert bool(refused) == bool(problems)
