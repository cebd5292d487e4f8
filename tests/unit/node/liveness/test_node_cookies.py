"""A gateway that answers with cookies is busy, and is not left for that. Pure."""

from __future__ import annotations

from egress_gateway.node.liveness.schedule import BUSY, SILENCE, Schedule


def test_a_gateway_with_cookies_is_borne_longer_than_a_silent_one() -> None:
    schedule = Schedule.at(100.0, starting=True)
    schedule.put_off(cookie=True)
    assert not schedule.silent(100.0 + SILENCE + 0.01)
    assert not schedule.silent(100.0 + BUSY)
    assert schedule.silent(100.0 + BUSY + 0.01)


def test_one_that_answers_no_more_is_left_as_any_silent_one() -> None:
    schedule = Schedule.at(100.0)
    schedule.put_off(cookie=True)
    schedule.put_off(cookie=False)
    assert schedule.silent(100.0 + SILENCE + 0.01)


def test_a_cookie_is_shown_at_the_next_try() -> None:
    schedule = Schedule.at(100.0)
    assert schedule.due(100.3, 0.0)
    schedule.put_off(cookie=True)
    assert schedule.due(101.0, 0.0)
