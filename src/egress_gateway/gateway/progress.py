"""Whether passes over the structure begin and end. Used in one event loop."""

from __future__ import annotations

import time
from collections.abc import Callable


class PassProgress:
    """A context manager around each pass. ``interval``: seconds between passes at most."""

    def __init__(self, interval: float, now: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._now = now
        self._running = False
        self._at = now()
        """When the last pass began if one runs, else when it ended."""
        self._took = 0.0

    def __enter__(self) -> None:
        self._running, self._at = True, self._now()

    def __exit__(self, *_: object) -> None:
        now = self._now()
        self._running, self._at, self._took = False, now, now - self._at

    def stalled(self, limit: float) -> str | None:
        """What is stuck, in words, if for more than ``limit`` seconds; None if nothing is."""
        waited = self._now() - self._at
        if self._running and waited > limit:
            return f"a pass over the configurations has run for {waited:.0f} s"
        if not self._running and waited > limit + self._interval:
            return f"no pass over the configurations has begun for {waited:.0f} s"
        return None

    def rest(self, share: float, longest: float) -> float:
        """Seconds until another pass may begin, so that passes take one part in ``share`` of the
        time; ``longest`` at most."""
        since = self._now() - self._at
        if self._running:
            return min(max(self._took, since) * (share - 1), longest)
        return max(0.0, min(self._took * (share - 1), longest) - since)
