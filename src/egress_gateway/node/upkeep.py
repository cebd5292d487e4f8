"""Routine work: looks at every pod regularly, finds lost files, removes leftovers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from typing import Final

from msgspec.structs import replace

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.pod.sources import FOREIGN_TUNNEL
from egress_gateway.datapath.wireguard.mtu import default_route_mtu
from egress_gateway.kube.errors import ApiError
from egress_gateway.node import metrics
from egress_gateway.node.lifecycle import SET_BACK
from egress_gateway.node.parts import Parts, UsesParts

log = logging.getLogger(__name__)

_GUARD_SECONDS: Final = 2.0
"""Between two looks at files (two system calls a pod) and at the node's MTU."""
_LOOK_SECONDS: Final = 0.1
"""Between two routine looks at pods: a look takes milliseconds, and hundreds of idle pods must not
keep a processor busy."""


class Upkeep(UsesParts):
    """Looks at attached pods again and again, and mends what has changed under them."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.held = metrics.HeldPackets()
        self._clock = time.time() - time.monotonic()
        self._drops = metrics.LinkDrops()
        self._dropped = (sys.maxsize, sys.maxsize)
        """Forged packets, and packets to gateways' ports, at the last look; at first any number:
        what there was before is old."""

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._resync())
            group.create_task(self._guard())

    async def _resync(self) -> None:
        """At once after a start, when anything may have happened; later one pod after another
        over the interval: hundreds at a time would delay pods that start meanwhile."""
        loop, interval = asyncio.get_running_loop(), self._settings.resync_interval
        first = True
        while True:
            due = loop.time() + interval
            known = self._store.record_ids() | self._sandboxes.ids()
            pause = 0.0 if first else max(interval / max(len(known), 1), _LOOK_SECONDS)
            for sandbox_id in known:
                self._queues.routine.add(sandbox_id)
                await asyncio.sleep(pause)
            if first:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await self._knowledge.heard()
            else:
                await asyncio.sleep(max(due - loop.time(), 0.0))
            first = False
            try:
                await self._housekeep()
            except (ApiError, DatapathError) as error:
                log.warning("cannot look after pods", extra={"error": str(error)})

    async def _guard(self) -> None:
        """Until cancelled: pods whose files somebody removed or damaged are looked at at once, and
        all of them when the node's MTU has changed."""
        while True:
            await asyncio.sleep(_GUARD_SECONDS)
            self._follow_clock()
            await self._follow_mtu()
            self._store.make_folders()
            for sandbox_id in self._sandboxes.ids():
                if self._store.altered(sandbox_id):
                    self._queues.routine.add(sandbox_id)

    def _follow_clock(self) -> None:
        """Gateways believe no handshake that is older than the last one with its key (WireGuard's
        paper, 5.1). After the node's clock was set back pods need others."""
        before, self._clock = self._clock, time.time() - time.monotonic()
        if before - self._clock > SET_BACK:
            seconds = round(before - self._clock)
            log.warning("renewed keys since clock was set back", extra={"seconds": seconds})
            for sandbox in self._sandboxes:
                sandbox.outdated = True
                self._queues.moves.add(sandbox.attachment.id)

    async def _follow_mtu(self) -> None:
        """Without a default route it is as before."""
        if self._settings.node_mtu or not self._sandboxes.ids():
            return
        with contextlib.suppress(DatapathError):
            found = await self._kernel.run(default_route_mtu)
            if found != self._kernel.facts.mtu:
                log.info("followed the node's MTU", extra={"mtu": found})
                self._kernel.facts = replace(self._kernel.facts, mtu=found)
                for sandbox_id in self._sandboxes.ids():
                    self._queues.routine.add(sandbox_id)

    async def _housekeep(self) -> None:
        known = self._store.record_ids() | self._sandboxes.ids()
        self._sandboxes.forget_locks(known)
        await self._count_held()
        await self._find_stalled()
        await self._kernel.run(self._kernel.sources.sync)
        await self._kernel.run(self._kernel.sync_links, [s.attachment for s in self._sandboxes])
        await self._count_dropped()
        attached = self._sandboxes.uids()
        if self._knowledge.pods.is_synced:
            await self._records.find_missing(attached)
            await self._endpoints.sweep(attached | self._knowledge.asking())
        for sandbox_id in self._store.attachment_ids() - self._sandboxes.ids():
            if self._records.living(sandbox_id) is None:
                self._store.forget(sandbox_id)

    async def _count_dropped(self) -> None:
        """Packets of pods that the node has dropped, by what they tried."""
        guard, node = self._kernel.guard, self._settings.node_name
        forged = await self._kernel.run(guard.counters) if guard is not None else {}
        strange = await self._kernel.run(self._kernel.sources.strangers)
        metrics.UNGUARDED.set(len(guard.unguarded) if guard is not None else 0)
        self._drops.note(forged | {FOREIGN_TUNNEL: strange})
        before, self._dropped = self._dropped, (sum(forged.values()), strange)
        # A table that was made anew counts from nothing.
        if self._dropped[0] > before[0]:
            self._teller.forged(node)
        if self._dropped[1] > before[1]:
            self._teller.strangers(node)

    async def _count_held(self) -> None:
        labels = set()
        for sandbox in self._sandboxes:
            state = sandbox.attachment
            packets = await sandbox.held()
            if not sandbox.gone:
                label = state.namespace, state.configuration.name
                labels.add(label)
                self.held.note(state.id, packets, *label)
        self.held.keep(self._sandboxes.ids(), labels)

    async def _find_stalled(self) -> None:
        loop = asyncio.get_running_loop()
        for sandbox in self._sandboxes:
            if await sandbox.distrust(loop.time()):
                self._teller.stalled(sandbox.attachment)
                self._queues.moves.add(sandbox.attachment.id)
