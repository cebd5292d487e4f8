"""Gateways that a configuration gets, and that have not served it yet.

A machine takes minutes to join the cluster, and its agent some seconds more to take up each
configuration. Until then nothing is lost. A gateway that has served, or that does not begin to
within ``ARRIVE_SECONDS``, is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

ARRIVE_SECONDS: Final = 600.0
"""AKS takes two to five minutes from a machine's creation to a ready Node."""


class Arrivals:
    """Of all configurations, by UID. Gateways are named by their provider ids in lower case."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, dict[str, float]] = {}
        """When each was first seen; minus infinity: it has served."""

    def look(
        self,
        uid: str,
        listed: Collection[str],
        ready: Collection[str],
        before: Collection[str] = (),
    ) -> frozenset[str]:
        """Those of ``listed`` that are still to come. ``ready`` serve now; ``before`` had served
        when a controller that begins anew first looked."""
        known = self._since.get(uid, dict.fromkeys(before, float("-inf")))
        now = self._clock()
        since = {g: float("-inf") if g in ready else known.get(g, now) for g in listed}
        self._since[uid] = since
        return frozenset(g for g, began in since.items() if now < began + ARRIVE_SECONDS)

    def due(self, uid: str) -> float | None:
        """Seconds until some gateway of ``uid`` counts as missing; None: there is none to come."""
        now = self._clock()
        ends = [began + ARRIVE_SECONDS - now for began in self._since.get(uid, {}).values()]
        return min((left for left in ends if left > 0), default=None)

    def forget(self, uid: str) -> None:
        """The configuration is gone."""
        self._since.pop(uid, None)
