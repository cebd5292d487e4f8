"""Handshakes are spread out."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.node.liveness.pace import Pacer, Window
from egress_gateway.node.liveness.schedule import SILENCE, Hearing, Schedule
from egress_gateway.node.sandboxes.stall import STALL, StallDetector
from egress_gateway.service.bucket import Bucket


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
    window, now = Window(limit=3, patience=0.1), 100.0
    for what, key, pause in steps:
        now += pause
        if what == "c":
            window.complete(key)
        elif window.start(key, now) == 0:
            assert key in window.started
        else:
            assert key not in window.started
        assert len(window.started) <= 3
        assert 1 <= window.size <= 3


def test_a_gateway_that_is_slow_gets_less_and_one_that_answers_gets_more_again() -> None:
    window = Window(limit=8, patience=1.0)
    assert [window.start(i, 0.0) for i in range(8)] == [0.0] * 8
    assert window.start("next", 0.5) == pytest.approx(0.5)
    assert window.start("next", 1.0) == 0
    assert window.size == 4
    assert [window.start(f"a{i}", 1.0) for i in range(3)] == [0.0] * 3
    assert window.start("too many", 1.0) > 0
    window.complete("a0")
    assert window.size == 5
    window.complete("a0")
    assert window.size == 5, "nothing was under way"
    assert [window.start(i, 1.0) for i in ("x", "y")] == [0.0] * 2
    assert window.start("z", 1.0) > 0


@pytest.mark.virtual_time
async def test_who_waits_goes_on_when_another_is_complete_or_silent_for_too_long() -> None:
    pacer = Pacer(1000.0, window=2, patience=60.0)
    await pacer.turn("a", "one")
    await pacer.turn("b", "one")
    await pacer.turn("a", "one")  # again: its place is its own
    third = asyncio.create_task(pacer.turn("c", "one"))
    await asyncio.wait_for(pacer.turn("d", "another"), 10)
    await asyncio.sleep(59)
    assert not third.done()
    pacer.complete("b")
    await asyncio.wait_for(third, 10)
    impatient = Pacer(1000.0, window=1, patience=0.01)
    await impatient.turn("a", "one")
    await asyncio.wait_for(impatient.turn("b", "one"), 10)


@pytest.mark.virtual_time
@pytest.mark.parametrize("answers", [False, True])
async def test_hundreds_wait_for_a_gateway_that_answers_and_for_no_other(answers: bool) -> None:
    loop, pacer, ends = asyncio.get_running_loop(), Pacer(1000.0), list[float]()
    began = loop.time()

    async def begin(pod: int) -> bool:
        turned = await pacer.turn(pod, "one")
        ends.append(loop.time() - began)
        if turned and answers:
            loop.call_later(1.4, pacer.complete, pod, "one")  # no longer counted, but heard of
        return turned

    turned = await asyncio.gather(*map(begin, range(250)))
    assert all(turned) == answers
    assert answers or max(ends) < 2 * SILENCE
    assert answers or not await asyncio.wait_for(pacer.turn("later", "one"), 0.01)
    await asyncio.sleep(SILENCE + 1)
    assert await pacer.turn("much later", "one"), "it may be back"


@pytest.mark.virtual_time
@pytest.mark.parametrize("later", range(6))
async def test_who_waits_and_is_cancelled_ends_even_if_it_is_his_turn_just_then(later: int) -> None:
    """``asyncio.wait_for`` of Python 3.11 forgets a cancellation that comes with what it waits
    for."""
    pacer = Pacer(1000.0, window=1, patience=60.0)
    await pacer.turn("a", "one")
    waiting = asyncio.create_task(pacer.turn("b", "one"))
    await asyncio.sleep(1)
    pacer.complete("who needs no turn")
    for _ in range(later):
        await asyncio.sleep(0)
    waiting.cancel()
    done, _ = await asyncio.wait([waiting], timeout=10)
    assert done, "it waits for ever"
    assert waiting.cancelled()


@pytest.mark.parametrize(("starting", "first"), [(False, 0.25), (True, 0.022)])
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
    assert max(gaps) <= 1.3, "a gateway that comes back waits for nobody"


def test_silence() -> None:
    schedule = Schedule.at(10.0)
    assert not schedule.silent(10.0 + SILENCE)
    assert schedule.silent(10.1 + SILENCE)


class TestHearing:
    def test_a_gateway_that_answers_nobody_is_left_at_once(self) -> None:
        hearing = Hearing()
        assert not hearing.bears("pod", "10.0.0.4", 100.0)
        hearing.complete("other", "10.0.0.5", 100.0)
        assert not hearing.bears("pod", "10.0.0.4", 100.1)

    def test_one_that_answers_others_is_borne_for_a_while(self) -> None:
        hearing, now, borne = Hearing(), 100.0, 0
        while True:
            hearing.complete("other", "10.0.0.4", now)
            now += 0.1
            if not hearing.bears("pod", "10.0.0.4", now):
                break
            borne += 1
            now += SILENCE
        assert borne == 3
        hearing.complete("other", "10.0.0.4", now)
        assert hearing.bears("pod", "10.0.0.4", now), "counted anew after it was left"

    def test_an_answer_ends_the_count(self) -> None:
        hearing = Hearing()
        for now in (100.0, 101.0, 102.0, 103.0, 104.0):
            hearing.complete("pod", "10.0.0.4", now)
            assert hearing.bears("pod", "10.0.0.4", now + 0.5)


class TestTraffic:
    def test_silence_while_we_say_nothing_means_nothing(self) -> None:
        traffic = StallDetector()
        assert not any(traffic.stalled(received=5, sent=5, now=t) for t in range(0, 1000, 10))

    def test_one_word_after_a_long_silence_is_not_yet_unanswered(self) -> None:
        traffic = StallDetector()
        traffic.stalled(received=5, sent=5, now=0)
        assert not traffic.stalled(received=5, sent=6, now=1000)

    def test_unanswered_for_long(self) -> None:
        traffic = StallDetector()
        traffic.stalled(received=5, sent=5, now=0)
        traffic.stalled(received=5, sent=6, now=10)
        assert not traffic.stalled(received=5, sent=7, now=10 + STALL)
        assert traffic.stalled(received=5, sent=7, now=11 + STALL)

    def test_answered_in_between(self) -> None:
        traffic = StallDetector()
        traffic.stalled(received=5, sent=5, now=0)
        traffic.stalled(received=5, sent=6, now=10)
        traffic.stalled(received=6, sent=7, now=20)
        assert not traffic.stalled(received=6, sent=7, now=100)
