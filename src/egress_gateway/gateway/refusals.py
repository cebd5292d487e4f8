"""Tells people of claims that do not count: an Event, a line in the GatewayStatus, a metric, a log.

Only of claims on configurations that this gateway serves, and only of those that stay refused for a
while: caches hear of a Pod and of its PodEndpoint at different moments, and for those moments every
claim looks wrong.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from egress_gateway.api import types
from egress_gateway.gateway import metrics
from egress_gateway.gateway.peers.book import PeerBook
from egress_gateway.gateway.peers.rules import PASSING, ClaimRejection
from egress_gateway.kube.errors import ApiError
from egress_gateway.kube.resources import Key

log = logging.getLogger(__name__)

REPORTED: Final = types.CLAIMS
"""Lines in the GatewayStatus, as its definition bounds them."""
GRACE: Final = 3.0
"""Seconds that a claim stays refused before anybody is told."""
PASSING_GRACE: Final = 60.0
"""The same for what the end of each pod looks like until its PodEndpoint is collected."""
_LOOK: Final = 1.0

Tell = Callable[[Key, ClaimRejection], None]
Publish = Callable[[list[types.RefusedClaim]], Awaitable[object]]


class Refusals:
    """``served()`` names the configurations that this gateway serves. ``tell`` writes an Event,
    ``publish`` the lines of the GatewayStatus, which may raise ``ApiError``."""

    def __init__(
        self,
        book: PeerBook,
        *,
        served: Callable[[], Collection[str]],
        tell: Tell,
        publish: Publish,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._book = book
        self._served = served
        self._tell = tell
        self._publish = publish
        self._now = now
        self._since: dict[Key, tuple[ClaimRejection, float]] = {}
        self._told: dict[Key, ClaimRejection] = {}

    async def run(self) -> None:
        """Looks about once a second, until cancelled."""
        while True:
            self._book.tick()
            try:
                await self.look()
            except ApiError as error:
                log.warning("could not write refused claims: %s", error)
            await asyncio.sleep(_LOOK)

    async def look(self) -> None:
        """Tells what is new. Raises ``ApiError``."""
        now = self._now()
        served = self._served()
        refused = {k: r for k, r in self._book.refused.items() if self._book.claimed(k) in served}
        self._since = {
            key: (one, self._since[key][1] if key in self._since else now)
            for key, one in refused.items()
        }
        standing = {
            key: one
            for key, (one, since) in self._since.items()
            if now - since >= (PASSING_GRACE if one.reason in PASSING else GRACE)
        }
        for key, one in standing.items():
            if key not in self._told or self._told[key].reason != one.reason:
                metrics.CLAIMS_REFUSED.labels(one.reason).inc()
                log.warning(
                    "refused a claim",
                    extra={"pod": str(key), "reason": one.reason, "why": one.message},
                )
                self._tell(key, one)
        self._told = standing
        await self._publish(self._lines())

    def _lines(self) -> list[types.RefusedClaim]:
        return [
            types.RefusedClaim(
                pod=str(key),
                static_gateway_configuration=self._book.claimed(key),
                reason=one.reason,
                message=one.message,
            )
            for key, one in sorted(self._told.items())[:REPORTED]
        ]
