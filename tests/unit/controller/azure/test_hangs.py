"""Writes that Azure takes and never ends, in virtual time: the bar is 30 s for everybody else.

Other writes take three seconds, as recorded. ``tests/contract/controller/test_as_azure_answers.py``
has the same on the emulator, with real clients.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from egress_gateway.controller.reconcile import SURVEY, Reconciler
from egress_gateway.kube.workqueue.queue import run_workers
from tests.unit.controller.fake_arm import FakeArm
from tests.unit.controller.test_reconcile import FakeCluster

pytestmark = pytest.mark.virtual_time

BAR = 30.0
WRITES = ("put_balancer", "put_prefix", "delete_prefix", "put_scale_set", "put_instance")


class SlowArm(FakeArm):
    """``hangs`` names writes that never end: a method, or ``put_instance/0``."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs: set[str] = set()
        for name in WRITES:
            setattr(self, name, self._slowly(name, getattr(self, name)))

    def _slowly(self, name: str, write: Callable[..., Awaitable[None]]) -> Any:
        async def written(*arguments: Any) -> None:
            place = f"{name}/{arguments[2]}" if name == "put_instance" else name
            if self.hangs & {name, place}:
                self._busy(place)
                await asyncio.Event().wait()
            await asyncio.sleep(3)
            await write(*arguments)

        return written

    def _busy(self, place: str) -> None:
        for machines in self.machines.values():
            for machine in machines:
                if place == f"put_instance/{machine['instanceId']}":
                    machine["properties"]["provisioningState"] = "Updating"


class Running:
    def __init__(self) -> None:
        self.arm, self.cluster = SlowArm(), FakeCluster()
        self.arm.add_pool("np", instances=2)

    @contextlib.asynccontextmanager
    async def controller(self) -> AsyncIterator[None]:
        reconciler = Reconciler(
            self.arm.cloud(),
            self.cluster,  # type: ignore[arg-type]
            drift_interval=60,
            retry_limit=30,
            clock=asyncio.get_running_loop().time,
        )
        reconciler.work.add(SURVEY)
        tasks = [
            asyncio.create_task(run_workers(reconciler.work, reconciler.handle, 4)),
            asyncio.create_task(run_workers(reconciler.reports, reconciler.report, 4)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await reconciler.close()

    async def within(self, seconds: float, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.1)

    def gateways(self, uid: str) -> int:
        verdict = self.cluster.told.get(uid)
        return len(verdict.serving.gateways) if verdict and verdict.serving else 0

    def said(self, uid: str) -> str:
        verdict = self.cluster.told.get(uid)
        return str(verdict.note or verdict.problem) if verdict else ""

    async def settled(self, *uids: str) -> None:
        for uid in uids:
            self.cluster.write(uid)
        await self.within(60, lambda: all(self.gateways(uid) == 2 for uid in uids))


@pytest.mark.parametrize("hangs", ["put_instance/0", "put_instance/1"])
async def test_beside_an_instance_that_hangs_everybody_is_served_within_the_bar(hangs: str) -> None:
    here = Running()
    async with here.controller():
        await here.settled("old", "leaving")
        here.arm.hangs = {hangs}
        for uid in ("first", "second", "third"):
            here.cluster.write(uid)
            await here.within(BAR, lambda uid=uid: here.gateways(uid) == 1)  # type: ignore[misc]
            assert "Updating" in here.said(uid)
        assert here.gateways("old") == 2
        here.cluster.delete("leaving")
        await here.within(BAR, lambda: "leaving" not in here.cluster.objects)
        here.cluster.write("first", provision_public_ips=False)
        here.cluster.agents_follow()
        await here.within(2 * BAR, lambda: private(here, "first"))


def private(here: Running, uid: str) -> bool:
    here.cluster.agents_follow()
    verdict = here.cluster.told[uid]
    return bool(
        verdict.serving
        and verdict.serving.gateways
        and all(gateway.public is None for gateway in verdict.serving.gateways)
    )


@pytest.mark.parametrize("hangs", ["put_balancer", "put_prefix", "put_scale_set"])
async def test_beside_a_document_that_hangs_nobody_loses_and_deletions_end(hangs: str) -> None:
    """What a new configuration needs cannot be written; it is told so, and nobody else minds."""
    here = Running()
    async with here.controller():
        await here.settled("old", "leaving")
        here.arm.hangs = {hangs}
        here.cluster.write("new")
        await here.within(BAR, lambda: here.said("new") not in ("", "None"))
        assert here.gateways("old") == 2
        here.cluster.delete("leaving")
        await here.within(BAR, lambda: "leaving" not in here.cluster.objects)
        assert here.gateways("old") == 2


async def test_both_instances_hang_and_a_deletion_ends_all_the_same() -> None:
    here = Running()
    async with here.controller():
        await here.settled("old", "leaving")
        here.arm.hangs = {"put_instance"}
        for machines in here.arm.machines.values():
            for machine in machines:
                machine["properties"]["provisioningState"] = "Updating"
        here.cluster.delete("leaving")
        await here.within(BAR, lambda: "leaving" not in here.cluster.objects)
        assert here.gateways("old") == 2
