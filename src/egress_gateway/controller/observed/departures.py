"""Gateways that pods leave before the status drops them.

A status that drops a gateway and a gateway that stops serving would otherwise come at one moment,
and every pod there would be without a way until its next tunnel has a handshake. So a gateway
whose address is about to be exchanged stays in the status, marked ``leaving``: it serves on, and
its pods make their next tunnel first. It is dropped when the agents of its pods say that they have
left, or after ``LEAVE_SECONDS``. The mark comes when a gateway that stays serves already, so that
pods have somewhere to go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

LEAVE_SECONDS: Final = 15.0
"""A planned move takes about one second, or six where the first handshake is lost."""


class Departures:
    """Of all configurations, by UID. Names are those of Nodes."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, dict[str, float]] = {}

    def look(
        self,
        uid: str,
        *,
        going: Collection[str],
        staying: Collection[str],
        ready: frozenset[str],
        used: Collection[str],
    ) -> Mapping[str, bool]:
        """Those of ``going`` that the status keeps, and whether it marks them.

        ``going`` are listed now and can serve on, ``staying`` are listed from now on, ``ready``
        serve, ``used`` have pods.
        """
        before, now = self._since.pop(uid, {}), self._clock()
        since = {node: before.get(node, now) for node in going}
        marked = not ready.isdisjoint(staying)
        kept = {
            node: marked
            for node, began in since.items()
            if staying and now < began + LEAVE_SECONDS and (node in used or not marked)
        }
        if kept:
            self._since[uid] = {node: since[node] for node in kept}
        return kept

    def due(self, uid: str) -> float | None:
        """Seconds until some gateway of ``uid`` is dropped whoever uses it; None: there is none."""
        found = self._since.get(uid)
        return max(0.0, min(found.values()) + LEAVE_SECONDS - self._clock()) if found else None

    def forget(self, uid: str) -> None:
        """The configuration is gone: nothing of it leaves any more."""
        self._since.pop(uid, None)
