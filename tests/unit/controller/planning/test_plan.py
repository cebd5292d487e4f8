"""The plan for a pool, carried out on Azure's documents: what settles, what stays untouched."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from egress_gateway.cloud import errors
from egress_gateway.cloud.azure.cloud import AzureCloud
from egress_gateway.cloud.protocol import PoolRef
from egress_gateway.controller.apply import FailedStep, Writer
from egress_gateway.controller.planning.plan import Plan, plan
from egress_gateway.controller.planning.wanted import Names, Wanted
from tests.unit.controller.fake_arm import GROUP, SUB, FakeArm, Killed, forbidden


def wanted(uid: str, **fields: object) -> Wanted:
    given_fields = {"prefix_size": 30} | fields
    return Wanted(uid=uid, names=Names.of(uid), **given_fields)  # type: ignore[arg-type]


async def look(cloud: AzureCloud, pool: PoolRef, wishes: list[Wanted]) -> Plan:
    state = await cloud.observe(pool, {w.prefix_id for w in wishes if w.prefix_id})
    ids = {w.names.ip_config: cloud.managed_prefix_id(w.names.ip_config) for w in wishes}
    return plan(state, wishes, advice=cloud.advice, managed_ids=ids)


async def one_pass(arm: FakeArm, wishes: list[Wanted], key: str) -> tuple[Plan, list[FailedStep]]:
    cloud = arm.cloud()
    pool = next(p for p in await cloud.pools() if p.key == key)
    decided = await look(cloud, pool, wishes)
    return decided, (await Writer(cloud).apply("pool", decided)).refusals


async def settle(arm: FakeArm, wishes: list[Wanted], key: str, passes: int = 6) -> Plan:
    for _ in range(passes):
        decided, _ = await one_pass(arm, wishes, key)
        if decided.empty:
            return decided
    raise AssertionError(f"still busy after {passes} passes: {decided.stages}")


async def test_new_configuration_with_a_brought_prefix_is_served_after_one_pass() -> None:
    arm = FakeArm()
    key = arm.add_pool("npegress")
    prefix = arm.add_prefix("pip-prefix-egress")
    await one_pass(arm, [wanted("a", prefix_id=prefix)], key)
    assert arm.writes == [
        "balancer",
        "model aks-npegress-vmss",
        "instance aks-npegress-vmss/0",
        "instance aks-npegress-vmss/1",
    ]
    verdict = (await settle(arm, [wanted("a", prefix_id=prefix)], key)).verdicts["a"]
    assert verdict.settled
    assert verdict.serving is not None
    assert verdict.serving.port == 6000
    assert verdict.serving.prefix == "203.0.113.0/30"
    assert [str(g.public) for g in verdict.serving.gateways] == ["203.0.113.0", "203.0.113.1"]


async def test_documents_have_the_shape_that_the_go_project_writes() -> None:
    arm = FakeArm()
    key = arm.add_pool("npegress")
    prefix = arm.add_prefix("pip-prefix-egress")
    await settle(arm, [wanted("uid-1", prefix_id=prefix)], key)
    assert arm.balancer_document is not None
    properties = arm.balancer_document["properties"]
    rule = properties["loadBalancingRules"][0]
    assert rule["name"] == "uid-1"
    assert rule["properties"] | {"probe": None, "frontendIPConfiguration": None} == {
        "protocol": "Udp",
        "frontendPort": 6000,
        "backendPort": 6000,
        "enableFloatingIP": True,
        "probe": None,
        "frontendIPConfiguration": None,
        "backendAddressPool": {
            "id": f"/subscriptions/{SUB}/resourceGroups/{GROUP}/providers/Microsoft.Network"
            f"/loadBalancers/kubeegressgateway-ilb/backendAddressPools/{key}"
        },
    }
    assert properties["probes"] == [
        {
            "name": "uid-1",
            "properties": {
                "protocol": "Http",
                "port": 8082,
                "requestPath": "/gw/uid-1",
                "intervalInSeconds": 5,
                "probeThreshold": 1,
            },
        }
    ]
    profile = arm.sets["aks-npegress-vmss"]["properties"]["virtualMachineProfile"]
    nic = profile["networkProfile"]["networkInterfaceConfigurations"][0]["properties"]
    assert nic["enableIPForwarding"] is True
    added = nic["ipConfigurations"][1]
    assert added["name"] == "egressgateway-uid-1"
    assert added["properties"]["primary"] is False
    public = added["properties"]["publicIPAddressConfiguration"]
    assert public == {
        "name": "egressgateway-uid-1",
        "properties": {"publicIPPrefix": {"id": prefix}},
    }


async def test_many_configurations_cost_one_write_per_document() -> None:
    arm = FakeArm()
    key = arm.add_pool("np", size=31)
    wishes = [wanted(f"u{n}", prefix_size=31) for n in range(15)]
    await settle(arm, wishes, key)
    documents = [w for w in arm.writes if not w.startswith("prefix")]
    assert sorted(documents) == [
        "balancer",
        "instance aks-np-vmss/0",
        "instance aks-np-vmss/1",
        "model aks-np-vmss",
    ]


async def test_the_last_configuration_takes_the_load_balancer_along() -> None:
    arm = FakeArm()
    key = arm.add_pool("np")
    await settle(arm, [wanted("a"), wanted("b")], key)
    decided = await settle(arm, [wanted("a", leaving=True), wanted("b", leaving=True)], key)
    assert decided.verdicts["a"].gone
    assert decided.verdicts["b"].gone
    assert arm.balancer_document is None
    assert arm.made == {}
    assert arm.managed_names() == set()
    joined = arm.sets["aks-np-vmss"]["properties"]["virtualMachineProfile"]["networkProfile"]
    primary = joined["networkInterfaceConfigurations"][0]["properties"]["ipConfigurations"][0]
    assert not primary["properties"].get("loadBalancerBackendAddressPools")


async def test_a_refused_prefix_is_said_and_holds_up_nobody() -> None:
    arm = FakeArm()
    key = arm.add_pool("np")
    bad = arm.add_prefix("secret")
    arm.brought[bad.lower()] = forbidden(bad)
    wishes = [wanted("good"), wanted("refused", prefix_id=bad)]
    decided = await settle(arm, wishes, key)
    problem = decided.verdicts["refused"].problem
    assert problem is not None
    assert problem.reason == "AuthorizationFailed"
    assert "az role assignment create" in problem.message
    assert decided.verdicts["good"].settled
    assert arm.managed_names() == {"egressgateway-good"}


async def test_a_swapped_prefix_is_served_only_when_the_addresses_are_its() -> None:
    arm = FakeArm()
    key = arm.add_pool("np")
    first, second = arm.add_prefix("one"), arm.add_prefix("two")
    await settle(arm, [wanted("a", prefix_id=first)], key)
    during, _ = await one_pass(arm, [wanted("a", prefix_id=second)], key)
    assert during.verdicts["a"].serving is not None
    assert during.verdicts["a"].serving.prefix is None  # as reported before
    after = (await settle(arm, [wanted("a", prefix_id=second)], key)).verdicts["a"]
    assert after.serving is not None
    assert {str(g.public) for g in after.serving.gateways} == {"203.0.113.16", "203.0.113.17"}


async def test_other_peoples_rules_and_ip_configs_stay() -> None:
    arm = FakeArm()
    key = arm.add_pool("np")
    await settle(arm, [wanted("stranger")], key)
    decided = await settle(arm, [wanted("mine")], key)
    assert decided.verdicts["mine"].serving is not None
    assert decided.verdicts["mine"].serving.port == 6001
    await settle(arm, [wanted("mine", leaving=True)], key)
    assert arm.managed_names() == {"egressgateway-stranger"}
    assert arm.balancer_document is not None
    rules = arm.balancer_document["properties"]["loadBalancingRules"]
    assert [rule["name"] for rule in rules] == ["stranger"]


async def test_a_failed_instance_is_written_again_and_named_meanwhile() -> None:
    arm = FakeArm()
    key = arm.add_pool("np")

    def refuse(write: str) -> None:
        if write == "instance aks-np-vmss/1":
            raise errors.Failed("the machine is broken", code="InternalExecutionError")

    arm.before = refuse
    await one_pass(arm, [wanted("a")], key)
    decided, refusals = await one_pass(arm, [wanted("a")], key)
    verdict = decided.verdicts["a"]
    assert verdict.serving is not None
    assert len(verdict.serving.gateways) == 1
    assert "aks-np-vmss_1" in str(verdict.note)
    assert len(refusals) == 1
    arm.before = lambda write: None
    assert (await settle(arm, [wanted("a")], key)).verdicts["a"].settled


async def test_a_full_network_interface_refuses_newcomers_only() -> None:
    arm = FakeArm()
    key = arm.add_pool("np", instances=1, size=31)
    wishes = [wanted(f"u{n:03}", private=True) for n in range(255)]
    await settle(arm, wishes, key)
    decided = await settle(arm, [*wishes, wanted("late", private=True)], key)
    problem = decided.verdicts["late"].problem
    assert problem is not None
    assert "256" in problem.message
    assert decided.verdicts["u000"].settled


_UIDS = ("a", "b", "c", "d")
_modes = st.sampled_from(["absent", "managed", "brought", "private", "leaving"])
_wishes = st.lists(_modes, min_size=4, max_size=4)


def _as_wishes(modes: list[str], prefix: str) -> list[Wanted]:
    fields: dict[str, dict[str, Any]] = {
        "managed": {},
        "brought": {"prefix_id": prefix},
        "private": {"private": True},
        "leaving": {"leaving": True},
        "absent": {"leaving": True},
    }
    return [wanted(u, **fields[m]) for u, m in zip(_UIDS, modes, strict=True)]


def _check(arm: FakeArm, wishes: list[Wanted], decided: Plan) -> None:
    expected = {w.names.ip_config for w in wishes if not w.leaving}
    assert arm.managed_names() == expected
    document = arm.balancer_document
    rules = document["properties"]["loadBalancingRules"] if document else []
    assert {rule["name"] for rule in rules} == {w.uid for w in wishes if not w.leaving}
    ports = [rule["properties"]["frontendPort"] for rule in rules]
    assert len(set(ports)) == len(ports)
    managed = {w.names.ip_config for w in wishes if not (w.leaving or w.private or w.prefix_id)}
    assert set(arm.made) == managed
    for w in wishes:
        verdict = decided.verdicts[w.uid]
        assert verdict.gone if w.leaving else verdict.settled


@settings(max_examples=60, deadline=None)
@given(before=_wishes, after=_wishes)
async def test_any_change_converges_and_then_nothing_is_written(
    before: list[str], after: list[str]
) -> None:
    arm = FakeArm()
    key = arm.add_pool("np", size=28)
    prefix = arm.add_prefix("shared", 28)
    for modes in (before, after):
        wishes = [w if w.leaving else wanted_28(w) for w in _as_wishes(modes, prefix)]
        decided = await settle(arm, wishes, key)
        _check(arm, wishes, decided)
        writes = len(arm.writes)
        assert (await one_pass(arm, wishes, key))[0].empty
        assert len(arm.writes) == writes


def wanted_28(wish: Wanted) -> Wanted:
    return Wanted(
        uid=wish.uid,
        names=wish.names,
        private=wish.private,
        prefix_id=wish.prefix_id,
        prefix_size=28,
    )


@settings(max_examples=40, deadline=None)
@given(before=_wishes, after=_wishes, seed=st.integers(1, 3))
async def test_killed_before_any_write_it_still_converges(
    before: list[str], after: list[str], seed: int
) -> None:
    """Dies before every ``seed``-th write, again and again; each life gets that far at least."""
    arm = FakeArm()
    key = arm.add_pool("np", size=28)
    prefix = arm.add_prefix("shared", 28)
    first = [wanted_28(w) if not w.leaving else w for w in _as_wishes(before, prefix)]
    then = [wanted_28(w) if not w.leaving else w for w in _as_wishes(after, prefix)]
    await settle(arm, first, key)
    for _ in range(20):
        counter = itertools.count(1)

        def mortal(write: str, counter: itertools.count[int] = counter) -> None:
            if next(counter) > seed:
                raise Killed(write)

        arm.before = mortal
        try:
            decided, _ = await one_pass(arm, then, key)
        except Killed:
            continue
        if decided.empty:
            break
    arm.before = lambda write: None
    _check(arm, then, await settle(arm, then, key))
