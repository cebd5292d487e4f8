"""Spreads handshakes out, since a gateway that gets too many at once asks all for cookies.

Measured (facts of the design): 150 at once are fine, 400 at once are not, 1,000 over one second
are. A burst is allowed, then a steady rate.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Hashable
from dataclasses import dataclass, field


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


@dataclass(slots=True)
class Window:
    """Handshakes that were started and are not known to be complete. Pure; a clock that the caller
    reads, in seconds. One that is not heard of for ``patience`` counts no more: it is lost, or its
    gateway is."""

    size: int
    patience: float
    started: dict[Hashable, float] = field(default_factory=dict)

    def start(self, key: Hashable, now: float) -> float:
        """Takes a place for ``key``, whose earlier one is given back; returns 0, or the seconds
        after which to ask again if nothing is complete before."""
        self.started = {k: t for k, t in self.started.items() if t + self.patience > now}
        if key not in self.started and len(self.started) >= self.size:
            return max(0.001, min(self.started.values()) + self.patience - now)
        self.started.pop(key, None)
        self.started[key] = now
        return 0.0

    def complete(self, key: Hashable) -> None:
        self.started.pop(key, None)


class Pacer:
    """``rate`` a second at most after a burst of ``burst``, and ``window`` at a time: a gateway
    that has little processor time sets its own pace. All nodes that lose a gateway turn to the
    others at the same moment, so the window is far below what one gateway takes at once."""

    def __init__(
        self, rate: float, burst: int = 50, *, window: int = 24, patience: float = 0.15
    ) -> None:
        self._bucket = Bucket(rate, burst)
        self._window = Window(window, patience)
        self._turn = asyncio.Lock()
        self._completed = asyncio.Event()

    async def turn(self, key: Hashable) -> None:
        """Returns when the caller may start a handshake of the tunnel ``key``; first come, first
        served."""
        loop = asyncio.get_running_loop()
        async with self._turn:
            wait = self._bucket.take(loop.time())
            if wait:
                await asyncio.sleep(wait)
            while wait := self._window.start(key, loop.time()):
                self._completed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._completed.wait(), wait)

    def complete(self, key: Hashable) -> None:
        """The tunnel has its handshake, or needs none any more."""
        self._window.complete(key)
        self._completed.set()
