"""Kubernetes' time stamps. Wall time is only ever shown or stored; expiry uses monotonic time."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """``metav1.Time``: seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def microtime(moment: datetime) -> str:
    """``metav1.MicroTime``, as Leases have it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
