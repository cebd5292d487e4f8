"""From any state to the same end: damage behind the controller's back, and death at any write."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress_gateway.cloud import errors
from tests.unit.controller.fake_arm import FakeArm, Killed
from tests.unit.controller.test_reconcile import World

Damage = Callable[[FakeArm], None]
VMSS = "aks-np-vmss"


def _managed(config: dict[str, Any]) -> bool:
    return str(config["name"]).startswith("egressgateway-")


def _profiles(arm: FakeArm) -> list[dict[str, Any]]:
    """Networks of all instances."""
    listed = arm.machines.get(VMSS, [])
    return [i["properties"]["networkProfileConfiguration"] for i in listed]


def _without_managed(profile: dict[str, Any]) -> None:
    for nic in profile["networkInterfaceConfigurations"]:
        configs = nic["properties"]["ipConfigurations"]
        nic["properties"]["ipConfigurations"] = [c for c in configs if not _managed(c)]


def lost_on_an_instance(arm: FakeArm) -> None:
    """Somebody removed our ipConfigs from one machine."""
    for profile in _profiles(arm)[:1]:
        _without_managed(profile)
        arm.sync_nic(arm.machines[VMSS][0])
    for nic in list(arm.machine_nic.values())[:1]:
        configs = nic["properties"]["ipConfigurations"]
        nic["properties"]["ipConfigurations"] = [c for c in configs if not _managed(c)]
    arm.show_holders()


def lost_on_the_model(arm: FakeArm) -> None:
    for document in arm.sets.values():
        _without_managed(document["properties"]["virtualMachineProfile"]["networkProfile"])


def half_written(arm: FakeArm) -> None:
    """The instance's document is as wanted, its NIC is not, and Azure says Failed."""
    for instance in arm.machines.get(VMSS, [])[:1]:
        instance["properties"]["provisioningState"] = "Failed"
        nic = arm.nics[f"{instance['id']}/networkInterfaces/nic"]
        configs = nic["properties"]["ipConfigurations"]
        nic["properties"]["ipConfigurations"] = [c for c in configs if not _managed(c)]


def rolled_out(arm: FakeArm) -> None:
    """``az vmss update-instances``: every instance becomes as the model says."""
    model = arm.sets.get(VMSS, {}).get("properties", {}).get("virtualMachineProfile")
    for instance in arm.machines.get(VMSS, []) if model else []:
        instance["properties"]["networkProfileConfiguration"] = copy.deepcopy(
            model["networkProfile"]
        )
        arm.sync_nic(instance)


def left_the_backend(arm: FakeArm) -> None:
    nics = [n for p in _profiles(arm) for n in p["networkInterfaceConfigurations"]]
    for nic in [*nics, *arm.machine_nic.values()]:
        for config in nic["properties"]["ipConfigurations"]:
            config["properties"].pop("loadBalancerBackendAddressPools", None)
    for instance in arm.machines.get(VMSS, []):
        arm.sync_nic(instance)


def balancer_deleted(arm: FakeArm) -> None:
    arm.balancer_document = None


def _rules(arm: FakeArm) -> list[dict[str, Any]]:
    document = arm.balancer_document or {"properties": {}}
    return list(document["properties"].get("loadBalancingRules", []))


def rule_edited(arm: FakeArm) -> None:
    for rule in _rules(arm):
        rule["properties"] |= {"protocol": "Tcp", "enableFloatingIP": False, "backendPort": 80}


def rules_on_one_port(arm: FakeArm) -> None:
    for rule in _rules(arm):
        rule["properties"] |= {"frontendPort": 6000, "backendPort": 6000}


def probes_deleted(arm: FakeArm) -> None:
    if arm.balancer_document:
        arm.balancer_document["properties"]["probes"] = []


def rules_deleted(arm: FakeArm) -> None:
    if arm.balancer_document:
        arm.balancer_document["properties"]["loadBalancingRules"] = []


def scaled_up(arm: FakeArm) -> None:
    if arm.machine_nic:
        arm.add_machine("np", len(arm.machine_nic) + 20, size=28)
    else:
        arm.add_instance(VMSS)


def node_replaced(arm: FakeArm) -> None:
    """A machine went, another one came."""
    if arm.machine_nic:
        del arm.machine_nic[next(iter(arm.machine_nic))]
        arm.show_holders()
    else:
        gone = arm.machines[VMSS].pop()
        arm.nics.pop(f"{gone['id']}/networkInterfaces/nic", None)
    scaled_up(arm)


def prefix_failed(arm: FakeArm) -> None:
    for prefix in arm.made.values():
        prefix["properties"]["provisioningState"] = "Failed"


def addresses_detached(arm: FakeArm) -> None:
    for nic in arm.machine_nic.values():
        for config in nic["properties"]["ipConfigurations"]:
            config["properties"].pop("publicIPAddress", None)
    arm.show_holders()


DAMAGES: tuple[Damage, ...] = (
    lost_on_an_instance,
    lost_on_the_model,
    half_written,
    rolled_out,
    left_the_backend,
    balancer_deleted,
    rule_edited,
    rules_on_one_port,
    probes_deleted,
    rules_deleted,
    scaled_up,
    node_replaced,
    prefix_failed,
    addresses_detached,
)
KINDS = ("scale-set", "machines")


def world_of(kind: str) -> World:
    world = World()
    if kind == "machines":
        world.arm.add_machines("np", size=28)
    else:
        world.arm.add_pool("np", size=28)
    prefix = world.arm.add_prefix("pip", 28)
    world.cluster.write("managed")
    world.arm.subnet_prefixes = ["10.224.0.0/16", "2001:db8:1::/64"]
    six = world.arm.add_prefix("six", 124)
    world.cluster.write("brought", public_ip_prefix_id=prefix, public_ip_prefix_id_v6=six)
    world.cluster.write("private", provision_public_ips=False)
    return world


async def mend(world: World, turns: int = 10) -> None:
    """Turns of a controller whose patience and backoff have passed, with agents that follow."""
    world.arm.before = lambda write: None
    for _ in range(turns):
        await world.turn()
        world.cluster.agents_follow()
        world.now += 60  # twice the longest backoff


def is_whole(world: World) -> None:
    arm = world.arm
    for uid in world.cluster.objects:
        verdict = world.verdict(uid)
        assert verdict.settled, (uid, verdict)
        assert verdict.serving
        machines = len(arm.machine_nic) or len(arm.machines[VMSS])
        assert len(verdict.serving.gateways) == machines
    ours = {f"egressgateway-{u}" for u in world.cluster.objects}
    if "brought" in world.cluster.objects:
        ours.add("egressgateway-brought-v6")
        dual = world.verdict("brought")
        assert dual.problem6 is None
        assert dual.serving
        assert all(g.secondary6 and g.public6 for g in dual.serving.gateways)
    assert arm.managed_names() == ours
    ports = [r["properties"]["frontendPort"] for r in _rules(arm)]
    assert len(set(ports)) == len(ports) == len(world.cluster.objects)
    assert {r["properties"]["protocol"] for r in _rules(arm)} <= {"Udp"}
    if arm.machine_nic:
        assert len(arm.publics) == 3 * len(arm.machine_nic)


async def is_gone(world: World) -> None:
    for uid in list(world.cluster.objects):
        world.cluster.delete(uid)
    await mend(world)
    assert world.cluster.objects == {}
    assert world.cluster.keypairs.made == set()
    assert world.arm.managed_names() == set()
    assert world.arm.publics == {}
    assert world.arm.made == {}
    assert world.arm.balancer_document is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
async def test_any_damage_is_mended(kind: str, damage: Damage) -> None:
    world = world_of(kind)
    await mend(world, 4)
    is_whole(world)
    damage(world.arm)
    await mend(world)
    is_whole(world)
    writes = len(world.arm.writes)
    await mend(world, 2)
    assert len(world.arm.writes) == writes


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    damages=st.lists(st.sampled_from(DAMAGES), max_size=4),
    deaths=st.lists(st.integers(0, 10), max_size=3),
    refusals=st.sets(st.integers(0, 15), max_size=3),
)
async def test_damage_death_and_refusals_in_any_order_end_well(
    kind: str, damages: list[Damage], deaths: list[int], refusals: set[int]
) -> None:
    world = world_of(kind)
    for number, damage in enumerate([*damages, None]):
        stop = deaths[number] if number < len(deaths) else 99
        await _interrupted(world, stop, refusals)
        if damage is not None:
            damage(world.arm)
    world.restart()
    await mend(world)
    is_whole(world)
    await is_gone(world)


async def _interrupted(world: World, stop: int, refusals: set[int]) -> None:
    count = itertools.count()

    def before(write: str) -> None:
        number = next(count)
        if number == stop:
            raise Killed
        if number in refusals:
            raise errors.Conflict("busy", code="AnotherOperationInProgress")

    world.arm.before = before
    try:
        await world.turn()
        await world.turn()
    except Killed:
        world.restart()
    world.cluster.agents_follow()


@pytest.mark.parametrize("kind", KINDS)
async def test_with_pool_and_prefix_gone_the_objects_still_go(kind: str) -> None:
    world = world_of(kind)
    await mend(world, 4)
    world.arm.sets.clear()
    world.arm.machines.clear()
    world.arm.nics.clear()
    world.arm.machine_nic.clear()
    world.arm.show_holders()
    for uid in list(world.arm.brought):
        del world.arm.brought[uid]
    await is_gone(world)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_pool_scaled_while_it_is_written_is_served_whole(kind: str) -> None:
    world = world_of(kind)
    done: list[str] = []

    def before(write: str) -> None:
        if write.startswith(("instance", "nic")) and not done:
            done.append(write)
            scaled_up(world.arm)

    world.arm.before = before
    await world.turn()
    assert done
    await mend(world, 4)
    is_whole(world)
