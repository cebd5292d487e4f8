"""Spreads handshakes out, since a gateway that gets too many at once asks all for cookies.

Measured (facts of the design): 150 at once are fine, 400 at once are not, 1,000 over one second
are. A burst is allowed, then a steady rate.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(slots=True)
class Bucket:
    """A token bucket over a clock that the caller reads. Pure."""

    rate: float
    burst: float
    level: float = 0.0
    """Tokens owed: 0 is full, ``burst`` empty."""
    at: float = 0.0

    def take(self, now: float) -> float:
        """Takes one token; returns the seconds to wait before using it."""
        self.level = max(0.0, self.level - (now - self.at) * self.rate) + 1
        self.at = now
        return max(0.0, self.level - self.burst) / self.rate


class Pacer:
    def __init__(self, rate: float, burst: int = 50) -> None:
        self._bucket = Bucket(rate, burst)

    async def turn(self) -> None:
        """Returns when the caller may start one handshake."""
        wait = self._bucket.take(asyncio.get_running_loop().time())
        if wait:
            await asyncio.sleep(wait)
