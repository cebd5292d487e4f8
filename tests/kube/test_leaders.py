"""Two controllers at once on a real API server: one leads, and a cut-off one acts no more.

The order of events is asserted; how long a hand-over took is printed (``pytest -s``), for the
machine that runs the tests may be busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from egress_gateway.api import names
from egress_gateway_lab.realcluster.control_plane import ControlPlane
from lab.tests.apiserver.conftest import Cluster
from tests.contract.controller.azure_lab import AzureLab, azure_lab
from tests.kube.chart import installed
from tests.kube.leaders import Controller, Record, controller, watching

pytestmark = pytest.mark.kube


@dataclass(frozen=True)
class Two:
    """A leader, its standby, what they do, and what they do it to."""

    first: Controller
    second: Controller
    record: Record
    cluster: Cluster
    azure: AzureLab

    async def at_work(self) -> None:
        """Returns when the leader is in the midst of an operation of Azure that takes long."""
        operations = self.azure.emulator.azure.operations
        operations.seconds = 600
        since = time.monotonic()
        await self.cluster.admin.create("staticgatewayconfigurations", configuration("b"))
        await happened(self.first, operations.under_way)
        await happened(self.first, lambda: self.record.first("first", "azure", after=since))


@contextlib.asynccontextmanager
async def two(plane: ControlPlane, clients: Path, folder: Path) -> AsyncIterator[Two]:
    """The leader has brought one configuration to Azure."""
    record = Record()
    async with (
        installed(plane, clients) as cluster,
        azure_lab(folder) as azure,
        watching(cluster.admin, record),
    ):
        await azure.add_pool("npegress")
        await cluster.admin.create("staticgatewayconfigurations", configuration("a"))
        async with controller("first", cluster, azure, record, folder) as first:
            await happened(first, lambda: record.first("first", "azure"))
            async with controller("second", cluster, azure, record, folder) as second:
                await standing_by(cluster, second, record)
                yield Two(first, second, record, cluster, azure)


def configuration(name: str) -> dict[str, object]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "StaticGatewayConfiguration",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"gatewayNodepoolName": "npegress"},
    }


async def standing_by(cluster: Cluster, second: Controller, record: Record) -> None:
    """Its caches are warm and it has looked at the Lease more than once."""

    def looked() -> bool:
        return sum(w == second.name and x == "kubernetes" for _, w, x in record.events) > 20

    await happened(second, looked)
    assert record.first("second", "azure") is None


async def happened(who: Controller, what: Callable[[], object], timeout: float = 120.0) -> None:
    ends = time.monotonic() + timeout
    while not what():
        assert who.process.returncode is None, who.log.read_text()[-2000:]
        assert time.monotonic() < ends, who.log.read_text()[-2000:]
        await asyncio.sleep(0.02)


async def taken_over(second: Controller, record: Record, since: float, how: str) -> None:
    """Waits until the second leads and works; prints how long it took."""
    await happened(second, lambda: record.first("second", "azure"))
    leads = record.first("second", "leads")
    works = record.first("second", "azure")
    assert leads is not None
    assert works is not None
    took, worked = leads - since, works - since
    print(f"\nhand-over, {how}: leads after {took:.1f} s, works after {worked:.1f} s")


async def test_a_killed_leader_is_replaced(
    real_plane: ControlPlane, clients: Path, tmp_path: Path
) -> None:
    async with two(real_plane, clients, tmp_path) as both:
        first, second, record = both.first, both.second, both.record
        first.send(signal.SIGKILL)
        since = time.monotonic()
        await taken_over(second, record, since, "leader killed")
        # The Lease had to run out: nobody gave it up.
        assert record.first("nobody", "leads") is None


async def test_a_leader_that_is_stopped_hands_over_at_once(
    real_plane: ControlPlane, clients: Path, tmp_path: Path
) -> None:
    async with two(real_plane, clients, tmp_path) as both:
        first, second, record = both.first, both.second, both.record
        first.send(signal.SIGTERM)
        since = time.monotonic()
        assert await first.process.wait() == 0, first.log.read_text()[-2000:]
        await taken_over(second, record, since, "leader stopped")
        released, leads = record.first("nobody", "leads"), record.first("second", "leads")
        acted = record.last("first", "azure")
        assert released is not None
        assert leads is not None
        assert acted is not None
        assert acted < released < leads


async def test_a_cut_off_leader_stops_acting_before_another_starts(
    real_plane: ControlPlane, clients: Path, tmp_path: Path
) -> None:
    """It can still reach Azure, which would take its word."""
    async with two(real_plane, clients, tmp_path) as both:
        first, second, record = both.first, both.second, both.record
        await both.at_work()
        first.kubernetes.cut()
        since = time.monotonic()
        # It leads on for as long as nobody else can: what is under way is followed.
        await happened(first, lambda: record.first("first", "azure", after=since))
        ended = await asyncio.wait_for(first.process.wait(), 120)
        assert ended != 0
        assert "could not be renewed in time" in first.log.read_text()
        stopped = time.monotonic()
        await taken_over(second, record, since, "leader cut off")
        acted, leads = record.last("first", "azure"), record.first("second", "leads")
        assert acted is not None
        assert leads is not None
        print(f"cut off: last act after {acted - since:.1f} s, gone {stopped - since:.1f} s")
        assert acted < leads
