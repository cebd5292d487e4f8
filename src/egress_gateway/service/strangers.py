"""Tells administrators when somebody keeps the ports of a process busy.

Single refusals are ordinary: a collector without a token, a scanner that passes by. The metric has
them all. Only many within a minute are worth an Event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from egress_gateway.service.server import refused

MANY: Final = 100
"""Refusals between two looks that are worth telling."""
_LOOK: Final = 60.0
_TEXT: Final = (
    "{} requests or connections to this agent's ports were refused within a minute: too many at a "
    "time, too large, too slow or not allowed; probes and metrics are still served; "
    "egress_gateway_requests_refused_total counts them by port and reason; look for a pod or a "
    "machine that floods or scans this node"
)


class PortsFloodWatch:
    """``tell`` writes the Event."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._before = refused()

    async def run(self) -> None:
        """Looks once a minute, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK)
            self.look()

    def look(self) -> None:
        """Tells if many came since the last look."""
        now = refused()
        if now - self._before >= MANY:
            self._tell(_TEXT.format(int(now - self._before)))
        self._before = now
