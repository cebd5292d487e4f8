"""Handshakes are spread out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.node.pace import Bucket
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


@pytest.mark.parametrize(("starting", "first"), [(False, 0.05), (True, 0.025)])
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
