"""Every change is worked on, never twice at once, and failures wait longer and longer."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.kube.workqueue.queue import WorkQueue, run_workers

pytestmark = pytest.mark.virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_key_added_twice_is_taken_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add("b")
    queue.add("a")
    assert [await queue.get(), await queue.get()] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_added_while_worked_on_comes_back_after_done() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    assert len(queue) == 0, "a second worker would have got it"
    queue.done("a")
    assert await queue.get() == "a"


async def test_the_earliest_delay_wins_and_add_ends_it() -> None:
    queue: WorkQueue[str] = WorkQueue()
    began = now()
    queue.add_after("a", 30)
    queue.add_after("a", 10)
    queue.add_after("a", 20)
    assert await queue.get() == "a"
    assert now() - began == pytest.approx(10)
    queue.done("a")
    queue.add_after("a", 5)
    queue.add("a")
    assert await queue.get() == "a"
    queue.done("a")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            await queue.get()


async def test_failures_double_up_to_the_limit_and_success_forgets_them() -> None:
    queue: WorkQueue[str] = WorkQueue(backoff=1, backoff_limit=8, rand=lambda: 1.0)
    assert [queue.add_failed("a") for _ in range(6)] == [1, 2, 4, 8, 8, 8]
    queue.forget("a")
    assert queue.add_failed("a") == 1
    queue.close()


async def test_a_cancelled_get_does_not_swallow_the_wake_up() -> None:
    queue: WorkQueue[str] = WorkQueue()
    first, second = asyncio.ensure_future(queue.get()), asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    queue.add("a")  # wakes the first …
    first.cancel()  # … which is cancelled before it runs
    async with asyncio.timeout(1):
        assert await second == "a"


async def test_workers_retry_what_raises_and_return_to_what_asks_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[tuple[str, float]] = []
    queue: WorkQueue[str] = WorkQueue("reconcile", backoff=1, rand=lambda: 1.0)
    began = now()

    async def handler(key: str) -> float | None:
        calls.append((key, now() - began))
        if key == "bad" and len([c for c in calls if c[0] == "bad"]) < 3:
            raise RuntimeError("not yet")
        return 60.0 if key == "again" else None

    queue.add("bad")
    queue.add("again")
    with caplog.at_level(logging.WARNING), pytest.raises(TimeoutError):
        async with asyncio.timeout(100):
            await run_workers(queue, handler, workers=2)
    assert [round(at) for key, at in calls if key == "bad"] == [0, 1, 3]
    assert [round(at) for key, at in calls if key == "again"] == [0, 60]
    assert "reconcile bad failed: not yet" in caplog.text


@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 5)), max_size=30),
    workers=st.integers(1, 4),
)
async def test_no_change_is_lost_and_no_key_is_worked_on_twice_at_once(
    steps: list[tuple[int, float]], workers: int
) -> None:
    queue: WorkQueue[int] = WorkQueue()
    wanted: dict[int, int] = {}
    handled: dict[int, int] = {}
    active: set[int] = set()

    async def handler(key: int) -> None:
        assert key not in active
        active.add(key)
        version = wanted[key]
        await asyncio.sleep(1)
        handled[key] = version
        active.discard(key)

    async def feed() -> None:
        for key, pause in steps:
            wanted[key] = wanted.get(key, 0) + 1
            queue.add(key)
            await asyncio.sleep(pause)
        await asyncio.sleep(1000)

    async with asyncio.TaskGroup() as group:
        work = group.create_task(run_workers(queue, handler, workers))
        await feed()
        work.cancel()
    assert handled == wanted


async def test_a_queue_is_busy_until_its_last_key_is_done() -> None:
    queue: WorkQueue[str] = WorkQueue()
    assert not queue.busy
    queue.add("a")
    assert queue.busy
    await queue.get()
    assert queue.busy
    queue.done("a")
    assert not queue.busy


async def test_a_key_that_a_worker_does_not_give_back_is_told_whatever_the_others_do() -> None:
    queue: WorkQueue[str] = WorkQueue("pass over")

    async def work(key: str) -> float:
        await asyncio.sleep(10_000 if key == "hangs" else 1)
        return 1.0

    for key in ("well", "hangs"):
        queue.add(key)
    workers = asyncio.create_task(run_workers(queue, work, 2))
    await asyncio.sleep(299)
    assert queue.stalled(300) is None
    await asyncio.sleep(2)
    assert queue.stalled(300) == "pass over hangs has run for 301 s"
    await asyncio.sleep(10_000)
    assert queue.stalled(300) is None
    workers.cancel()


async def test_a_queue_without_work_has_not_stalled() -> None:
    queue: WorkQueue[str] = WorkQueue()
    await asyncio.sleep(1_000)
    assert queue.stalled(300) is None
