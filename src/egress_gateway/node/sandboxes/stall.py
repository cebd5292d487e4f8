"""When a tunnel whose gateway answers probes counts as dead. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

STALL: Final = 15.0
"""Seconds for which a tunnel may leave what is sent through it unanswered."""


@dataclass(slots=True)
class StallDetector:
    """Notices a verified tunnel that has died although its gateway answers probes. Pure.

    A peer that lives answers everything within ten seconds, if only with a keepalive (WireGuard's
    passive keepalive, section 6.5 of its paper). Silence while we say nothing means nothing.
    """

    received: int = -1
    sent: int = 0
    unanswered_since: float | None = None

    def stalled(self, *, received: int, sent: int, now: float) -> bool:
        """Whether packets have gone unanswered for too long. ``received`` and ``sent`` are
        the peer's byte counters."""
        if received != self.received:
            self.received, self.sent, self.unanswered_since = received, sent, None
        elif sent > self.sent and self.unanswered_since is None:
            self.unanswered_since = now
        return self.unanswered_since is not None and now - self.unanswered_since > STALL
