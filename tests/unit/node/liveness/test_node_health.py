"""When a gateway counts as lost, and when as back. Time is the test's own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.node.attachment.choose import FLAPS
from egress_gateway.node.liveness.health import GatewayHealth, Rules, State

INTERVAL = 0.1
RULES = Rules(misses=3, hold_down=2.0, hold_down_limit=30.0)


class Line:
    """A gateway that answers or not, probed at a steady pace."""

    def __init__(self) -> None:
        self.health = GatewayHealth(RULES)
        self.now = 100.0
        self.changes: list[State] = []

    def probe(self, *, answers: bool, seconds: float = INTERVAL) -> None:
        for _ in range(round(seconds / INTERVAL)):
            before = self.health.state
            number = self.health.sent(self.now)
            if answers:
                self.health.answered(number, self.now + 0.001)
            if self.health.state != before:
                self.changes.append(self.health.state)
            self.now += INTERVAL


def alive() -> Line:
    line = Line()
    line.probe(answers=True)
    assert line.health.state == "alive"
    return line


def test_unknown_is_usable() -> None:
    assert GatewayHealth(RULES).usable


def test_one_answer_makes_it_alive() -> None:
    assert alive().health.usable


def test_three_misses_lose_it() -> None:
    line = alive()
    line.probe(answers=False, seconds=3 * INTERVAL)
    assert line.health.usable
    line.probe(answers=False)
    assert not line.health.usable


def test_one_that_never_answered_is_lost_too() -> None:
    line = Line()
    line.probe(answers=False, seconds=4 * INTERVAL)
    assert not line.health.usable


def test_a_late_answer_clears_the_misses() -> None:
    line = alive()
    numbers = [line.health.sent(line.now) for _ in range(3)]
    line.health.answered(numbers[-1], line.now)
    line.probe(answers=False, seconds=3 * INTERVAL)
    assert line.health.usable


def test_back_only_after_the_hold_down() -> None:
    line = alive()
    line.probe(answers=False, seconds=1)
    line.probe(answers=True, seconds=1.8)
    assert not line.health.usable
    line.probe(answers=True, seconds=0.5)
    assert line.health.usable


def test_doubt_says_since_when_once_it_answers_and_a_tunnel_ends_it() -> None:
    line = alive()
    assert line.health.doubt == 0.0
    lost_at = line.now + 3 * INTERVAL
    for seconds in (1.0, 0.5):  # the second time in its hold-down
        line.probe(answers=False, seconds=seconds)
        line.health.proven(line.now)
        assert (line.health.state, line.health.doubt) == ("lost", math.inf)
        line.probe(answers=True)
        assert line.health.doubt == pytest.approx(lost_at)
    doubts = []
    for _ in range(4):
        line.health.proven(line.now)
        assert (line.health.state, line.health.doubt) == ("alive", 0.0)
        line.probe(answers=False, seconds=1.0)
        line.probe(answers=True)
        doubts.append(line.health.doubt)
    assert [FLAPS < doubt < math.inf for doubt in doubts] == [False, False, True, True]


def test_a_gap_starts_the_hold_down_again() -> None:
    line = alive()
    line.probe(answers=False, seconds=1)
    line.probe(answers=True, seconds=1.5)
    line.probe(answers=False, seconds=0.5)
    line.probe(answers=True, seconds=1.5)
    assert not line.health.usable


def test_flapping_moves_pods_ever_more_rarely() -> None:
    line = alive()
    for _ in range(200):
        line.probe(answers=False, seconds=0.5)
        line.probe(answers=True, seconds=5)
    # Back after 2 and 4 seconds of answers; the 8 that it owes then it never gives.
    assert line.changes == ["alive", "lost", "alive", "lost", "alive", "lost"]


@pytest.mark.parametrize("losses", [64, 1025, 1100])
def test_a_gateway_may_be_lost_any_number_of_times(losses: int) -> None:
    """A link that comes and goes for months: twice as long each time is too long for a float."""
    line = Line()
    for _ in range(losses):
        line.probe(answers=False, seconds=0.5)
        line.probe(answers=True, seconds=line.health.hold_down + 0.5)
    assert line.health.usable
    assert line.changes.count("lost") == losses
    assert line.health.hold_down == RULES.hold_down_limit


def test_a_long_life_is_forgiven() -> None:
    line = alive()
    for _ in range(3):
        line.probe(answers=False, seconds=1)
        line.probe(answers=True, seconds=10)
    assert line.health.hold_down > RULES.hold_down
    line.probe(answers=True, seconds=400)
    line.probe(answers=False, seconds=1)
    assert line.health.hold_down == RULES.hold_down


def test_answers_to_nothing_and_repeats_are_ignored() -> None:
    health = GatewayHealth(RULES)
    health.answered(7, 1.0)
    states = [health.state]
    number = health.sent(1.0)
    health.answered(number, 1.0)
    for _ in range(4):
        health.sent(2.0)
        health.answered(number, 2.0)
    assert [*states, health.state] == ["unknown", "lost"]


@given(st.lists(st.booleans(), max_size=200))
def test_never_lost_without_three_misses_in_a_row(answers: list[bool]) -> None:
    line = Line()
    misses = 0
    for answer in answers:
        before = line.health.usable
        line.probe(answers=answer)
        if before and not line.health.usable:
            assert misses >= 3
        misses = 0 if answer else misses + 1
