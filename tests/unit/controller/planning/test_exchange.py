"""Changes of spec: addresses are exchanged under gateways that have let go, and nothing is left."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import pytest

from egress_gateway.api.types import GatewayVmssProfile
from egress_gateway.controller.observed.inuse import END_SECONDS, GRACE_PERIOD
from egress_gateway.controller.planning.verdict import ServingGateway, Verdict
from egress_gateway.controller.reconcile import LINGER_SECONDS
from tests.unit.controller.fake_arm import GROUP, FakeArm, forbidden
from tests.unit.controller.test_reconcile import World

KINDS = ("scale-set", "machines")


def add_pool(arm: FakeArm, kind: str, name: str = "np", *, nodes: int = 2, size: int = 30) -> str:
    if kind == "machines":
        return arm.add_machines(name, machines=nodes, size=size)
    return arm.add_pool(name, instances=nodes, size=size)


class Guard:
    """Notes every write of a machine that somebody used at that moment, and the least number of
    gateways that were listed."""

    def __init__(self, world: World, uid: str = "a") -> None:
        self.world, self.uid = world, uid
        self.broken: list[str] = []
        world.arm.before = self.check

    def check(self, write: str) -> None:
        kind, _, name = write.partition(" ")
        if kind not in ("instance", "nic"):
            return
        sgc = self.world.cluster.objects[self.uid]
        used = frozenset().union(*self.world.cluster.using(sgc))
        if any(machine.endswith(self.machine(kind, name)) for machine in used):
            self.broken.append(write)

    def machine(self, kind: str, name: str) -> str:
        if kind == "nic":
            return "/" + name.removesuffix("-nic").lower()
        vmss, _, number = name.partition("/")
        return f"/{vmss}/virtualmachines/{number}".lower()


async def serve(world: World, **spec: Any) -> Verdict:
    world.cluster.write("a", **spec)
    await world.settle()
    world.cluster.agents_follow()
    return world.verdict("a")


async def follow(world: World, guard: Guard, rounds: int = 8) -> list[int]:
    """Lets status and agents take turns; how many gateways were listed in between."""
    counts = []
    for _ in range(rounds):
        await world.turn()
        world.cluster.agents_follow()
        counts.append(len(world.cluster.listed["a"]))
    assert guard.broken == []
    return counts


SWAPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "brought to brought": ({"public_ip_prefix_id": "one"}, {"public_ip_prefix_id": "two"}),
    "brought to managed": ({"public_ip_prefix_id": "one"}, {}),
    "managed to brought": ({}, {"public_ip_prefix_id": "two"}),
    "public to private": ({}, {"provision_public_ips": False}),
    "private to public": ({"provision_public_ips": False}, {}),
    "private to brought": ({"provision_public_ips": False}, {"public_ip_prefix_id": "one"}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("swap", SWAPS)
async def test_no_address_is_exchanged_under_a_gateway_in_use(
    kind: str, swap: str, world: World
) -> None:
    add_pool(world.arm, kind)
    ids = {name: world.arm.add_prefix(name) for name in ("one", "two")}
    before, after = ({k: ids.get(str(v), v) for k, v in spec.items()} for spec in SWAPS[swap])
    assert (await serve(world, **before)).settled
    guard = Guard(world)
    world.cluster.write("a", **after)
    counts = await follow(world, guard)
    assert min(counts) == 1  # the other half went on serving
    assert counts[-1] == 2
    verdict = world.verdict("a")
    assert verdict.settled
    assert verdict.serving
    if after.get("provision_public_ips", True):
        network = IPv4Network(verdict.serving.prefix or "")
        assert all(g.public in network for g in verdict.serving.gateways)
    else:
        assert not any(g.public for g in verdict.serving.gateways)
    managed = after.get("provision_public_ips", True) and "public_ip_prefix_id" not in after
    assert len(world.arm.made) == int(bool(managed))
    if kind == "machines":
        assert len(world.arm.publics) == (2 if after.get("provision_public_ips", True) else 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_status_never_mixes_prefixes(kind: str, world: World) -> None:
    add_pool(world.arm, kind, nodes=4, size=30)
    one, two = (IPv4Network(_network(world, n)) for n in ("one", "two"))
    await serve(world, public_ip_prefix_id=_id(world, "one"))
    guard = Guard(world)
    world.cluster.write("a", public_ip_prefix_id=_id(world, "two"))
    for _ in range(8):
        await follow(world, guard, rounds=1)
        serving = world.verdict("a").serving
        assert serving
        assert serving.gateways
        publics = {g.public for g in serving.gateways}
        assert publics <= set(one) or publics <= set(two)
        # Those that are about to be exchanged are told apart, while they have their old address.
        assert {g.public for g in serving.going} <= set(one)
        assert {g.provider_id for g in serving.going}.isdisjoint(
            g.provider_id for g in serving.gateways
        )
    assert publics <= set(two)


def _id(world: World, name: str) -> str:
    known = [p["id"] for p in world.arm.brought.values() if isinstance(p, dict)]
    return next((i for i in known if i.endswith(f"/{name}")), "") or world.arm.add_prefix(name)


def _network(world: World, name: str) -> str:
    document = world.arm.brought[_id(world, name).lower()]
    assert isinstance(document, dict)
    return str(document["properties"]["ipPrefix"])


@pytest.mark.parametrize("kind", KINDS)
async def test_a_pool_of_one_gateway_serves_nobody_for_a_moment(kind: str, world: World) -> None:
    add_pool(world.arm, kind, nodes=1)
    await serve(world)
    guard = Guard(world)
    world.cluster.write("a", provision_public_ips=False)
    counts = await follow(world, guard)
    assert 0 in counts
    assert counts[-1] == 1
    assert world.verdict("a").settled


@pytest.mark.parametrize("kind", KINDS)
async def test_an_agent_that_does_not_let_go_is_waited_for_a_minute(
    kind: str, world: World
) -> None:
    add_pool(world.arm, kind)
    await serve(world)
    world.cluster.write("a", provision_public_ips=False)
    for _ in range(3):
        await world.turn()
    written = len(world.arm.writes)
    assert "still use the old ones" in str(world.verdict("a").note)
    world.now += 30
    await world.turn()
    assert len(world.arm.writes) == written
    world.now += 31
    for _ in range(4):
        await world.turn()
        world.now += 61
    assert world.verdict("a").settled


@pytest.mark.parametrize(("nodes", "busy"), [(2, 0), (2, 1), (3, 0), (4, 1)])
async def test_a_machine_that_is_busy_for_ever_holds_up_no_exchange(
    nodes: int, busy: int, world: World
) -> None:
    world.arm.add_pool("np", instances=nodes)
    await serve(world, public_ip_prefix_id=_id(world, "one"))
    guard = Guard(world)
    (machines,) = world.arm.machines.values()
    machines[busy]["properties"]["provisioningState"] = "Updating"
    two = _id(world, "two")
    world.cluster.write("a", public_ip_prefix_id=two)
    counts = await follow(world, guard)
    assert min(counts) > 0
    serving = world.verdict("a").serving
    assert serving is not None
    assert serving.prefix == _network(world, "two")
    assert len(serving.gateways) == nodes - 1
    machines[busy]["properties"]["provisioningState"] = "Succeeded"
    await follow(world, guard)
    assert world.verdict("a").settled


@pytest.mark.parametrize("state", ["Failed", "Succeeded", "Canceled"])
@pytest.mark.parametrize("number", [0, 1])
async def test_an_address_of_the_prefix_before_is_exchanged_whatever_the_document_says(
    state: str, number: int, world: World
) -> None:
    """The write of the machine was taken and failed, for a neighbour's sake: its document has the
    new prefix, its network interface the old one's address."""
    world.arm.add_pool("np")
    one, two = _id(world, "one"), _id(world, "two")
    await serve(world, public_ip_prefix_id=two)
    (machines,) = world.arm.machines.values()
    machines[number]["properties"]["provisioningState"] = state
    nic = world.arm.nics[f"{machines[number]['id']}/networkInterfaces/nic"]
    (config,) = [c for c in nic["properties"]["ipConfigurations"] if c.get("public")]
    config |= {"prefix": one.lower(), "public": _network(world, "one").partition("/")[0]}
    await world.turn()
    world.cluster.agents_follow()
    await world.turn()
    serving = world.verdict("a").serving
    assert serving is not None
    assert len(serving.gateways) == 2
    assert world.verdict("a").settled


@pytest.mark.parametrize("kind", KINDS)
async def test_a_new_prefix_that_is_refused_takes_no_gateway_out_of_service(
    kind: str, world: World
) -> None:
    add_pool(world.arm, kind)
    await serve(world, public_ip_prefix_id=_id(world, "one"))
    two = _id(world, "two")

    def refuse(write: str) -> None:
        if write.startswith(("model", "address two")):
            raise forbidden(two)

    world.arm.before = refuse
    world.cluster.write("a", public_ip_prefix_id=two)
    for _ in range(5):
        await world.turn()
        world.cluster.agents_follow()
        serving = world.verdict("a").serving
        assert serving
        assert len(serving.gateways) == 2
    assert world.reason("a") == "AuthorizationFailed"
    world.arm.before = lambda write: None
    world.cluster.write("a", public_ip_prefix_id=two, default_route="azureNetworking")
    for _ in range(8):
        await world.turn()
        world.cluster.agents_follow()
    assert world.verdict("a").settled


async def test_a_restarted_controller_goes_on_where_it_was_cut_off(world: World) -> None:
    world.arm.add_pool("np")
    await serve(world, public_ip_prefix_id=_id(world, "one"))
    guard = Guard(world)
    world.cluster.write("a", public_ip_prefix_id=_id(world, "two"))
    for _ in range(8):
        await follow(world, guard, rounds=1)
        world.restart()
    await follow(world, guard, rounds=2)
    assert world.verdict("a").settled


@pytest.mark.parametrize(("old", "new"), [KINDS, KINDS[::-1]])
async def test_another_pool_serves_before_the_old_one_lets_go(
    old: str, new: str, world: World
) -> None:
    add_pool(world.arm, old, "np")
    key = add_pool(world.arm, new, "other")
    await serve(world)
    world.cluster.write("a", gateway_nodepool_name="other")
    for _ in range(3):
        await world.turn()  # agents still serve as before
    assert _carriers(world, "np") == 2
    world.cluster.agents_follow()
    for _ in range(3):
        await world.turn()
    assert _carriers(world, "np") == 0
    assert _carriers(world, "other") == 2
    assert world.verdict("a").settled
    assert world.arm.balancer_document is not None
    (rule,) = world.arm.balancer_document["properties"]["loadBalancingRules"]
    assert rule["properties"]["backendAddressPool"]["id"].endswith(key)


def _going(world: World) -> tuple[ServingGateway, ...]:
    serving = world.verdict("a").serving
    assert serving is not None
    return serving.going


def _carriers(world: World, pool: str) -> int:
    nics = [n for i, n in world.arm.nics.items() if f"aks-{pool}-" in i]
    nics += [n for name, n in world.arm.machine_nic.items() if f"aks-{pool}-" in name]
    configs = (c["name"] for nic in nics for c in nic["properties"]["ipConfigurations"])
    return len([name for name in configs if name.startswith("egressgateway-")])


@pytest.mark.parametrize("new", KINDS)
async def test_a_prefix_too_small_for_two_pools_moves_all_the_same(new: str, world: World) -> None:
    world.arm.add_pool("np", size=31)
    add_pool(world.arm, new, "other", size=31)
    prefix = world.arm.add_prefix("pip", 31)
    await serve(world, public_ip_prefix_id=prefix)
    world.cluster.write("a", gateway_nodepool_name="other", public_ip_prefix_id=prefix)
    for _ in range(6):
        await world.turn()
        world.cluster.agents_follow()
        world.now += 60  # twice the longest backoff
    assert world.verdict("a").settled
    assert (_carriers(world, "np"), _carriers(world, "other")) == (0, 2)
    assert _going(world) == ()


async def test_a_managed_prefix_follows_the_size_that_is_asked_for(world: World) -> None:
    world.arm.add_pool("np")
    profile = {"vmss_resource_group": GROUP, "vmss_name": "aks-np-vmss"}
    for size in (30, 31, 29):
        spec = GatewayVmssProfile(**profile, public_ip_prefix_size=size)
        world.cluster.write("a", gateway_nodepool_name="", gateway_vmss_profile=spec)
        for _ in range(8):
            await world.turn()
            world.cluster.agents_follow()
        verdict = world.verdict("a")
        assert verdict.settled, verdict
        assert verdict.serving
        assert IPv4Network(verdict.serving.prefix or "").prefixlen == size
        assert len(world.arm.made) == 1
    world.cluster.delete("a")
    await world.settle()
    await world.settle()
    assert world.arm.made == {}
    assert world.cluster.objects == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heard", [True, False])
async def test_addresses_of_a_deleted_configuration_wait_for_its_gateways(
    heard: bool, kind: str, world: World
) -> None:
    """Whoever gets a private address next must not find another one's packets on it."""
    add_pool(world.arm, kind, "np")
    await serve(world)
    writes = len(world.arm.writes)
    world.cluster.delete("a", heard=False)
    await world.settle()
    assert len(world.arm.writes) == writes
    assert world.reason("a") == "Deleting"
    world.cluster.write("b")
    await world.settle()
    assert world.verdict("b").settled, "nobody else waits for it"
    assert _carriers(world, "np") == 4
    if heard:
        world.cluster.agents_follow()
    else:  # a dead agent says nothing, and the nodes hold its pods back
        world.now += END_SECONDS
    await world.settle()
    await world.settle()
    assert world.cluster.objects.keys() == {"b"}
    assert _carriers(world, "np") == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alone", [True, False])
async def test_addresses_that_may_still_carry_packets_of_a_deleted_configuration_stay(
    alone: bool, kind: str, world: World
) -> None:
    """A gateway and a node that both cannot hear go on. The object goes, others are served, and
    nobody gets the address until one of the two has spoken."""
    add_pool(world.arm, kind, "np")
    before = await serve(world)
    assert before.serving
    deaf, _ = (g.provider_id.lower() for g in before.serving.gateways)
    world.cluster.claimed["a"] = world.cluster.carried["a"] = frozenset({deaf})
    world.cluster.delete("a", heard=False)
    await world.settle()
    world.now += END_SECONDS
    await world.settle()
    assert _carriers(world, "np") == 1
    others = set() if alone else {"b"}
    for other in others:
        world.cluster.write(other)
        await world.settle()
        assert world.verdict(other).settled, "nobody else waits for it"
    world.now += LINGER_SECONDS
    await world.settle()
    await world.settle()
    assert world.cluster.objects.keys() == others
    assert _carriers(world, "np") == 1 + 2 * len(others)
    assert "a" in world.cluster.keypairs.recorded()
    world.cluster.carried.clear()
    world.cluster.agents_spoke(["a"])
    await world.settle()
    await world.settle()
    assert _carriers(world, "np") == 2 * len(others)
    assert world.cluster.keypairs.recorded() == others


@pytest.mark.parametrize(("old", "new"), [KINDS, KINDS[::-1]])
async def test_the_gateways_of_the_pool_before_are_told_apart_until_their_addresses_are_gone(
    old: str, new: str, world: World
) -> None:
    """Their agents hear nothing and claim for good to serve; the prefix may be another's soon."""
    add_pool(world.arm, old, "np")
    add_pool(world.arm, new, "other")
    before = await serve(world)
    assert before.serving
    world.cluster.write("a", gateway_nodepool_name="other")
    for _ in range(3):
        await world.turn()
    assert _carriers(world, "np") == 2
    going = _going(world)
    assert {g.provider_id for g in going} == {g.provider_id for g in before.serving.gateways}
    for _ in range(3):
        world.now += GRACE_PERIOD
        await world.turn()
    assert _carriers(world, "np") == 0
    assert _going(world) == ()
