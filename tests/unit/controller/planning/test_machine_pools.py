"""Pools made of machines: NICs and public addresses, settled by the same plan as scale sets."""

from __future__ import annotations

import itertools
import json
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress_gateway.cloud.azure.machines import (
    address_name,
    fnv1a,
    pool_key,
    read_pools,
    spare_name,
)
from egress_gateway.cloud.protocol import PoolRef
from egress_gateway.controller.apply import Writer
from tests.unit.controller.fake_arm import FakeArm, Killed
from tests.unit.controller.planning.test_plan import look, one_pass, settle, wanted


def test_names_are_those_that_the_go_project_gives() -> None:
    """Values recorded from its controller."""
    assert pool_key("npvms") == "1964e3d1-dff5-3258-925e-e3b3206b0b05"
    assert fnv1a("aks-npvms-0-gwnic") == "9d28410c46785c3b"
    prefix = "egressgateway-759719fd-033e-4602-91a7-af10b01a48b1"
    assert address_name(prefix, "aks-npvms-1-gwnic") == f"{prefix}-95d0aeae783ec240"


@pytest.mark.parametrize(("text", "digits"), [("", "cbf29ce484222325"), ("a", "af63dc4c8601ec8c")])
def test_the_hash_is_fnv_1a(text: str, digits: str) -> None:
    assert fnv1a(text) == digits


def test_a_pool_is_what_its_nics_say() -> None:
    arm = FakeArm()
    arm.add_machines("npvms", size=29)
    arm.machine_nic["stray"] = {"id": "/x", "name": "stray", "tags": {"aks-managed-poolName": "np"}}
    (pool,) = read_pools(arm.machine_nic.values())
    assert (pool.kind, pool.name, pool.prefix_size) == ("machines", "npvms", 29)
    assert pool.subnet.endswith("/aks-subnet")


async def test_public_addresses_come_from_the_prefix_and_are_made_before_the_nic_uses_them() -> (
    None
):
    arm = FakeArm()
    key = arm.add_machines("npvms")
    prefix = arm.add_prefix("pip")
    verdict = (await settle(arm, [wanted("a", prefix_id=prefix)], key)).verdicts["a"]
    assert verdict.settled
    assert verdict.serving
    network = IPv4Network(verdict.serving.prefix or "")
    assert {g.public for g in verdict.serving.gateways} <= set(network)
    assert sorted(arm.publics) == sorted(address_name("pip", nic) for nic in arm.machine_nic)
    for nic in arm.machine_nic:
        made = arm.writes.index(f"address {address_name('pip', nic)}")
        assert made < arm.writes.index(f"nic {nic}")


@pytest.mark.parametrize("length", [1, 46, 47, 63, 64, 80])
async def test_names_of_addresses_fit_and_are_told_apart_and_known_again(length: int) -> None:
    """Azure takes 80 characters, and a prefix's name may have as many."""
    arm = FakeArm()
    key = arm.add_machines("npvms")
    first, second = (arm.add_prefix("p" * (length - 1) + end, 30) for end in "ab")
    two = [wanted(uid, prefix_id=first) for uid in "ab"]
    await settle(arm, [*two, wanted("c", prefix_id=second)], key)
    assert len(arm.publics) == 6
    assert max(map(len, arm.publics)) <= 80
    for public in arm.publics.values():
        public.pop("tags", None)  # by their names alone
    leaving = [wanted(uid, prefix_id=first, leaving=True) for uid in "abc"]
    await settle(arm, leaving, key)
    assert arm.publics == {}


async def test_a_settled_pool_is_left_alone() -> None:
    """The Go project rewrites NICs for ever: it compares names that a NIC does not carry."""
    arm = FakeArm()
    key = arm.add_machines("npvms")
    wishes = [wanted("a"), wanted("b", private=True)]
    await settle(arm, wishes, key)
    writes = len(arm.writes)
    for _ in range(3):
        decided, _ = await one_pass(arm, wishes, key)
        assert decided.empty
    assert len(arm.writes) == writes
    assert len([w for w in arm.writes if w.startswith("nic")]) <= 4, "private ones do not wait"


async def test_two_configurations_share_a_prefix_on_the_same_nics() -> None:
    arm = FakeArm()
    key = arm.add_machines("npvms")
    prefix = arm.add_prefix("pip", 30)
    wishes = [wanted("a", prefix_id=prefix), wanted("b", prefix_id=prefix)]
    verdicts = (await settle(arm, wishes, key)).verdicts
    addresses = [g.public for v in verdicts.values() if v.serving for g in v.serving.gateways]
    assert len(set(addresses)) == 4
    names = {address_name("pip", n) for n in arm.machine_nic}
    spares = {spare_name("pip", n, f"egressgateway-{u}") for n in arm.machine_nic for u in "ab"}
    assert set(arm.publics) < names | spares
    await settle(arm, [wanted("a", leaving=True), wishes[1]], key)
    assert len(arm.publics) == 2


async def test_nothing_is_left_of_what_has_gone() -> None:
    arm = FakeArm()
    key = arm.add_machines("npvms")
    before = json.dumps(_bare(arm), sort_keys=True)
    prefix = arm.add_prefix("pip")
    await settle(arm, [wanted("a"), wanted("b", prefix_id=prefix), wanted("c", private=True)], key)
    gone = await settle(arm, [wanted(u, leaving=True) for u in "abc"], key, passes=8)
    assert all(v.gone for v in gone.verdicts.values())
    assert arm.publics == {}
    assert arm.made == {}
    assert arm.balancer_document is None
    assert json.dumps(_bare(arm), sort_keys=True) == before


def _bare(arm: FakeArm) -> dict[str, object]:
    found = json.loads(json.dumps(arm.machine_nic))
    for nic in found.values():
        del nic["etag"]
        for config in nic["properties"]["ipConfigurations"]:
            if not config["properties"].get("loadBalancerBackendAddressPools"):
                config["properties"].pop("loadBalancerBackendAddressPools", None)
    return dict(found)


async def test_public_and_private_are_exchanged_without_moving_the_private_address() -> None:
    arm = FakeArm()
    key = arm.add_machines("npvms")
    public = (await settle(arm, [wanted("a")], key)).verdicts["a"].serving
    private = (await settle(arm, [wanted("a", private=True)], key)).verdicts["a"].serving
    assert public
    assert private
    assert [g.secondary for g in public.gateways] == [g.secondary for g in private.gateways]
    assert arm.publics == {}
    assert arm.made == {}
    again = (await settle(arm, [wanted("a")], key)).verdicts["a"].serving
    assert again
    assert all(g.public for g in again.gateways)


async def test_an_address_of_a_machine_that_is_gone_goes_too() -> None:
    arm = FakeArm()
    key = arm.add_machines("npvms", machines=3)
    await settle(arm, [wanted("a")], key)
    nic = next(iter(arm.machine_nic))
    del arm.machine_nic[nic]
    arm.show_holders()
    await settle(arm, [wanted("a")], key)
    assert len(arm.publics) == 2


async def test_a_nic_without_a_machine_holds_no_address() -> None:
    arm = FakeArm()
    key = arm.add_machines("npvms", machines=2, size=31)
    await settle(arm, [wanted("a", prefix_size=31)], key)
    left = next(iter(arm.machine_nic.values()))
    del left["properties"]["virtualMachine"]
    arm.add_machine("npvms", 7, size=31)
    verdict = (await settle(arm, [wanted("a", prefix_size=31)], key, passes=8)).verdicts["a"]
    assert verdict.settled
    assert verdict.serving
    assert len(verdict.serving.gateways) == 2
    assert len(left["properties"]["ipConfigurations"]) == 2
    assert len(arm.machine_nic[left["name"]]["properties"]["ipConfigurations"]) == 1


async def test_a_pool_that_vanished_leaves_no_addresses_behind() -> None:
    arm = FakeArm()
    key = arm.add_machines("npvms")
    await settle(arm, [wanted("a")], key)
    arm.machine_nic.clear()
    arm.show_holders()
    decided = await settle_vanished(arm, key)
    assert decided
    assert arm.publics == {}
    assert arm.made == {}
    assert arm.balancer_document is None


async def settle_vanished(arm: FakeArm, key: str) -> bool:
    cloud = arm.cloud()
    for _ in range(6):
        pool = PoolRef(key=key, kind="vanished")
        decided = await look(cloud, pool, [wanted("a", leaving=True)])
        if decided.empty:
            return decided.verdicts["a"].gone
        await Writer(cloud).apply("pool", decided)
    return False


STATES = st.lists(
    st.fixed_dictionaries(
        {
            "uid": st.sampled_from("abc"),
            "private": st.booleans(),
            "brought": st.booleans(),
            "leaving": st.booleans(),
        }
    ),
    max_size=3,
    unique_by=lambda w: w["uid"],
)


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(STATES, min_size=1, max_size=3), stop=st.integers(0, 12))
async def test_killed_anywhere_it_comes_to_the_same_end(
    steps: list[list[dict[str, object]]], stop: int
) -> None:
    arm = FakeArm()
    key = arm.add_machines("npvms", size=28)
    prefix = arm.add_prefix("pip", 28)
    known: dict[str, object] = {}
    for wishes in steps:
        given_now = [
            wanted(
                str(w["uid"]),
                prefix_size=28,
                private=w["private"],
                prefix_id=prefix if w["brought"] and not w["private"] else "",
                leaving=w["leaving"],
            )
            for w in wishes
        ]
        gone = [wanted(u, leaving=True) for u in known if u not in {w.uid for w in given_now}]
        _interrupt(arm, stop)
        for _ in range(2):
            try:
                await one_pass(arm, [*given_now, *gone], key)
            except Killed:
                break
        arm.before = lambda write: None
        known |= dict.fromkeys(w.uid for w in given_now)
        decided = await settle(arm, [*given_now, *gone], key, passes=10)
        present = {w.names.ip_config for w in given_now if not w.leaving}
        assert arm.managed_names() == present
        public = [w for w in given_now if not w.leaving and not w.private]
        assert len(arm.publics) == 2 * len(public)
        addresses = [p["properties"]["ipAddress"] for p in arm.publics.values()]
        assert len({IPv4Address(a) for a in addresses}) == len(addresses)
        assert len(arm.made) == len([w for w in public if not w.prefix_id])
        for w in given_now:
            verdict = decided.verdicts[w.uid]
            assert verdict.gone if w.leaving else verdict.settled


def _interrupt(arm: FakeArm, stop: int) -> None:
    counter = itertools.count()

    def before(write: str) -> None:
        if next(counter) == stop:
            raise Killed

    arm.before = before
