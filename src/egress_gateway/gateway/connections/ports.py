"""How near each configuration's address is to its last free port, watched and told in time.

64,512 connections from one address to one destination (address, port, protocol) are the end: new
ones fail. The figure is a metric always, and above ``percent`` a warning: in the GatewayStatus, and
as an Event at the configuration. A warning stays until the figure is ten points lower.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.gateway.load import GatewayLoad
from egress_gateway.datapath.gateway.served import ServedConfiguration
from egress_gateway.datapath.linux.connections import PORTS, Survey, Use
from egress_gateway.datapath.linux.link import Traffic
from egress_gateway.gateway.connections.limits import ConnectionLimits, Excess, excess
from egress_gateway.gateway.connections.limits import full as full_of

log = logging.getLogger(__name__)

_RELIEF: Final = 10
"""Percent below the threshold at which a warning ends, so that it does not come and go."""
_UNLIMITED: Final = ConnectionLimits()
_HELD_BACK: Final = 120
"""Seconds that the kernel refuses, if nobody looks again."""
_PAUSE: Final = 1.0
_MANY_MORE: Final = 2000
"""Connections since the last look that are worth another one."""
_SHARE: Final = 30
"""Counting takes at most one part in this many of the time: rarer with a full table."""

Warnings = dict[str, str]


class PortWatch:
    """``changed()`` is called when ``warnings`` (``namespace/name`` -> one line) are others."""

    def __init__(
        self,
        load: GatewayLoad,
        *,
        percent: int,
        interval: float,
        changed: Callable[[], None],
        limits: ConnectionLimits = _UNLIMITED,
        tell: Callable[[str, IPAddress, str], None] = lambda *_: None,
    ) -> None:
        self._load = load
        self._percent = percent
        self._interval = interval
        self._changed = changed
        self._limits = limits
        self._tell = tell
        self._excess = Excess()
        self._hasty: frozenset[tuple[str, IPAddress]] = frozenset()
        self._entries = 0
        """Of the table at the last look."""
        self._served: dict[int, ServedConfiguration] = {}
        self.warnings: Warnings = {}
        self.use: dict[str, Use] = {}
        """By name, what was in use at the last look."""
        self.traffic: dict[str, Traffic] = {}
        """By interface, what it had carried."""
        self.table: tuple[int, int] | None = None
        """Entries of the connection table, and its limit."""

    @property
    def limited(self) -> tuple[int, int]:
        """Pods and configurations that must not open further connections."""
        return len(self._excess.pods), len(self._excess.zones)

    def watch(self, served: Mapping[str, ServedConfiguration]) -> None:
        """What is served from now on, by any key."""
        gone = {c.name for c in self._served.values()} - {c.name for c in served.values()}
        self._served = {c.in_zone: c for c in served.values()}
        self.warnings = {n: w for n, w in self.warnings.items() if n not in gone}

    async def run(self) -> None:
        """Looks regularly, until cancelled."""
        while True:
            began = time.monotonic()
            try:
                await self.look()
            except DatapathError as error:
                log.warning("could not count connections: %s", error)
            took = time.monotonic() - began
            await self._rest(took * _SHARE)

    async def _rest(self, least: float) -> None:
        """Until the next look: ``interval`` seconds, or fewer if there are suddenly many more
        connections, but ``least``."""
        began = time.monotonic()
        while (waited := time.monotonic() - began) < max(self._interval, least):
            if waited >= least and self._served:
                with contextlib.suppress(DatapathError):
                    entries, _ = await asyncio.to_thread(self._load.table)
                    if entries - self._entries >= _MANY_MORE:
                        return
            await asyncio.sleep(min(_PAUSE, max(self._interval, least)))

    async def look(self) -> None:
        """One look; tells if something changed."""
        if not self._served:
            return
        found = await asyncio.to_thread(self._load.survey)
        used = found.use
        entries, limit = await asyncio.to_thread(self._load.table)
        self._entries = entries
        self.table = entries, limit
        self.traffic = await asyncio.to_thread(self._load.traffic)
        await self._hold_back(found, limit)
        await self._tell_hasty()
        named = ((one.name, used.get(zone)) for zone, one in self._served.items())
        self.use = {name: use for name, use in named if use is not None}
        warnings = judge(self._served, found, self.warnings, percent=self._percent)
        if full(entries, limit, percent=self._percent):
            text = f"the node's connection table holds {entries} of {limit} (nf_conntrack_max)"
            warnings = {c.name: warnings.get(c.name, text) for c in self._served.values()}
        for zone, number in self._excess.zones.items():
            if zone in self._served:
                warnings[self._served[zone].name] = (
                    f"its pods have {number} connections here, its share of the connection table "
                    f"is {self._limits.share} % of {limit}: the gateway refuses new ones until "
                    "there are fewer; close idle connections, or use more gateway nodes"
                )
        # Figures change at every look; who is warned does not.
        news = warnings.keys() != self.warnings.keys()
        self.warnings = warnings
        if news:
            self._changed()

    async def _hold_back(self, found: Survey, table: int) -> None:
        """Stops new connections of those that have too many."""
        before, served = self._excess, self._served
        now = excess(found.sources, table, self._limits, before)
        if now or before:
            held = full_of(now, served.values())
            await asyncio.to_thread(self._load.hold_back, held, _HELD_BACK)
        self._excess = now
        for (zone, address), number in now.pods.items():
            if (zone, address) not in before.pods and zone in served:
                text = (
                    f"pod {address} has {number} connections through {served[zone].name}, a pod "
                    f"may have {self._limits.pod}: the gateway refuses new ones until it has "
                    "fewer; close idle connections, or use more pods (setting connections_per_pod)"
                )
                self._warn(served[zone].name, address, text)

    async def _tell_hasty(self) -> None:
        """The kernel refused some that came too fast."""
        if not self._limits.rate:
            return
        before, self._hasty = self._hasty, await asyncio.to_thread(self._load.hasty)
        names = {s.interface: c.name for c in self._served.values() for s in c.servers}
        for link, address in self._hasty - before:
            if link in names:
                text = (
                    f"pod {address} opens connections through {names[link]} faster than it may, "
                    f"{self._limits.rate} a second: the gateway refuses the rest; "
                    "reuse connections, or use more pods (setting connection_rate)"
                )
                self._warn(names[link], address, text)

    def _warn(self, name: str, address: IPAddress, text: str) -> None:
        log.warning(
            "held back new connections", extra={"configuration": name, "address": str(address)}
        )
        self._tell(name, address, text)


def judge(
    served: Mapping[int, ServedConfiguration],
    found: Survey,
    before: Mapping[str, str],
    *,
    percent: int,
) -> Warnings:
    """Who is to be warned, by name; ``served`` is by zone. Pure."""
    warnings = {}
    for zone, one in served.items():
        most = found.use.get(zone)
        bar = percent - _RELIEF if one.name in before else percent
        if most is not None and most.ports * 100 >= PORTS * bar:
            host = f"[{most.destination}]" if most.family == 6 else str(most.destination)
            there = f"{host}:{most.port}/{most.protocol}"
            warnings[one.name] = (
                f"{most.ports} of {PORTS} ports of {one.address(most.family)} towards {there} "
                "are in use; when all are in use, new connections there fail: reuse connections, "
                f"or use more gateway nodes{_busiest(found, zone)}"
            )
    return warnings


def _busiest(found: Survey, zone: int) -> str:
    """Which pod to look at first."""
    pods = {address: number for (of, address), number in found.sources.items() if of == zone}
    if not pods:
        return ""
    address = max(pods, key=lambda one: pods[one])
    return f" (of {len(pods)} pods, {address} has most connections: {pods[address]})"


def full(entries: int, limit: int, *, percent: int) -> bool:
    """Whether the connection table as a whole nears its end. A limit of 0 is none."""
    return 0 < limit * percent <= entries * 100
