"""Spreads handshakes out, since a gateway that gets too many at once asks all for cookies.

Measured (facts of the design): 150 at once are fine, 400 at once are not, 1,000 over one second
are. A burst is allowed, then a steady rate.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Hashable
from dataclasses import dataclass, field

from egress_gateway.node.liveness.schedule import SILENCE
from egress_gateway.service.bucket import Bucket


@dataclass(slots=True)
class Window:
    """Handshakes with one gateway that were started and are not known to be complete. Pure; a clock
    that the caller reads, in seconds.

    At most ``size`` of them. One that is not heard of for ``patience`` no longer counts, and halves
    the size: the gateway has more to do than it can, or is gone. Each that is complete gives one
    place back, up to ``limit``.
    """

    limit: int
    patience: float
    size: float = 0.0
    started: dict[Hashable, float] = field(default_factory=dict)
    _halved: float = float("-inf")

    def __post_init__(self) -> None:
        self.size = self.limit

    def start(self, key: Hashable, now: float) -> float:
        """Takes a place for ``key``, whose earlier one is given back; returns 0, or the seconds
        after which to ask again if nothing is complete before."""
        waiting = {k: t for k, t in self.started.items() if t + self.patience > now}
        if len(waiting) < len(self.started) and now - self._halved > self.patience:
            self.size, self._halved = max(1.0, self.size / 2), now
        self.started = waiting
        if key not in waiting and len(waiting) >= int(self.size):
            return max(0.001, min(waiting.values()) + self.patience - now)
        self.started[key] = now
        return 0.0

    def complete(self, key: Hashable) -> None:
        """One more may be under way from now on, up to ``limit``. Unknown keys change nothing."""
        if self.started.pop(key, None) is not None:
            self.size = min(self.limit, self.size + 1)


class _Lane:
    """Who waits for one gateway, in order."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.turn = asyncio.Lock()
        self.completed = asyncio.Event()
        self.asked = float("-inf")
        """When a handshake was last started."""
        self.silent_since = float("inf")
        """When one was last complete, or the first of those that none has followed was started."""

    def started(self, now: float) -> None:
        if now - self.asked > SILENCE:
            self.silent_since = now
        self.asked = now


class Pacer:
    """``rate`` a second at most after a burst of ``burst``, and ``window`` at a time to each
    gateway: one that has little processor time sets its own pace. All nodes that lose a gateway
    turn to the others at the same moment, so the window is far below what one gateway takes."""

    def __init__(
        self, rate: float, burst: int = 50, *, window: int = 12, patience: float = 1.0
    ) -> None:
        self._bucket = Bucket(rate, burst)
        self._new_window = functools.partial(Window, window, patience)
        self._lanes: dict[str, _Lane] = {}

    async def turn(self, key: Hashable, gateway: str) -> bool:
        """Returns when the caller may start a handshake of the tunnel ``key`` with ``gateway`` (an
        address); first come, first served. False: those before it have had no answer for
        ``SILENCE``, so that another gateway is worth a try."""
        loop = asyncio.get_running_loop()
        lane = self._lanes.get(gateway)
        if lane is None:
            lane = self._lanes[gateway] = _Lane(self._new_window())
        async with lane.turn:
            while wait := lane.window.start(key, loop.time()):
                if loop.time() - lane.silent_since > SILENCE:
                    return False
                lane.completed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await lane.completed.wait()
            lane.started(loop.time())
        wait = self._bucket.take(loop.time())
        if wait:
            await asyncio.sleep(wait)
        return True

    def complete(self, key: Hashable, gateway: str = "") -> None:
        """The tunnel has its handshake with ``gateway``, or needs none any more."""
        for address, lane in self._lanes.items():
            lane.window.complete(key)
            if address == gateway:
                lane.silent_since = asyncio.get_running_loop().time()
            lane.completed.set()
