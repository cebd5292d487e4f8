"""Makes interfaces have the peers that the book says.

There are two ways to do so. The quick one tells an interface what changed since it was last told:
one short message for a pod that comes or goes. The thorough one reads the interface and corrects
it. Work on one configuration takes turns; configurations never wait for each other.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from egress_gateway.datapath.addresses import IPNetwork
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.gateway.served import ServedConfiguration, WireGuardServer
from egress_gateway.datapath.gateway.side import GatewaySide
from egress_gateway.gateway.peers.book import PeerBook
from egress_gateway.gateway.peers.rules import difference

log = logging.getLogger(__name__)

_THREADS: Final = 8

Peers = dict[str, tuple[IPNetwork, ...]]


class PeerSync:
    """``serve`` first, then ``sync`` for each configuration; from then on ``change`` is enough."""

    def __init__(self, side: GatewaySide, book: PeerBook) -> None:
        self._side = side
        self._book = book
        self._served: dict[str, ServedConfiguration] = {}
        self._applied: dict[str, Peers] = {}
        """What each configuration's interfaces were last told, by name."""
        self._seconds: dict[str, WireGuardServer] = {}
        """Second servers that are told of peers, by configuration's name."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        # Its own threads: however long they wait for the kernel, the structure's pass goes on.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="peers")

    @property
    def served(self) -> Mapping[str, ServedConfiguration]:
        """By name."""
        return self._served

    @property
    def counts(self) -> dict[str, int]:
        """Peers by configuration's name."""
        return {name: len(peers) for name, peers in self._applied.items()}

    @property
    def total(self) -> int:
        """Peers of all configurations."""
        return sum(map(len, self._applied.values()))

    def serve(self, configurations: Iterable[ServedConfiguration]) -> None:
        """These have interfaces now, and no others."""
        self._served = {c.name: c for c in configurations}
        self._seconds = {}
        self._applied = {n: p for n, p in self._applied.items() if n in self._served}

    async def change(self, name: str) -> bool:
        """The quick way. Raises ``DatapathError`` when the interface is not what we think; then
        only ``sync`` helps. Returns whether anything changed."""
        configuration = self._served.get(name)
        if configuration is None or name not in self._applied:
            return False  # ``sync`` is to come and tells it everything
        async with self._lock(name):
            wanted = self._book.peers(name)
            change = difference(self._applied[name], wanted)
            if not change:
                return False
            second = self._seconds.get(name)
            try:
                for server in (configuration, second) if second else (configuration,):
                    await self._call(
                        self._side.change_peers,
                        server,
                        add=change.added,
                        remove=change.removed,
                        zone=configuration.in_zone,
                    )
            except DatapathError:
                self._applied.pop(name, None)
                raise
            self._applied[name] = wanted
        log.info(
            "changed peers",
            extra={
                "configuration": name,
                "added": len(change.added),
                "removed": len(change.removed),
            },
        )
        return True

    async def sync(self, configuration: ServedConfiguration) -> None:
        """The thorough way. Raises ``DatapathError``."""
        name = configuration.name
        async with self._lock(name):
            wanted = self._book.peers(name)
            await self._call(self._side.sync_peers, configuration, wanted)
            self._applied[name] = wanted

    async def sync_all(
        self, configurations: Iterable[ServedConfiguration], *, patience: float
    ) -> dict[str, str]:
        """Runs ``sync`` for all at once. After ``patience`` seconds, unfinished ones continue in
        the background. Returns problems by name: refusals of the kernel, and interfaces that are
        late and were never in sync."""
        wanted = {c.name: c for c in configurations}
        for name, one in wanted.items():
            if name not in self._running:
                self._running[name] = asyncio.create_task(self.sync(one), name=f"peers of {name}")
        tasks = {name: self._running[name] for name in wanted}
        if tasks:
            await asyncio.wait(tasks.values(), timeout=patience)
        problems = {}
        for name, task in tasks.items():
            if not task.done():
                if name not in self._applied:
                    problems[name] = (
                        f"writing its peers to WireGuard takes more than {patience:g} s"
                    )
                continue
            del self._running[name]
            try:
                task.result()
            except DatapathError as error:
                problems[name] = str(error)
        return problems

    async def sync_second(self, configuration: ServedConfiguration) -> None:
        """``sync`` for a configuration's second server. Raises ``DatapathError``."""
        name, server = configuration.name, configuration.second
        if server is None:
            return
        async with self._lock(name):
            # A peer that comes now is told to both.
            self._seconds[name] = server
            try:
                await self._call(
                    self._side.sync_peers,
                    server,
                    self._book.peers(name),
                    zone=configuration.in_zone,
                )
            except DatapathError:
                self._seconds.pop(name)
                raise

    def close(self) -> None:
        """Waits for nothing; calls that are in the kernel end there."""
        for task in self._running.values():
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _call(self, function: Callable[..., object], *args: object, **more: object) -> None:
        call = functools.partial(function, *args, **more)
        await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())
