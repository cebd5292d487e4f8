"""IPv6 beside IPv4: had where it can be, said where it cannot, and never at IPv4's cost."""

from __future__ import annotations

from ipaddress import IPv6Network
from typing import Any

import pytest

from egress_gateway.api import conditions
from egress_gateway.api.types import (
    Condition,
    ObjectMeta,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationStatus,
)
from egress_gateway.controller.planning.verdict import Verdict
from egress_gateway.controller.reporting.status import Gateways, notices, status_of
from egress_gateway.controller.rotation.phases import Pairs
from tests.unit.controller.fake_arm import FakeArm, forbidden
from tests.unit.controller.planning.test_exchange import Guard, add_pool, follow
from tests.unit.controller.test_reconcile import World

KINDS = ["scale-set", "machines"]
DUAL = ["10.224.0.0/16", "2001:db8:1::/64"]


async def served(world: World, uid: str = "a", **spec: Any) -> Verdict:
    world.cluster.write(uid, **spec)
    for _ in range(3):
        await world.settle()
        world.now += 31
    return world.verdict(uid)


def said(
    verdict: Verdict, before: StaticGatewayConfigurationStatus | None = None
) -> tuple[StaticGatewayConfigurationStatus, Condition | None]:
    sgc = StaticGatewayConfiguration(
        metadata=ObjectMeta(name="a", namespace="default", uid="a"),
        status=before or StaticGatewayConfigurationStatus(),
    )
    serving = verdict.serving
    nodes = {g.provider_id.lower(): g.provider_id[-5:] for g in serving.gateways} if serving else {}
    gateways = Gateways(nodes=nodes, ready=frozenset(nodes.values()), problems={})
    made = status_of(
        sgc,
        verdict,
        gateways,
        pairs=Pairs(public="k"),
        keys_namespace="system",
        now="2026-01-01T00:00:00Z",
    )
    return made, conditions.find(made.conditions, conditions.IPV6_READY)


def six_configs(arm: FakeArm) -> set[str]:
    return {name for name in arm.managed_names() if name.endswith("-v6")}


@pytest.mark.parametrize("kind", KINDS)
async def test_both_families_are_provisioned_and_said(kind: str, world: World) -> None:
    add_pool(world.arm, kind)
    world.arm.subnet_prefixes = DUAL
    prefix = world.arm.add_prefix("six", 126)
    verdict = await served(world, public_ip_prefix_id_v6=prefix)
    assert verdict.settled
    assert verdict.problem6 is None
    status, condition = said(verdict)
    assert condition is not None
    assert (condition.status, condition.reason) == ("True", "IPv6Carried")
    four, six = status.egress_ip_prefix.split(",")
    assert "." in four
    network = IPv6Network(six)
    assert len(status.gateways) == 2
    assert all(g.secondary_ip_v6.startswith("2001:db8:1::") for g in status.gateways)
    assert all(
        g.public_ip_v6 and IPv6Network(g.public_ip_v6).subnet_of(network) for g in status.gateways
    )
    # Gone from the spec, gone from Azure and from the status; IPv4 stays as it was.
    plain = await served(world)
    assert six_configs(world.arm) == set()
    after, condition = said(plain, status)
    assert (after.egress_ip_prefix, condition) == (four, None)
    assert [g.secondary_ip for g in after.gateways] == [g.secondary_ip for g in status.gateways]
    assert not any(g.secondary_ip_v6 for g in after.gateways)
    world.cluster.delete("a")
    await world.settle()
    assert world.arm.managed_names() == set()
    assert world.arm.publics == {}


async def test_the_documents_of_ipv6_are_azures(world: World) -> None:
    world.arm.add_pool("np")
    world.arm.subnet_prefixes = DUAL
    prefix = world.arm.add_prefix("six", 126)
    await served(world, public_ip_prefix_id_v6=prefix)
    profile = world.arm.sets["aks-np-vmss"]["properties"]["virtualMachineProfile"]
    nic = profile["networkProfile"]["networkInterfaceConfigurations"][0]["properties"]
    found = {c["name"]: c["properties"] for c in nic["ipConfigurations"]}
    six = found["egressgateway-a-v6"]
    assert six["privateIPAddressVersion"] == "IPv6"
    assert six["primary"] is False
    assert six["publicIPAddressConfiguration"] == {
        "name": "egressgateway-a-v6",
        "properties": {"publicIPPrefix": {"id": prefix}, "publicIPAddressVersion": "IPv6"},
    }
    assert found["egressgateway-a"]["privateIPAddressVersion"] == "IPv4"


def _short(arm: FakeArm) -> str:
    return arm.add_prefix("six", 127)


def _four(arm: FakeArm) -> str:
    return arm.add_prefix("four", 30)


def _missing(arm: FakeArm) -> str:
    return arm.add_prefix("six", 126) + "-mistyped"


def _forbidden(arm: FakeArm) -> str:
    prefix = arm.add_prefix("six", 126)
    arm.brought[prefix.lower()] = forbidden(prefix)
    return prefix


def _subnet(arm: FakeArm) -> str:
    arm.subnet_prefixes = ["10.224.0.0/16"]
    return arm.add_prefix("six", 126)


def _unreadable_subnet(arm: FakeArm) -> str:
    arm.subnet_prefixes = forbidden("subnet")
    return arm.add_prefix("six", 126)


def _own(arm: FakeArm) -> str:
    node = {"primary": False, "privateIPAddressVersion": "IPv6"}
    for document in (*arm.sets.values(), *arm.machines["aks-np-vmss"]):
        properties = document["properties"]
        profile = (
            properties.get("networkProfileConfiguration")
            or (properties["virtualMachineProfile"]["networkProfile"])
        )
        nic = profile["networkInterfaceConfigurations"][0]["properties"]
        nic["ipConfigurations"].append({"name": "ipconfig-v6", "properties": dict(node)})
    return arm.add_prefix("six", 126)


@pytest.mark.parametrize(
    ("hindrance", "reason", "words"),
    [
        (_short, "PublicIPPrefixSizeMismatch", "length 126"),
        (_four, "PublicIPPrefixSizeMismatch", "length 126"),
        (_missing, "PublicIPPrefixNotFound", "--version IPv6 --length 126"),
        (_forbidden, "AuthorizationFailed", ""),
        (_subnet, "SubnetWithoutIPv6", "no IPv6 address prefix"),
        (_unreadable_subnet, "AzureError", ""),
        (_own, "IPv6ConfigurationTaken", "gateway nodes' own"),
    ],
)
async def test_what_hinders_ipv6_is_said_once_and_costs_ipv4_nothing(
    hindrance: Any, reason: str, words: str, world: World
) -> None:
    world.arm.add_pool("np")
    world.arm.subnet_prefixes = DUAL
    prefix = hindrance(world.arm)
    verdict = await served(world, public_ip_prefix_id_v6=prefix)
    assert verdict.problem is None
    status, condition = said(verdict)
    ready = conditions.find(status.conditions, conditions.PROVISIONED)
    assert ready is not None
    assert ready.status == "True"
    assert len(status.gateways) == 2
    assert condition is not None
    assert (condition.status, condition.reason) == ("False", reason)
    assert words in condition.message
    assert "held back" in condition.message
    assert six_configs(world.arm) == set()
    events = notices([], status.conditions)
    assert [n.type for n in events if n.reason == reason] == ["Warning"]


async def test_a_refusal_of_ipv6_ends_by_itself_when_the_role_is_there(world: World) -> None:
    world.arm.add_pool("np")
    world.arm.subnet_prefixes = DUAL
    prefix = world.arm.add_prefix("six", 126)
    plain = world.arm.put_scale_set

    async def refuse(group: str, name: str, document: Any, etag: str | None) -> None:
        if "-v6" in str(document):  # Azure asks for the right to join what is written
            raise forbidden(prefix)
        await plain(group, name, document, etag)

    world.arm.put_scale_set = refuse  # type: ignore[method-assign]
    verdict = await served(world, public_ip_prefix_id_v6=prefix)
    assert verdict.problem is None
    assert verdict.problem6 is not None
    assert verdict.problem6.reason == "AuthorizationFailed"
    assert verdict.serving is not None
    world.arm.put_scale_set = plain  # type: ignore[method-assign]
    world.now += 31
    await world.settle()
    verdict = world.verdict("a")
    assert verdict.settled
    assert verdict.problem6 is None
    assert six_configs(world.arm)


async def test_the_one_address_of_a_network_interface_goes_to_the_first_who_asks(
    world: World,
) -> None:
    world.arm.add_pool("np", size=31)
    world.arm.subnet_prefixes = DUAL
    prefixes = [world.arm.add_prefix(f"six{n}", 127) for n in range(2)]
    await served(world, "b", public_ip_prefix_id_v6=prefixes[0])
    await served(world, "a", public_ip_prefix_id_v6=prefixes[1])
    assert six_configs(world.arm) == {"egressgateway-b-v6"}
    assert world.verdict("b").problem6 is None
    problem = world.verdict("a").problem6
    assert problem is not None
    assert problem.reason == "IPv6ConfigurationTaken"
    assert "UID b" in problem.message
    assert world.verdict("a").serving is not None
    await served(world, "b")
    world.now += 31
    await world.settle()
    assert six_configs(world.arm) == {"egressgateway-a-v6"}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_ipv6_prefix_is_swapped_as_carefully_as_the_other(kind: str, world: World) -> None:
    add_pool(world.arm, kind)
    world.arm.subnet_prefixes = DUAL
    one, two = (world.arm.add_prefix(name, 126) for name in ("one", "two"))
    first = await served(world, public_ip_prefix_id_v6=one)
    world.cluster.agents_follow()
    guard = Guard(world)
    world.cluster.write("a", public_ip_prefix_id_v6=two)
    counts = await follow(world, guard)
    assert min(counts) == 1
    assert counts[-1] == 2
    verdict = world.verdict("a")
    assert verdict.settled
    assert first.serving
    assert verdict.serving
    assert verdict.serving.prefix6 != first.serving.prefix6
    assert verdict.serving.prefix == first.serving.prefix
    network = IPv6Network(verdict.serving.prefix6 or "")
    assert all(g.public6 in network for g in verdict.serving.gateways if g.public6)
