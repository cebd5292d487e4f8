"""The shipped Azure code, through the real SDKs, against ARM's emulator."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import pytest

from egress_gateway.cloud import errors
from egress_gateway.cloud.protocol import CreatePrefix, DeletePrefix
from egress_gateway.controller.apply import Refusal, apply
from egress_gateway.controller.plan import Names, Plan, Wanted, plan
from tests.contract.controller.azure_lab import AzureLab, azure_lab

Story = Callable[[AzureLab], Awaitable[None]]


@pytest.fixture
def in_lab(tmp_path: Path) -> Callable[[Story], None]:
    """Runs a story in a fresh lab."""

    def run(story: Story) -> None:
        async def main() -> None:
            async with azure_lab(tmp_path) as lab:
                await story(lab)

        asyncio.run(main())

    return run


def wanted(uid: str, **fields: object) -> Wanted:
    given = {"prefix_size": 30} | fields
    return Wanted(uid=uid, names=Names.of(uid), **given)  # type: ignore[arg-type]


async def one_pass(lab: AzureLab, wishes: Iterable[Wanted]) -> tuple[Plan, list[Refusal]]:
    cloud, wishes = lab.cloud, list(wishes)
    pool = next(p for p in await cloud.pools() if p.name == "npegress")
    state = await cloud.observe(pool, {w.prefix_id for w in wishes if w.prefix_id})
    ids = {w.names.ip_config: cloud.managed_prefix_id(w.names.ip_config) for w in wishes}
    decided = plan(state, wishes, subscription=cloud.subscription, managed_ids=ids)
    return decided, await apply(cloud, decided)


async def settle(lab: AzureLab, wishes: Iterable[Wanted]) -> Plan:
    wishes = list(wishes)
    for _ in range(6):
        decided, refusals = await one_pass(lab, wishes)
        if decided.empty:
            return decided
        assert not refusals, refusals[0].error
    raise AssertionError(f"still busy: {decided.stages}")


def test_a_pool_is_found_by_its_tag(in_lab: Callable[[Story], None]) -> None:
    async def story(lab: AzureLab) -> None:
        await lab.add_pool("npegress", size=30)
        pool = next(p for p in await lab.cloud.pools() if p.name == "npegress")
        assert pool.prefix_size == 30
        assert pool.key
        assert pool.subnet.endswith("/subnets/aks-subnet")

    in_lab(story)


def test_brought_and_managed_prefix_are_served_and_removed(
    in_lab: Callable[[Story], None],
) -> None:
    async def story(lab: AzureLab) -> None:
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

    in_lab(story)


def test_without_a_role_on_the_prefix_the_refusal_names_who_lacks_what_where(
    in_lab: Callable[[Story], None],
) -> None:
    async def story(lab: AzureLab) -> None:
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

    in_lab(story)


def test_reading_a_prefix_is_not_enough_to_use_it(in_lab: Callable[[Story], None]) -> None:
    async def story(lab: AzureLab) -> None:
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
        assert error.scope.lower() == prefix.lower()
        assert error.role == "Network Contributor"

    in_lab(story)


def test_azure_says_no_in_many_ways(in_lab: Callable[[Story], None]) -> None:
    async def story(lab: AzureLab) -> None:
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

    in_lab(story)
