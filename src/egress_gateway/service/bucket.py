"""A token bucket: a burst, then a steady rate. Pure: the caller reads the clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Bucket:
    """``rate`` tokens a second, at most ``burst`` of them saved up. Times are in seconds."""

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

    def take_now(self, now: float) -> bool:
        """Takes one token if there is one."""
        left = max(0.0, self.level - (now - self.at) * self.rate)
        if left + 1 > self.burst:
            return False
        self.level, self.at = left + 1, now
        return True
