"""A cache follows the server through everything that servers and networks do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import PODS, SGCS, Key, Pod
from egress_gateway.service.backoff import Backoff
from tests.unit.kube.kube_scripted import (
    Script,
    Step,
    bookmark,
    event,
    gone,
    listed,
    pod,
    restored,
    serving,
    status,
    watched,
)


class Follower:
    """A running cache of Pods and what its callbacks said."""

    def __init__(self, script: Script, cache: Cache[Pod]) -> None:
        self.script, self.cache = script, cache
        self.log: list[str] = []
        self._changed = asyncio.Event()
        cache.on_change(self.note)

    def note(self, key: Key, old: Pod | None, new: Pod | None) -> None:
        sign = "+" if old is None else "-" if new is None else "~"
        self.log.append(f"{sign}{key.name}")
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.002)

    async def until_log(self, *expected: str) -> None:
        await self.until(lambda: len(self.log) >= len(expected))
        assert self.log == list(expected)


@asynccontextmanager
async def following(steps: list[object], *, inactivity: float = 60) -> AsyncIterator[Follower]:
    script = Script()
    script.then(*steps)  # type: ignore[arg-type]
    async with serving(script) as client:
        cache = Cache(client, PODS, inactivity=inactivity, backoff=Backoff(0.001, 0.005))
        task = asyncio.create_task(cache.run())
        try:
            yield Follower(script, cache)
        finally:
            task.cancel()
            await asyncio.wait([task])


async def test_it_lists_then_follows() -> None:
    async with following(
        [
            listed(5, pod("a", 1)),
            watched(
                event("MODIFIED", pod("a", 6)),
                event("ADDED", pod("b", 7)),
                event("DELETED", pod("a", 8)),
                hold=True,
            ),
        ]
    ) as f:
        await f.cache.synced()
        await f.until_log("+a", "~a", "+b", "-a")
        assert [p.metadata.name for p in f.cache.values()] == ["b"]
        assert f.script.asked == ["list", "watch@5"]


async def test_an_ended_watch_is_resumed_from_the_last_bookmark() -> None:
    async with following([listed(5, pod("a", 1)), watched(bookmark(90)), watched(hold=True)]) as f:
        await f.until(lambda: len(f.script.asked) == 3)
        assert f.script.asked == ["list", "watch@5", "watch@90"]
        assert f.log == ["+a"]


@pytest.mark.parametrize("how", ["event", "status"])
async def test_a_deletion_missed_during_a_410_is_reported(how: str) -> None:
    forgotten = watched(gone()) if how == "event" else status(410, "Expired")
    async with following(
        [
            listed(5, pod("a", 1), pod("b", 2)),
            forgotten,
            listed(50, pod("b", 40)),
            watched(hold=True),
        ]
    ) as f:
        await f.until_log("+a", "+b", "-a", "~b")
        assert f.script.asked[:3] == ["list", "watch@5", "list"]


async def test_a_replaced_object_is_reported_as_gone_and_new() -> None:
    async with following(
        [
            listed(5, pod("a", 1, uid="first")),
            watched(gone()),
            listed(50, pod("a", 40, uid="second")),
            watched(hold=True),
        ]
    ) as f:
        await f.until_log("+a", "-a", "+a")


async def test_a_torn_connection_is_resumed_without_a_list() -> None:
    async with following(
        [
            listed(5, pod("a", 1)),
            watched(event("ADDED", pod("b", 6)), tear=True),
            listed(6),  # the server has come as far as that
            watched(event("ADDED", pod("c", 7)), hold=True),
        ]
    ) as f:
        await f.until_log("+a", "+b", "+c")
        assert f.script.asked == ["list", "watch@5", "newest", "watch@6"]


async def test_a_silent_connection_is_replaced() -> None:
    async with following(
        [
            listed(5, pod("a", 1)),
            watched(hold=True),
            # Again and again: on a busy machine one of these may be silent for too long as well.
            *[listed(6), watched(event("ADDED", pod("b", 6)), hold=True)] * 1000,
        ],
        inactivity=0.05,
    ) as f:
        await f.until(lambda: len(f.log) >= 2)
        assert f.log[:2] == ["+a", "+b"]
        assert f.script.asked[:4] == ["list", "watch@5", "newest", "watch@5"]


async def test_reads_go_on_while_the_server_is_away() -> None:
    async with following(
        [listed(5, pod("a", 1)), watched(), *[_abort] * 2, watched(hold=True)]
    ) as f:
        await f.cache.synced()
        await f.until(lambda: len(f.script.asked) >= 5)
        assert f.cache.get("ns", "a") is not None
        assert f.cache.is_synced
        # aiohttp asks a second time by itself where the connection was an old one.
        assert f.script.asked[2] == "watch@5"
        assert {*f.script.asked[3:5]} <= {"watch@5", "newest"}


async def _abort(request: object) -> object:
    transport = request.transport  # type: ignore[attr-defined]
    transport.abort()
    return await asyncio.Event().wait()


@pytest.mark.parametrize(
    "last", [watched(tear=True), watched(hold=True), status(503)], ids=["torn", "silent", "refused"]
)
async def test_a_server_that_was_restored_from_a_backup_is_followed(last: Step) -> None:
    """Its version lies behind ours, so it tells a watch of ours nothing, and it may give one of
    ours a second time."""
    async with following(
        [
            listed(500, pod("a", 499), pod("b", 3), pod("c", 7)),
            last,
            *[restored(7, pod("a", 2), pod("c", 7, node="other"))] * 1000,
        ],
        inactivity=0.05,
    ) as f:
        await f.until_log("+a", "+b", "+c", "-b", "~a", "~c")
        assert f.script.asked[:4] == ["list", "watch@500", "newest", "list"]
        assert f.script.requests[2].path == "/api/v1/namespaces/default/pods", "one key of etcd"


async def test_a_server_that_forgets_at_once_is_not_hammered() -> None:
    script = Script()
    for _ in range(2000):
        script.then(listed(5), watched(gone()))
    async with serving(script) as client:
        cache = Cache(client, PODS, backoff=Backoff(0.05, 30.0, lambda: 1.0))
        loop = asyncio.get_running_loop()
        began = loop.time()
        task = asyncio.create_task(cache.run())
        async with asyncio.timeout(60):
            while len(script.requests) < 8:
                await asyncio.sleep(0.005)
        assert loop.time() - began >= 0.05 + 0.1 + 0.2, "four rounds, and a pause after each"
        task.cancel()
        await asyncio.wait([task])


async def test_one_object_that_does_not_decode_hides_no_other_and_loses_no_good_state() -> None:
    def sgc(name: str, version: int, route: object) -> dict[str, object]:
        obj = pod(name, version)
        return {"metadata": obj["metadata"], "spec": {"defaultRoute": route}}

    script = Script()
    script.then(
        listed(5, sgc("good", 1, "staticEgressGateway"), sgc("other", 2, "azureNetworking")),
        watched(
            event("MODIFIED", sgc("good", 6, {"not": "a string"})),
            event("MODIFIED", sgc("other", 7, "staticEgressGateway")),
            hold=True,
        ),
    )
    async with serving(script) as client:
        cache = Cache(client, SGCS)
        task = asyncio.create_task(cache.run())
        done = asyncio.Event()
        cache.on_change(
            lambda key, old, new: done.set() if new and old and key.name == "other" else None
        )
        async with asyncio.timeout(60):
            await done.wait()
        good = cache.get("ns", "good")
        assert good is not None
        assert good.metadata.resource_version == "1"
        task.cancel()
        await asyncio.wait([task])


async def test_a_failing_callback_disturbs_neither_cache_nor_other_callbacks() -> None:
    async with following([listed(5, pod("a", 1)), watched(hold=True)]) as f:

        def broken(*_: object) -> None:
            raise RuntimeError("consumer's fault")

        f.cache.on_change(broken)
        f.cache.on_change(f.note)
        await f.until_log("+a", "+a")


async def test_a_late_callback_hears_of_what_is_already_there() -> None:
    async with following([listed(5, pod("a", 1)), watched(hold=True)]) as f:
        await f.cache.synced()
        late: list[str] = []
        f.cache.on_change(lambda key, old, new: late.append(key.name))
        assert late == ["a"]
