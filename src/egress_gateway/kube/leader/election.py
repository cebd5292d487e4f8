"""Who may lead: the rules of a Lease, without I/O.

Guarantee: if every participant's clock runs at about the same rate, two of them never believe at
the same time that they lead. A leader believes for ``renew`` seconds from the *start* of its last
successful write; another takes over no earlier than ``duration`` seconds (or what the Lease itself
says, if longer) after it *saw* that write, which is later. ``renew < duration`` is the margin.
Wall clocks do not matter: a follower measures how long the record has stayed the same by its own
monotonic clock, as client-go does.
Not guaranteed: that a process which was stopped for long notices before its next instruction. What
a leader writes must therefore be safe to write twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from egress_gateway.kube.clock import microtime
from egress_gateway.kube.resources import Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """What to write: created if ``resource_version`` is empty, else conditional on it."""

    resource_version: str
    spec: Mapping[str, Any]


class Election:
    """One participant's view. All times are seconds of one monotonic clock."""

    def __init__(self, identity: str, *, duration: float, renew: float) -> None:
        if not identity:
            raise ValueError("leader election needs an identity")
        if not 0 < renew < duration:
            raise ValueError(f"renew ({renew} s) must be below the Lease's duration ({duration} s)")
        self.identity = identity
        self._duration, self._renew = duration, renew
        self._lease: Lease | None = None
        self._seen_at = float("-inf")
        self._deadline = float("-inf")

    @property
    def holder(self) -> str:
        """Who the Lease names, as last seen."""
        return (self._lease.spec.holder_identity or "") if self._lease else ""

    @property
    def deadline(self) -> float:
        """Until when this participant leads unless it renews."""
        return self._deadline

    def leading(self, now: float) -> bool:
        """``now``: seconds of a monotonic clock."""
        return now < self._deadline

    def saw(self, lease: Lease | None, now: float) -> None:
        """The Lease as read (None: there is none)."""
        known = self._lease.metadata.resource_version if self._lease else None
        if lease is None or lease.metadata.resource_version != known:
            self._seen_at = now
        self._lease = lease
        if self.holder != self.identity:
            self._deadline = float("-inf")

    def wait(self, now: float) -> float:
        """Seconds until this participant may write; 0 if it may now."""
        if self.holder in ("", self.identity) or self._lease is None:
            return 0.0
        theirs = float(self._lease.spec.lease_duration_seconds or 0)
        return max(0.0, self._seen_at + max(self._duration, theirs) - now)

    def silent(self, now: float) -> float:
        """Seconds for which whoever holds the Lease has not renewed it; 0 if nobody else does."""
        return now - self._seen_at if self.wait(now) else 0.0

    def claim(self, wall: datetime) -> Write:
        """The write that takes or renews the Lease."""
        spec: dict[str, Any] = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": math.ceil(self._duration),
            "renewTime": microtime(wall),
        }
        if self._lease is None:
            return Write(
                resource_version="",
                spec={**spec, "acquireTime": microtime(wall), "leaseTransitions": 0},
            )
        if self.holder != self.identity:
            turns = (self._lease.spec.lease_transitions or 0) + 1
            spec |= {"acquireTime": microtime(wall), "leaseTransitions": turns}
        return Write(resource_version=self._lease.metadata.resource_version, spec=spec)

    def release(self, wall: datetime) -> Write | None:
        """The write that gives up the Lease, so that the next leader need not wait; None if not
        held."""
        if self._lease is None or self.holder != self.identity:
            return None
        return Write(
            resource_version=self._lease.metadata.resource_version,
            spec={"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": microtime(wall)},
        )

    def wrote(self, lease: Lease, started: float) -> None:
        """A claim succeeded whose request began at ``started``."""
        self._lease = lease
        self._seen_at = started
        self._deadline = started + self._renew

    def gave_up(self) -> None:
        """The lease was released: it does not lead any longer."""
        self._deadline = float("-inf")
