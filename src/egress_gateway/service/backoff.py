"""Delays between tries: doubling, jittered, bounded. The one place where a delay is doubled.

Jitter is of the "equal" kind: half of the delay is certain, half is random, so that a thousand
agents that lost the same server do not come back in step, and none hammers it.
"""

from __future__ import annotations

import random
from collections.abc import Callable

Random = Callable[[], float]
"""A number in [0, 1)."""


def doubled(failures: int, first: float, limit: float) -> float:
    """Seconds after ``failures`` (≥ 1) in a row: ``first``, twice ``first``, ..., ``limit``."""
    # The exponent is bounded so that what fails for weeks does not overflow a float.
    return min(limit, first * 2.0 ** min(failures - 1, 64))


def delay(failures: int, first: float, limit: float, rand: Random = random.random) -> float:
    """Seconds to wait after ``failures`` (≥ 1) failures in a row."""
    return doubled(failures, first, limit) * (0.5 + 0.5 * rand())


class Backoff:
    """Counts failures in a row."""

    def __init__(self, first: float, limit: float, rand: Random = random.random) -> None:
        self._first, self._limit, self._rand = first, limit, rand
        self.failures = 0

    def failed(self) -> float:
        """Notes a failure; returns the seconds to wait."""
        self.failures += 1
        return delay(self.failures, self._first, self._limit, self._rand)

    def succeeded(self) -> None:
        """The next failure waits as short as the first."""
        self.failures = 0
