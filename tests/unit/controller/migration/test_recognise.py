"""Only a single candidate is believed."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from egress_gateway.api.types import (
    ObjectMeta,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationSpec,
    StaticGatewayConfigurationStatus,
)
from egress_gateway.cloud.protocol import (
    Address,
    BalancingRule,
    Instance,
    InterfaceSpec,
    LoadBalancer,
    PoolRef,
    PoolState,
    Prefix,
)
from egress_gateway.controller.migration.recognise import (
    candidates,
    nameless,
    recognise,
    unrecognised,
)
from egress_gateway.controller.planning.wanted import Names

BROUGHT = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Network/publicIPPrefixes/PIP"
MADE = "/subscriptions/s/resourcegroups/mc/providers/microsoft.network/publicipprefixes/{}"


def configuration(
    told: str = "", *, private: bool = False, prefix: str = ""
) -> StaticGatewayConfiguration:
    return StaticGatewayConfiguration(
        metadata=ObjectMeta(name="one", namespace="team", uid="u"),
        spec=StaticGatewayConfigurationSpec(
            provision_public_ips=not private, public_ip_prefix_id=prefix
        ),
        status=StaticGatewayConfigurationStatus(egress_ip_prefix=told),
    )


def state(configs: dict[str, str | None], secondaries: dict[str, str] | None = None) -> PoolState:
    addresses = {
        name: Address(secondary=IPv4Address(address))
        for name, address in (secondaries or {}).items()
    }
    machine = Instance(
        id="vm",
        name="vm",
        provider_id="azure://vm",
        state="Succeeded",
        interface=InterfaceSpec(configs=configs),
        addresses=addresses,
    )
    managed = {
        name: Prefix(id=prefix, name=name, size=30, network=IPv4Network(f"203.0.113.{4 * n}/30"))
        for n, (name, prefix) in enumerate(sorted(configs.items()))
        if prefix and prefix == MADE.format(name)
    }
    return PoolState(
        ref=PoolRef(key="pool"),
        model=InterfaceSpec(configs=configs),
        instances=(machine,),
        managed=managed,
    )


A, B = "egressgateway-a", "egressgateway-b"


@pytest.mark.parametrize(
    ("sgc", "seen", "expected"),
    [
        (configuration(prefix=BROUGHT), state({A: BROUGHT.lower(), B: MADE.format(B)}), A),
        (configuration(prefix=BROUGHT), state({A: BROUGHT.lower(), B: BROUGHT.lower()}), None),
        (
            configuration("203.0.113.4/30"),
            state({A: MADE.format(A), B: MADE.format(B)}),
            B,
        ),
        (configuration("203.0.113.8/30"), state({A: MADE.format(A)}), None),
        (configuration(), state({A: MADE.format(A)}), None),
        (
            configuration("10.0.0.5", private=True),
            state({A: None, B: None}, {A: "10.0.0.4", B: "10.0.0.5"}),
            B,
        ),
        (configuration("10.0.0.5", private=True), state({A: BROUGHT.lower()}), None),
    ],
    ids=["brought", "two share it", "managed", "another prefix", "new", "private", "not private"],
)
def test_an_ip_configuration_is_told_by_where_it_leads(
    sgc: StaticGatewayConfiguration, seen: PoolState, expected: str | None
) -> None:
    found = recognise(sgc, "rule", seen, taken=())
    if expected is None:
        assert found is None
    else:
        assert found == Names(rule="rule", ip_config=expected, probe_path="/gw/u")


def test_what_belongs_to_others_is_no_candidate() -> None:
    seen = state({A: BROUGHT.lower(), B: BROUGHT.lower()})
    assert candidates(configuration(prefix=BROUGHT), seen, taken={A}) == [B]


def rule(name: str, path: str) -> BalancingRule:
    return BalancingRule(
        name=name,
        pool="pool",
        port=6000,
        probe_path=path,
        probe_port=8082,
        backend_port=6000,
        frontend="pool",
    )


def test_only_a_rule_of_another_name_for_the_same_configuration_raises_the_question() -> None:
    balancer = LoadBalancer(
        rules={"lb-1": rule("lb-1", "/gw/u"), "v": rule("v", "/gw/v"), "w": rule("w", "/gw/x")}
    )
    known = [Names.of(uid) for uid in ("u", "v", "new")]
    assert nameless(known, balancer) == {Names.of("u"): "lb-1"}


def test_who_cannot_be_told_hears_what_to_write_down() -> None:
    said = unrecognised("u", "lb-1", [A, B], "system")
    assert f"any of {A}, {B}" in said.message
    assert "kubectl annotate secret -n system sgw-u" in said.message
    assert "load-balancer-rule=lb-1" in said.message
