"""Microsoft.Compute's token buckets, half of them used up by others, and a controller that lives
with what is left: hours of virtual time against the real emulator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from egress_gateway.cloud.azure.account.config import parse
from egress_gateway.cloud.azure.cloud import AzureCloud
from egress_gateway.cloud.azure.requests.client import ArmClient
from egress_gateway.cloud.azure.requests.pacing import Pace
from egress_gateway.controller.reconcile import SURVEY, Reconciler
from egress_gateway_lab.azure.client import RequestFailed
from egress_gateway_lab.azure.providers.compute.scalesets import Instances
from tests.contract.controller.azure_lab import AzureLab, azure_lab
from tests.unit.controller.test_reconcile import FakeCluster

HOUR = 3600.0


class VirtualClock:
    """Time that passes when somebody says so. Operations of the emulator take none of it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)

    async def pass_by(self, seconds: float) -> None:
        self.now += seconds


class Hours:
    """A controller whose keys are worked off when they are due."""

    def __init__(self, lab: AzureLab, clock: VirtualClock) -> None:
        self.lab, self.clock, self.cluster = lab, clock, FakeCluster()
        self.problems: set[str] = set()
        """Reasons of all that anybody was told."""
        pace = Pace(clock.time, clock.pass_by)
        config = parse(lab.config)
        self.cloud = AzureCloud(config, ArmClient(config, pace), clock=clock.time)
        self.reconciler = Reconciler(
            self.cloud,
            self.cluster,  # type: ignore[arg-type]
            drift_interval=60,
            retry_limit=30,
            clock=clock.time,
        )

    async def run(self, seconds: float, *, every: float | None = None) -> None:
        """``every``: so often something else than time wakes the pools (Nodes that change)."""
        end = self.clock.now + seconds
        due = {SURVEY: self.clock.now}
        while (now := min(due.values())) < end:
            self.clock.now = max(self.clock.now, now)
            key = min(due, key=due.__getitem__)
            delay = await self.reconciler.handle(key)
            due[key] = self.clock.now + min(delay or HOUR, every or HOUR)
            if key == SURVEY:
                due |= dict.fromkeys(self.reconciler.pools, self.clock.now)
            for uid in [*self.cluster.objects]:
                await self.reconciler.report(uid)
                if uid in self.cluster.told and (problem := self.cluster.told[uid].problem):
                    self.problems.add(problem.reason)
        self.clock.now = end

    def throttled(self) -> list[str]:
        mine = self.lab.machines.identity
        asked = (r for r in self.lab.emulator.requests if r.client_id == mine)
        return [f"{r.method} {r.path}" for r in asked if r.status == 429]

    def instance(self, number: int) -> str:
        found = self.lab.emulator.azure.store.of_type(Instances.type)
        return str([i for i in found if "npegress" in i["id"]][number]["id"])

    async def use_up(self) -> None:
        """Somebody reads the scale set until Azure has enough of it."""
        for _ in range(40):
            path = self.instance(0).partition("/virtualMachines/")[0]
            await self.lab.person.get(path, "2025-04-01")

    def busy(self, instance: str) -> None:
        """Somebody else's write of it is under way and does not end."""
        Instances(self.lab.emulator.azure).set_state(instance, "Updating")


@pytest.fixture
async def hours(tmp_path: Path) -> AsyncIterator[Hours]:
    clock = VirtualClock()
    async with azure_lab(tmp_path, clock=clock) as lab:
        await lab.add_pool("npegress")
        made = Hours(lab, clock)
        try:
            for name in ("one", "two"):
                made.cluster.write(name, gateway_nodepool_name="npegress")
            await made.run(120)
            assert all(made.cluster.told[name].settled for name in ("one", "two"))
            yield made
        finally:
            await made.reconciler.close()
            await made.cloud.close()


async def test_the_buckets_are_on_by_default(hours: Hours) -> None:
    with pytest.raises(RequestFailed) as refused:
        await hours.use_up()
    assert refused.value.status == 429


async def test_an_hour_at_rest_without_a_429(hours: Hours) -> None:
    await hours.run(HOUR)
    assert hours.throttled() == []


async def test_an_hour_of_waiting_for_a_busy_instance_without_a_429(hours: Hours) -> None:
    hours.busy(hours.instance(0))
    hours.cluster.delete("one")
    await hours.run(HOUR)
    assert hours.throttled() == []
    assert "one" in hours.cluster.keypairs.made, "it still waits for the instance"


async def test_waiting_for_a_role_without_a_429(hours: Hours) -> None:
    prefix = await hours.lab.add_prefix("pip")
    hours.cluster.write("three", gateway_nodepool_name="npegress", public_ip_prefix_id=prefix)
    await hours.run(HOUR / 2)
    assert not hours.cluster.told["three"].settled
    assert hours.throttled() == []


@pytest.mark.parametrize("every", [0.5, 3.0, 7.0])
async def test_nodes_that_change_without_a_429(hours: Hours, every: float) -> None:
    """As during an upgrade of the node image: each change has the pool looked at."""
    await hours.run(HOUR / 4, every=every)
    assert hours.throttled() == []


async def test_what_others_used_up_is_waited_for_and_everything_goes_on(hours: Hours) -> None:
    """The autoscaler took the last token: Azure says when, and nobody loses anything."""
    with pytest.raises(RequestFailed):
        await hours.use_up()
    hours.cluster.write("three", gateway_nodepool_name="npegress")
    await hours.run(300)
    assert hours.cluster.told["three"].settled


@pytest.mark.parametrize("times", [1, 3])
async def test_one_poll_too_many_is_no_refusal_of_the_write(hours: Hours, times: int) -> None:
    polls = "/(operations|operationResults)/"
    faults = hours.lab.emulator.faults
    rule = faults.add("throttle", method="GET", path=polls, times=times, retry_after=1)
    before = len(hours.lab.emulator.requests)
    hours.cluster.write("three", gateway_nodepool_name="npegress")
    await hours.run(120)
    assert hours.cluster.told["three"].settled
    assert rule.hits == times
    seen = list(hours.lab.emulator.requests)[before:]
    writes = [r.path for r in seen if r.method == "PUT"]
    assert len(writes) == len(set(writes)), "nothing is written twice"
    assert "Throttled" not in hours.problems
