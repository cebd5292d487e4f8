"""Whose time counts: the API server's, where it says one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from egress_gateway.kube import clock

LATE = "Fri, 31 Dec 9999 23:59:59 -2300"
"""Later than a date can be in UTC."""
NONE, BEFORE = timedelta(), timedelta(hours=3)


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way takes none: a busy machine may stop for seconds between two lines."""
    moment = datetime(2026, 1, 1, 12, 0, 0, 999_000, tzinfo=UTC)
    monkeypatch.setattr(clock, "now", lambda: moment)


def said(offset: timedelta) -> str:
    return format_datetime(clock.now() + offset, usegmt=True)


@pytest.mark.parametrize("minutes", [-600, -5, 5, 600])
def test_another_clock_is_followed(minutes: int) -> None:
    wrong = timedelta(minutes=minutes)
    assert abs(clock.ahead(said(wrong), BEFORE) - wrong) < timedelta(seconds=2)


def test_what_whole_seconds_cannot_tell_is_no_difference() -> None:
    assert clock.ahead(said(NONE), BEFORE) == NONE


@pytest.mark.parametrize(
    "date", ["", "soon", "2030-01-01T00:00:00Z", "Mon, 99 Foo 2030 0:0:0 GMT", LATE]
)
def test_what_is_no_date_changes_nothing(date: str) -> None:
    assert clock.ahead(date, BEFORE) == BEFORE
