"""Leading as a process lives it: taken, renewed, lost, released. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import msgspec
import pytest

from egress_gateway.kube import errors
from egress_gateway.kube.client import Client
from egress_gateway.kube.leader.lease import LeaderElection, LeadershipLost
from egress_gateway.kube.resources import Lease

pytestmark = pytest.mark.virtual_time


class LeaseServer:
    """The three requests that an election makes, and what can go wrong with them."""

    def __init__(self) -> None:
        self.spec: dict[str, Any] | None = None
        self.version = 0
        self.away: set[str] = set()
        self.hang = False
        self.requests = 0

    def seen_by(self, name: str) -> Client:
        return cast(Client, _View(self, name))

    async def touch(self, name: str) -> None:
        self.requests += 1
        if name in self.away:
            if self.hang:
                await asyncio.sleep(3600)
            raise errors.Unavailable(0, "Unreachable", "GET /lease: connection refused")

    def lease(self) -> Lease:
        meta = {"name": "l", "namespace": "n", "resourceVersion": str(self.version)}
        return msgspec.convert({"metadata": meta, "spec": self.spec}, Lease)

    @property
    def holder(self) -> str:
        return str((self.spec or {}).get("holderIdentity", ""))


class _View:
    def __init__(self, server: LeaseServer, name: str) -> None:
        self.server, self.name = server, name

    async def get(self, *_: object) -> Lease:
        await self.server.touch(self.name)
        if self.server.spec is None:
            raise errors.NotFound(404, "NotFound", "no lease")
        return self.server.lease()

    async def create(self, _: object, obj: Mapping[str, Any]) -> Lease:
        await self.server.touch(self.name)
        if self.server.spec is not None:
            raise errors.AlreadyExists(409, "AlreadyExists", "lease exists")
        self.server.spec, self.server.version = dict(obj["spec"]), 1
        return self.server.lease()

    async def merge_patch(self, _: object, __: str, patch: Mapping[str, Any], ___: str) -> Lease:
        await self.server.touch(self.name)
        if patch["metadata"]["resourceVersion"] != str(self.server.version):
            raise errors.Conflict(409, "Conflict", "changed")
        assert self.server.spec is not None
        self.server.spec |= patch["spec"]
        self.server.version += 1
        return self.server.lease()


def member(server: LeaseServer, name: str) -> LeaderElection:
    return LeaderElection(server.seen_by(name), "n", "l", name, rand=lambda: 1.0)


async def forever() -> None:
    await asyncio.Event().wait()


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_one_leads_and_renews_while_the_other_waits() -> None:
    server = LeaseServer()
    led: list[str] = []

    async def lead(name: str) -> None:
        led.append(name)
        await forever()

    a = asyncio.ensure_future(member(server, "a").run(lambda: lead("a")))
    await asyncio.sleep(1)
    b = asyncio.ensure_future(member(server, "b").run(lambda: lead("b")))
    await asyncio.sleep(600)
    assert led == ["a"]
    assert server.holder == "a"
    for task in (a, b):
        task.cancel()
    await asyncio.wait([a, b])


async def test_a_clean_stop_hands_over_within_one_retry() -> None:
    server = LeaseServer()
    a = asyncio.ensure_future(member(server, "a").run(forever))
    await asyncio.sleep(1)
    b_leads = asyncio.Event()

    async def lead_b() -> None:
        b_leads.set()

    b = asyncio.ensure_future(member(server, "b").run(lead_b))
    await asyncio.sleep(5)
    a.cancel()
    async with asyncio.timeout(2.1):
        await b_leads.wait()
    await b
    assert server.holder == "", "b's work ended: it released too"


async def test_a_partitioned_leader_stops_before_another_may_start() -> None:
    server = LeaseServer()
    stopped: list[float] = []
    started: list[float] = []

    async def lead_a() -> None:
        try:
            await forever()
        finally:
            stopped.append(now())

    async def lead_b() -> None:
        started.append(now())
        await forever()

    a = asyncio.ensure_future(member(server, "a").run(lead_a))
    await asyncio.sleep(1)
    b = asyncio.ensure_future(member(server, "b").run(lead_b))
    await asyncio.sleep(30)
    server.away.add("a")
    cut = now()
    with pytest.raises(LeadershipLost, match="in time"):
        await a
    await asyncio.sleep(30)
    assert stopped[0] < started[0]
    assert started[0] - cut <= 15 + 2.1
    b.cancel()
    await asyncio.wait([b])


async def test_a_request_that_hangs_cannot_hold_a_leader_past_its_deadline() -> None:
    server = LeaseServer()
    a = asyncio.ensure_future(member(server, "a").run(forever))
    await asyncio.sleep(5)
    server.away, server.hang = {"a"}, True
    cut = now()
    with pytest.raises(LeadershipLost):
        await a
    assert now() - cut <= 10


async def test_a_short_outage_is_survived() -> None:
    server = LeaseServer()
    a = asyncio.ensure_future(member(server, "a").run(forever))
    await asyncio.sleep(5)
    server.away = {"a"}
    await asyncio.sleep(6)
    server.away = set()
    await asyncio.sleep(60)
    assert not a.done()
    a.cancel()
    await asyncio.wait([a])


async def test_another_name_on_the_lease_ends_leading() -> None:
    server = LeaseServer()
    a = asyncio.ensure_future(member(server, "a").run(forever))
    await asyncio.sleep(5)
    assert server.spec is not None
    server.spec["holderIdentity"] = "thief"
    server.version += 1
    with pytest.raises(LeadershipLost, match="went to thief"):
        await a
    assert server.holder == "thief"


async def test_what_the_work_raises_comes_out_and_the_lease_is_released() -> None:
    server = LeaseServer()

    async def fails() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await member(server, "a").run(fails)
    assert server.holder == ""


async def test_waiting_for_the_lease_does_not_hammer_the_server() -> None:
    server = LeaseServer()
    server.away = {"a"}
    a = asyncio.ensure_future(member(server, "a").run(forever))
    await asyncio.sleep(100)
    assert 40 <= server.requests <= 60
    a.cancel()
    await asyncio.wait([a])


async def test_a_lease_that_the_dead_hold_for_hours_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = LeaseServer()
    dead = asyncio.ensure_future(member(server, "dead").run(forever))
    await asyncio.sleep(1)
    assert server.spec is not None
    server.spec["leaseDurationSeconds"], server.away = 36000, {"dead"}
    server.version += 1
    standby = asyncio.ensure_future(member(server, "standby").run(forever))
    await asyncio.sleep(50)
    assert "has not renewed" not in caplog.text
    await asyncio.sleep(3000)
    assert caplog.text.count("dead has not renewed the Lease for 6") == 1
    for task in (dead, standby):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
