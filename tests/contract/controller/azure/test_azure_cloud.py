"""The shipped Azure code, through the real SDKs, against ARM's emulator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from egress_gateway.cloud import errors
from egress_gateway.cloud.protocol import CreatePrefix, DeletePrefix
from egress_gateway.controller.apply import FailedStep, Writer
from egress_gateway.controller.planning.plan import Plan, plan
from egress_gateway.controller.planning.wanted import Names, Wanted
from tests.contract.controller.azure_lab import AzureLab, azure_lab


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[AzureLab]:
    """A fresh one."""
    async with azure_lab(tmp_path) as made:
        yield made


def wanted(uid: str, **fields: object) -> Wanted:
    given = {"prefix_size": 30} | fields
    return Wanted(uid=uid, names=Names.of(uid), **given)  # type: ignore[arg-type]


async def look(lab: AzureLab, wishes: Iterable[Wanted], name: str) -> Plan:
    cloud, wishes = lab.cloud, list(wishes)
    pool = next(p for p in await cloud.pools() if p.name == name)
    state = await cloud.observe(pool, {w.prefix_id for w in wishes if w.prefix_id})
    ids = {w.names.ip_config: cloud.managed_prefix_id(w.names.ip_config) for w in wishes}
    return plan(state, wishes, advice=cloud.advice, managed_ids=ids)


async def one_pass(
    lab: AzureLab, wishes: Iterable[Wanted], pool: str = "npegress"
) -> tuple[Plan, list[FailedStep]]:
    decided = await look(lab, wishes, pool)
    return decided, (await Writer(lab.cloud).apply("pool", decided)).refusals


async def settle(lab: AzureLab, wishes: Iterable[Wanted], pool: str = "npegress") -> Plan:
    wishes = list(wishes)
    for _ in range(6):
        decided, refusals = await one_pass(lab, wishes, pool)
        if decided.empty:
            return decided
        assert not refusals, refusals[0].error
    raise AssertionError(f"still busy: {decided.stages}")


async def test_a_pool_is_found_by_its_tag(lab: AzureLab) -> None:
    await lab.add_pool("npegress", size=30)
    pool = next(p for p in await lab.cloud.pools() if p.name == "npegress")
    assert pool.prefix_size == 30
    assert pool.key
    assert pool.subnet.endswith("/subnets/aks-subnet")


async def test_brought_and_managed_prefix_are_served_and_removed(lab: AzureLab) -> None:
    await lab.add_pool("npegress")
    before = await lab.resources()
    prefix = await lab.add_prefix("pip-prefix-egress")
    await lab.grant(prefix)
    both = [wanted("brought", prefix_id=prefix), wanted("managed")]
    decided = await settle(lab, both)
    for uid, port in (("brought", 6000), ("managed", 6001)):
        verdict = decided.verdicts[uid]
        assert verdict.settled, verdict
        assert verdict.serving is not None
        assert verdict.serving.port == port
        providers = {g.provider_id.lower() for g in verdict.serving.gateways}
        known = {m.provider_id.lower() for m in lab.machines.machines.values()}
        assert len(providers) == 2
        assert providers <= known
    assert await lab.resources() > before
    gone = await settle(lab, [wanted("brought", leaving=True), wanted("managed", leaving=True)])
    assert all(verdict.gone for verdict in gone.verdicts.values())
    assert await lab.resources() == before


async def test_machines_are_served_publicly_and_privately_and_left_as_they_were(
    lab: AzureLab,
) -> None:
    await lab.add_pool("npegress", kind="VirtualMachines")
    before = await lab.resources()
    prefix = await lab.add_prefix("pip-prefix-egress")
    await lab.grant(prefix)
    wishes = [wanted("b", prefix_id=prefix), wanted("m"), wanted("p", private=True)]
    decided = await settle(lab, wishes)
    known = {m.provider_id.lower() for m in lab.machines.machines.values()}
    for uid in "bmp":
        verdict = decided.verdicts[uid]
        assert verdict.settled, verdict
        assert verdict.serving is not None
        assert {g.provider_id.lower() for g in verdict.serving.gateways} <= known
        assert len(verdict.serving.gateways) == 2
    private = decided.verdicts["p"].serving
    assert private
    # AKS makes a NIC for each address of the pool; all keep theirs, serving or not.
    listed = (private.prefix or "").split(",")
    assert len(set(listed)) == 4
    assert {str(g.secondary) for g in private.gateways} < set(listed)
    gone = await settle(lab, [wanted(uid, leaving=True) for uid in "bmp"])
    assert all(verdict.gone for verdict in gone.verdicts.values())
    assert await lab.resources() == before


async def test_public_and_private_are_exchanged_on_both_kinds_of_pool(lab: AzureLab) -> None:
    for kind in ("VirtualMachines", "VirtualMachineScaleSets"):
        pool = "np" + kind[-3:].lower()
        await lab.add_pool(pool, kind=kind)
        for private in (False, True, False):
            wish = wanted(kind, private=private)
            serving = (await settle(lab, [wish], pool)).verdicts[kind].serving
            assert serving is not None
            assert all((g.public is None) == private for g in serving.gateways)
        await settle(lab, [wanted(kind, leaving=True)], pool)


async def test_a_nic_that_somebody_else_wrote_meanwhile_is_not_overwritten(lab: AzureLab) -> None:
    await lab.add_pool("npegress", kind="VirtualMachines", size=31)
    pool = next(p for p in await lab.cloud.pools() if p.name == "npegress")
    decided = await look(lab, [wanted("p", private=True)], "npegress")
    nic = await lab.person.get(pool.resource_id, "2024-05-01")
    await lab.person.put(pool.resource_id, nic | {"tags": nic["tags"] | {"a": "b"}}, "2024-05-01")
    (refusal,) = (await Writer(lab.cloud).apply("pool", decided)).refusals
    assert isinstance(refusal.error, errors.Conflict)
    await settle(lab, [wanted("p", private=True)])
    assert (await lab.person.get(pool.resource_id, "2024-05-01"))["tags"]["a"] == "b"


async def test_without_a_role_on_the_prefix_the_refusal_names_who_lacks_what_where(
    lab: AzureLab,
) -> None:
    await lab.add_pool("npegress")
    prefix = await lab.add_prefix("pip-prefix-egress")
    wish = wanted("a", prefix_id=prefix)
    decided, _ = await one_pass(lab, [wish])
    problem = decided.verdicts["a"].problem
    assert problem is not None
    assert problem.reason == "AuthorizationFailed"
    for word in (lab.principal, "Network Contributor", prefix, "az role assignment create"):
        assert word in problem.message
    await lab.grant(prefix)
    assert (await settle(lab, [wish])).verdicts["a"].settled


async def test_reading_a_prefix_is_not_enough_to_use_it(lab: AzureLab) -> None:
    await lab.add_pool("npegress")
    prefix = await lab.add_prefix("pip-prefix-egress")
    reader = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
    role = prefix.split("/resourceGroups")[0] + (
        f"/providers/Microsoft.Authorization/roleDefinitions/{reader}"
    )
    await lab.person.put(
        f"{prefix}/providers/Microsoft.Authorization/roleAssignments"
        "/00000000-0000-0000-0000-00000000000b",
        {"properties": {"roleDefinitionId": role, "principalId": lab.principal}},
        "2022-04-01",
    )
    _, refusals = await one_pass(lab, [wanted("a", prefix_id=prefix), wanted("b")])
    error = refusals[0].error
    assert isinstance(error, errors.Forbidden)
    assert [scope.lower() for scope in error.related] == [prefix.lower()]
    assert 'az role assignment create --role "Network Contributor"' in error.mend


async def test_azure_says_no_in_many_ways(lab: AzureLab) -> None:
    create = CreatePrefix(name="egressgateway-x", size=30)
    faults = lab.emulator.faults
    faults.add("throttle", method="PUT", path="publicIPPrefixes", retry_after=7)
    with pytest.raises(errors.Throttled) as throttled:
        await lab.cloud.apply(create)
    assert throttled.value.retry_after == 7
    faults.add("conflict", method="PUT", path="publicIPPrefixes")
    with pytest.raises(errors.Conflict):
        await lab.cloud.apply(create)
    faults.add("fail-operation", method="PUT", path="publicIPPrefixes", code="QuotaExceeded")
    with pytest.raises(errors.Quota):
        await lab.cloud.apply(create)
    faults.add("error", method="PUT", path="publicIPPrefixes", status=503, times=3)
    with pytest.raises(errors.Unavailable):
        await lab.cloud.apply(create)
    await lab.cloud.apply(create)
    await lab.cloud.apply(DeletePrefix(name="egressgateway-x"))
    await lab.cloud.apply(DeletePrefix(name="egressgateway-x"))


async def test_a_load_balancer_whose_write_failed_is_written_again(lab: AzureLab) -> None:
    await lab.add_pool("npegress", size=30)
    lab.emulator.faults.add("fail-operation", method="PUT", path="loadBalancers/kube")
    _, refusals = await one_pass(lab, [wanted("a")])
    assert [type(r.error) for r in refusals] == [errors.Unavailable]
    assert (await lab.cloud.balancer()).failed
    decided = await settle(lab, [wanted("a")])
    assert decided.verdicts["a"].settled
    assert not (await lab.cloud.balancer()).failed


async def test_a_public_address_whose_write_failed_is_written_again(lab: AzureLab) -> None:
    await lab.add_pool("npegress", size=31, kind="VirtualMachines")
    lab.emulator.faults.add("fail-operation", method="PUT", path="publicIPAddresses")
    _, refusals = await one_pass(lab, [wanted("a", prefix_size=31)])
    assert [type(r.error) for r in refusals] == [errors.Unavailable]
    verdict = (await settle(lab, [wanted("a", prefix_size=31)])).verdicts["a"]
    assert verdict.settled
    assert verdict.serving is not None
    assert len(verdict.serving.gateways) == 2
