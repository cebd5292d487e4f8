"""Events reach the server whatever it does, or are dropped and counted. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from egress_gateway.kube import errors
from egress_gateway.kube.client import Client
from egress_gateway.kube.events import Recorder
from egress_gateway.kube.resources import Reference

pytestmark = pytest.mark.virtual_time

POD = Reference(api_version="v1", kind="Pod", namespace="ns", name="p", uid="u")
NODE = Reference(api_version="v1", kind="Node", name="n", uid="u")


class EventServer:
    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.error: errors.ApiError | None = None
        self.writes = 0

    def client(self) -> Client:
        return cast(Client, self)

    def _touch(self) -> None:
        self.writes += 1
        if self.error:
            raise self.error

    async def create(self, _: object, obj: Mapping[str, Any]) -> None:
        self._touch()
        self.events[obj["metadata"]["name"]] = dict(obj)

    async def merge_patch(self, _: object, name: str, patch: Mapping[str, Any], ns: str) -> None:
        self._touch()
        if name not in self.events:
            raise errors.NotFound(404, "NotFound", "expired")
        self.events[name].update(patch)

    def only(self) -> dict[str, Any]:
        (event,) = self.events.values()
        return event


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def test_an_event_says_what_when_and_who() -> None:
    server = EventServer()
    recorder = Recorder(server.client(), "static-egress-gateway-node", instance="n1")
    task = asyncio.create_task(recorder.run())
    recorder.event(POD, "Warning", "NoGateway", "no gateway is ready")
    await asyncio.sleep(0.1)
    event = server.only()
    assert event["metadata"]["namespace"] == event["involvedObject"]["namespace"] == "ns"
    assert event["involvedObject"]["uid"] == "u"
    assert (event["type"], event["reason"], event["count"]) == ("Warning", "NoGateway", 1)
    assert event["reportingInstance"] == "n1"
    await stop(task)


async def test_events_of_cluster_scoped_objects_live_in_default() -> None:
    server = EventServer()
    recorder = Recorder(server.client(), "c")
    recorder.event(NODE, "Normal", "R", "m")
    task = asyncio.create_task(recorder.run())
    await asyncio.sleep(0.1)
    assert server.only()["metadata"]["namespace"] == "default"
    await stop(task)


async def test_a_fault_fifty_times_a_second_costs_a_request_in_five_seconds() -> None:
    server = EventServer()
    recorder = Recorder(server.client(), "c")
    task = asyncio.create_task(recorder.run())
    for _ in range(1000):
        recorder.event(POD, "Warning", "R", "m")
        await asyncio.sleep(0.02)
    await asyncio.sleep(10)
    assert server.only()["count"] == 1000
    assert server.writes <= 6
    await stop(task)


async def test_what_happened_while_the_server_was_away_is_written_afterwards() -> None:
    server = EventServer()
    server.error = errors.Unavailable(0, "Unreachable", "away")
    recorder = Recorder(server.client(), "c")
    task = asyncio.create_task(recorder.run())
    recorder.event(POD, "Warning", "R", "m")
    await asyncio.sleep(100)
    assert server.writes < 20
    server.error = None
    await asyncio.sleep(31)
    assert server.only()["count"] == 1
    await stop(task)


async def test_an_expired_event_is_written_anew() -> None:
    server = EventServer()
    recorder = Recorder(server.client(), "c")
    task = asyncio.create_task(recorder.run())
    recorder.event(POD, "Warning", "R", "m")
    await asyncio.sleep(3600)
    server.events.clear()
    recorder.event(POD, "Warning", "R", "m")
    await asyncio.sleep(10)
    assert server.only()["count"] == 2
    await stop(task)


async def test_a_refused_event_does_not_stop_the_next() -> None:
    server = EventServer()
    server.error = errors.Forbidden(403, "Forbidden", "no")
    recorder = Recorder(server.client(), "c")
    task = asyncio.create_task(recorder.run())
    recorder.event(POD, "Warning", "R", "m")
    await asyncio.sleep(1)
    assert recorder.dropped == 1
    server.error = None
    recorder.event(POD, "Normal", "R2", "m2")
    await asyncio.sleep(1)
    assert server.only()["reason"] == "R2"
    await stop(task)


async def test_stopping_writes_what_is_left_but_not_for_ever() -> None:
    server = EventServer()
    recorder = Recorder(server.client(), "c")
    task = asyncio.create_task(recorder.run())
    await asyncio.sleep(0.1)
    recorder.event(POD, "Normal", "Last", "words")
    await stop(task)
    assert server.only()["reason"] == "Last"

    server.error = errors.Unavailable(0, "Unreachable", "away")
    task = asyncio.create_task(recorder.run())
    recorder.event(POD, "Normal", "Later", "words")
    await asyncio.sleep(0.1)
    began = asyncio.get_running_loop().time()
    await stop(task)
    assert asyncio.get_running_loop().time() - began <= 2.1
