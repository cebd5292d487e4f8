"""Handshakes are spread out."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.node.pace import Bucket, Pacer, Window
from egress_gateway.node.schedule import SILENCE, STALL, Schedule, Traffic


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300))
def test_never_more_than_burst_and_rate_allow(pauses: list[float]) -> None:
    bucket = Bucket(rate=100, burst=10)
    now, used = 1000.0, []
    for pause in pauses:
        now += pause
        used.append(now + bucket.take(now))
    used.sort()
    for i in range(len(used)):
        for j in range(i, len(used), 7):
            assert j - i + 1 <= 10 + (used[j] - used[i]) * 100 + 1 + 1e-6


def test_a_calm_node_waits_for_nothing() -> None:
    bucket = Bucket(rate=100, burst=10)
    assert [bucket.take(1000.0 + i) for i in range(100)] == [0] * 100


@given(st.lists(st.tuples(st.sampled_from("sc"), st.integers(0, 9), st.floats(0, 0.05))))
def test_no_more_than_the_window_is_ever_under_way(steps: list[tuple[str, int, float]]) -> None:
    window, now = Window(size=3, patience=0.1), 100.0
    under_way: dict[int, float] = {}
    for what, key, pause in steps:
        now += pause
        under_way = {k: t for k, t in under_way.items() if t + 0.1 > now}
        if what == "c":
            window.complete(key)
            under_way.pop(key, None)
        elif window.start(key, now) == 0:
            under_way[key] = now
            assert len(under_way) <= 3
        else:
            assert len(under_way) == 3
            assert key not in under_way


def test_who_waits_goes_on_when_another_is_complete_or_silent_for_too_long() -> None:
    async def main() -> None:
        pacer = Pacer(1000.0, window=2, patience=60.0)
        await pacer.turn("a")
        await pacer.turn("b")
        await pacer.turn("a")  # again: its place is its own
        third = asyncio.create_task(pacer.turn("c"))
        await asyncio.sleep(0.01)
        assert not third.done()
        pacer.complete("b")
        await asyncio.wait_for(third, 10)
        impatient = Pacer(1000.0, window=1, patience=0.01)
        await impatient.turn("a")
        await asyncio.wait_for(impatient.turn("b"), 10)

    asyncio.run(main())


@pytest.mark.parametrize(("starting", "first"), [(False, 0.1), (True, 0.022)])
def test_initiations_are_repeated_ever_more_rarely(starting: bool, first: float) -> None:
    schedule, now = Schedule.at(0.0, starting=starting), 0.0
    times: list[float] = []
    while now < 60:
        if schedule.due(now, jitter=1.0):
            times.append(now)
        now += 0.001
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert abs(times[0] - first) < 0.01
    assert all(gap > 0.02 for gap in gaps)  # WireGuard refuses two within 20 ms
    assert max(gaps) <= 6.3


def test_silence() -> None:
    schedule = Schedule.at(10.0)
    assert not schedule.silent(10.0 + SILENCE)
    assert schedule.silent(10.1 + SILENCE)


class TestTraffic:
    def test_silence_while_we_say_nothing_means_nothing(self) -> None:
        traffic = Traffic()
        assert not any(traffic.stalled(received=5, sent=5, now=t) for t in range(0, 1000, 10))

    def test_one_word_after_a_long_silence_is_not_yet_unanswered(self) -> None:
        traffic = Traffic()
        traffic.stalled(received=5, sent=5, now=0)
        assert not traffic.stalled(received=5, sent=6, now=1000)

    def test_unanswered_for_long(self) -> None:
        traffic = Traffic()
        traffic.stalled(received=5, sent=5, now=0)
        traffic.stalled(received=5, sent=6, now=10)
        assert not traffic.stalled(received=5, sent=7, now=10 + STALL)
        assert traffic.stalled(received=5, sent=7, now=11 + STALL)

    def test_answered_in_between(self) -> None:
        traffic = Traffic()
        traffic.stalled(received=5, sent=5, now=0)
        traffic.stalled(received=5, sent=6, now=10)
        traffic.stalled(received=6, sent=7, now=20)
        assert not traffic.stalled(received=6, sent=7, now=100)
