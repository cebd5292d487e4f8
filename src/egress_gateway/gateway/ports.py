"""How near each configuration's address is to its last free port, watched and told in time.

64,512 connections from one address to one destination (address, port, protocol) are the end: new
ones fail. The figure is a metric always, and above ``percent`` a warning: in the GatewayStatus, and
as an Event at the configuration. A warning stays until the figure is ten points lower.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.gateway.ruleset import ServedConfiguration
from egress_gateway.datapath.gateway.side import GatewaySide
from egress_gateway.datapath.linux.connections import PORTS, Use
from egress_gateway.gateway import metrics

log = logging.getLogger(__name__)

_RELIEF: Final = 10
"""Percent below the threshold at which a warning ends, so that it does not come and go."""
_SHARE: Final = 30
"""Counting may take one part in so many of the time: with a full table it is done less often."""

Warnings = dict[str, str]


class PortWatch:
    """``changed()`` is called when ``warnings`` (``namespace/name`` -> one line) are others."""

    def __init__(
        self, side: GatewaySide, *, percent: int, interval: float, changed: Callable[[], None]
    ) -> None:
        self._side = side
        self._percent = percent
        self._interval = interval
        self._changed = changed
        self._served: dict[int, ServedConfiguration] = {}
        self.warnings: Warnings = {}

    def watch(self, served: Mapping[str, ServedConfiguration]) -> None:
        """What is served from now on, by any key."""
        gone = {c.name for c in self._served.values()} - {c.name for c in served.values()}
        for name in gone:
            metrics.forget_use(name)
        self._served = {c.in_zone: c for c in served.values()}
        self.warnings = {n: w for n, w in self.warnings.items() if n not in gone}

    async def run(self) -> None:
        """Looks now and then, until cancelled."""
        while True:
            began = time.monotonic()
            try:
                await self.look()
            except DatapathError as error:
                log.warning("could not count connections: %s", error)
            took = time.monotonic() - began
            await asyncio.sleep(max(self._interval, took * _SHARE))

    async def look(self) -> None:
        """One look; tells if something changed."""
        if not self._served:
            return
        used = await asyncio.to_thread(self._side.use)
        entries, limit = await asyncio.to_thread(self._side.table)
        metrics.table(entries, limit)
        for zone, one in self._served.items():
            metrics.use(one.name, used.get(zone))
        warnings = judge(self._served, used, self.warnings, percent=self._percent)
        if full(entries, limit, percent=self._percent):
            text = f"the node's connection table holds {entries} of {limit} (nf_conntrack_max)"
            warnings = {c.name: warnings.get(c.name, text) for c in self._served.values()}
        # Figures change at every look; who is warned does not.
        news = warnings.keys() != self.warnings.keys()
        self.warnings = warnings
        if news:
            self._changed()


def judge(
    served: Mapping[int, ServedConfiguration],
    used: Mapping[int, Use],
    before: Mapping[str, str],
    *,
    percent: int,
) -> Warnings:
    """Who is to be warned, by name; ``served`` and ``used`` are by zone. Pure."""
    warnings = {}
    for zone, one in served.items():
        most = used.get(zone)
        bar = percent - _RELIEF if one.name in before else percent
        if most is not None and most.ports * 100 >= PORTS * bar:
            host = f"[{most.destination}]" if most.family == 6 else str(most.destination)
            there = f"{host}:{most.port}/{most.protocol}"
            warnings[one.name] = (
                f"{most.ports} of {PORTS} ports of {one.address(most.family)} towards {there} "
                "are in use; at the last one new connections there fail: reuse connections, or use "
                "more gateway nodes"
            )
    return warnings


def full(entries: int, limit: int, *, percent: int) -> bool:
    """Whether the connection table as a whole nears its end. A limit of 0 is none."""
    return 0 < limit * percent <= entries * 100
