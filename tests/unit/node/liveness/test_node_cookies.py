"""A tunnel that has a cookie is left to WireGuard. Pure."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.node.liveness.schedule import COOKIE, SILENCE, Schedule

_WIREGUARD_RETRIES = 5.0 + 1 / 3


def test_the_handshake_is_not_begun_anew_before_wireguard_has_shown_the_cookie() -> None:
    schedule = Schedule.at(100.0, starting=True)
    assert schedule.due(100.1, 0.0)
    schedule.leave_to_wireguard()
    for tick in range(int(_WIREGUARD_RETRIES * 100)):
        now = 100.1 + tick / 100
        assert not (now < 100.0 + _WIREGUARD_RETRIES and schedule.due(now, 0.0))
        assert not (now < 100.0 + _WIREGUARD_RETRIES and schedule.silent(now))
    assert schedule.due(100.0 + COOKIE + 0.01, 0.0)
    assert schedule.silent(100.0 + COOKIE + 0.01)


def test_without_a_cookie_nothing_waits() -> None:
    schedule = Schedule.at(100.0)
    assert schedule.due(100.3, 0.0)
    schedule.begun(100.3)
    assert schedule.silent(100.0 + SILENCE + 0.01)
    assert schedule.due(101.0, 0.0)


@given(st.lists(st.tuples(st.floats(0, 0.5), st.booleans()), max_size=200))
def test_whatever_comes_an_initiation_with_a_cookie_gets_its_interval(
    steps: list[tuple[float, bool]],
) -> None:
    now, schedule, left = 0.0, Schedule.at(0.0, starting=True), 0.0
    for passed, cookie in steps:
        now += passed
        if not schedule.due(now, 1.0):
            continue
        assert now >= left
        if cookie:
            schedule.leave_to_wireguard()
            left = schedule.initiated + _WIREGUARD_RETRIES
        else:
            schedule.begun(now)
