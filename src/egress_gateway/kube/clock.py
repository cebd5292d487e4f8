"""Kubernetes' time stamps. Wall time is only ever shown or stored; expiry uses monotonic time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

_COARSE: Final = timedelta(seconds=2)
"""What a date in whole seconds, and the way that it took, cannot tell."""


def now() -> datetime:
    """Wall time of this machine, in UTC."""
    return datetime.now(UTC)


def ahead(date: str, before: timedelta) -> timedelta:
    """How far the clock of who just said ``date`` (RFC 9110) is ahead of this machine's; ``before``
    if it is no date."""
    try:
        found = parsedate_to_datetime(date).astimezone(UTC) - now()
    except (ValueError, OverflowError):
        return before
    return found if abs(found) > _COARSE else timedelta()


def timestamp(moment: datetime) -> str:
    """``metav1.Time``: seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def microtime(moment: datetime) -> str:
    """``metav1.MicroTime``, as Leases have it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
