"""The gateway agent: observe, plan, apply, in two loops.

*Structure* (which configurations, with which addresses) is one key of the work queue: a pass reads
keys, makes the kernel agree, and reports. *Peers* are one key per configuration: a pod that comes
or goes is one message to one interface. Nothing is remembered that the kernel could contradict:
each structure pass compares with it. The agent's end changes nothing; its successor adopts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Final

from egress_gateway.api import keys
from egress_gateway.api.conditions import IPV6_HELD_BACK
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.datapath.addresses import IPNetwork
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.gateway.plan import OVERHEAD, GatewayDesired, Surroundings
from egress_gateway.datapath.gateway.ruleset import Configuration, Server, zones
from egress_gateway.datapath.gateway.side import Converged, GatewaySide
from egress_gateway.datapath.mtu import IPV6_MTU
from egress_gateway.gateway import metrics
from egress_gateway.gateway.connectionlog import ConnectionLog, Logged
from egress_gateway.gateway.keystore import KeyStore
from egress_gateway.gateway.peers.book import PeerBook
from egress_gateway.gateway.peers.rules import difference
from egress_gateway.gateway.ports import PortWatch
from egress_gateway.gateway.report import Answers, Reporter, status_spec
from egress_gateway.gateway.serving import Listed, Serving, listed, serving, without_ipv6
from egress_gateway.kube.errors import ApiError
from egress_gateway.kube.events import Recorder
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import SGCS, Key
from egress_gateway.kube.workqueue.backoff import Backoff
from egress_gateway.kube.workqueue.queue import WorkQueue, run_workers

log = logging.getLogger(__name__)

STRUCTURE: Final = ""
"""The queue's key of the structure; all others are ``namespace/name`` of a configuration."""
_SOON: Final = 2.0
"""Seconds until a report that could not be written is tried again."""
_WORKERS: Final = 4
_FRESH: Final = 0.2
"""Seconds that an answer to a probe may be old."""

Peers = dict[str, tuple[IPNetwork, ...]]


class Agent:
    def __init__(
        self,
        *,
        node: str,
        primary: IPv4Address,
        mtu: int,
        refused: tuple[IPNetwork, ...],
        resync: float,
        side: GatewaySide,
        configurations: Cache[StaticGatewayConfiguration],
        book: PeerBook,
        queue: WorkQueue[str],
        keystore: KeyStore,
        reporter: Reporter,
        recorder: Recorder,
        answers: Answers,
        ports: PortWatch,
        connection_log: ConnectionLog,
    ) -> None:
        self._node = node
        self._primary = primary
        self._mtu = mtu
        self._refused = refused
        self._resync = resync
        self._side = side
        self._configurations = configurations
        self._book = book
        self._queue = queue
        self._keystore = keystore
        self._reporter = reporter
        self._recorder = recorder
        self._answers = answers
        self._ports = ports
        self._connection_log = connection_log
        self._served: dict[str, Configuration] = {}
        self._applied: dict[str, Peers] = {}
        self._seconds: dict[str, Server] = {}
        """Second servers that are told of peers, by configuration's name."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._patience = Backoff(0.2, 10.0)
        self._serving: tuple[float, frozenset[int]] = (float("-inf"), frozenset())
        self.problem: str | None = "the first pass is not done"
        """Why the agent is not ready; None when it is."""
        configurations.on_change(self._on_configuration)

    async def run(self) -> None:
        """Works until cancelled. Start it when the caches are synced: before, an empty list
        would look like "no peers"."""
        self._queue.add(STRUCTURE)
        await run_workers(self._queue, self._handle, _WORKERS)

    def _on_configuration(
        self,
        key: Key,
        old: StaticGatewayConfiguration | None,
        new: StaticGatewayConfiguration | None,
    ) -> None:
        # Conditions and events of other nodes change often; they are none of our business.
        if [listed([o], self._node) if o else [] for o in (old, new)] == [[], []]:
            return
        self._queue.add(STRUCTURE)

    async def _handle(self, key: str) -> float | None:
        if key == STRUCTURE:
            return await self._structure()
        await self._peers(key)
        return None

    @property
    def secondaries(self) -> dict[str, IPv4Address]:
        """The address that each configuration's packets leave with, by name."""
        return {name: one.secondary for name, one in self._served.items()}

    # Structure.

    async def _structure(self) -> float:
        """One pass: what is listed, with which keys, made so, said so."""
        wanted = listed(self._configurations.values(), self._node)
        if not wanted:
            return await self._idle()
        private, key_problems = await self._keystore.refresh(wanted)
        outcome = serving(wanted, private, key_problems, self._keystore.second)
        try:
            around = await asyncio.to_thread(self._side.surroundings)
            if not around.ipv6 or self._mtu - OVERHEAD < IPV6_MTU:
                outcome = without_ipv6(outcome)
            outcome = _zoned(outcome, await asyncio.to_thread(self._side.zones))
            desired = GatewayDesired(
                primary=self._primary,
                mtu=self._mtu,
                configurations=tuple(outcome.configurations.values()),
                refused=self._refused,
                surroundings=around,
            )
            converged = await asyncio.to_thread(self._side.converge, desired)
        except DatapathError as error:
            # What ran goes on, and the last report stands; the queue tries again.
            self.problem = str(error)
            raise
        self._note(converged)
        problems = _problems(outcome, converged)
        ready, public = _ready(outcome, converged, problems)
        self._served = {c.name: c for c in ready.values()}
        self._seconds = {}
        self._applied = {n: p for n, p in self._applied.items() if n in self._served}
        for uid, configuration in list(ready.items()):
            try:
                await self._sync_peers(configuration)
            except DatapathError as error:
                problems[configuration.name] = str(error)
                del ready[uid]
        seconds = await self._sync_seconds(ready, converged, problems)
        self._ports.watch(ready)
        await asyncio.to_thread(self._connection_log.set, _logged(wanted, ready))
        warnings = _ipv6_warnings(wanted, self._mtu, around)
        await self._report(ready, public, problems, warnings, seconds)
        if self.problem is not None:
            peers = sum(map(len, self._applied.values()))
            log.info("serving", extra={"configurations": len(ready), "peers": peers})
        self.problem = None
        counters = await asyncio.to_thread(self._side.counters)
        metrics.observe(counters, ready=len(ready), problems=len(problems))
        if problems:
            return self._patience.failed()
        self._patience.succeeded()
        return self._resync

    async def _idle(self) -> float:
        """Nothing lists this node: it looks as if we had never been here."""
        self._served, self._applied, self._seconds = {}, {}, {}
        self._ports.watch({})
        await asyncio.to_thread(self._connection_log.set, {})
        if await asyncio.to_thread(self._side.remove):
            log.info("no configuration lists this node: everything removed")
        await self._report({}, {}, {}, {}, {})
        self.problem = None
        metrics.observe({}, ready=0, problems=0)
        return self._resync

    def _note(self, converged: Converged) -> None:
        self._serving = (float("-inf"), frozenset())
        for step in converged.done:
            log.info(
                "repaired" if step.port is None else "configured",
                extra={"action": type(step.action).__name__, "port": step.port},
            )

    async def _report(
        self,
        ready: Mapping[str, Configuration],
        public: Mapping[str, str],
        problems: Mapping[str, str],
        without: Mapping[str, str],
        seconds: Mapping[str, str],
    ) -> None:
        """``without``: what some must do without, by name; they are served for all that."""
        self._answers.set({uid: c.port for uid, c in ready.items()})
        warnings = self._ports.warnings
        for name, message in problems.items():
            self.warn(name, "GatewayProblem", f"cannot serve it: {message}")
        for name, message in warnings.items():
            self.warn(name, "PortsRunningOut", message)
        for name, message in without.items():
            self.warn(name, "GatewayWithoutIPv6", message)
        try:
            await self._reporter.publish(
                status_spec(ready, public, {**without, **warnings, **problems}, seconds)
            )
        except ApiError as error:
            # Traffic does not depend on the report; the next pass writes it.
            log.warning("report not written: %s", error)
            self._queue.add_after(STRUCTURE, _SOON)

    def warn(self, name: str, reason: str, text: str) -> None:
        """An Event on the configuration ``name`` (``namespace/name``)."""
        sgc = self._configurations.get(*name.split("/", 1))
        if sgc is not None:
            reference = SGCS.reference(sgc)
            self._recorder.event(reference, "Warning", reason, f"node {self._node}: {text}")

    # Peers.

    async def _peers(self, name: str) -> None:
        """The quick way: only what changed since the interface was last told."""
        configuration = self._served.get(name)
        if configuration is None or name not in self._applied:
            return  # the structure pass that is to come tells it everything
        async with self._lock(name):
            wanted = self._book.peers(name)
            change = difference(self._applied[name], wanted)
            if not change:
                return
            second = self._seconds.get(name)
            try:
                for server in (configuration, second) if second else (configuration,):
                    await asyncio.to_thread(
                        self._side.change_peers,
                        server,
                        add=change.added,
                        remove=change.removed,
                    )
            except DatapathError:
                # The interface is not what we think: look at all of it.
                self._applied.pop(name, None)
                self._queue.add(STRUCTURE)
                raise
            self._applied[name] = wanted
        metrics.peers(name, len(wanted))
        log.info(
            "peers changed",
            extra={
                "configuration": name,
                "added": len(change.added),
                "removed": len(change.removed),
            },
        )

    async def _sync_peers(self, configuration: Configuration) -> None:
        """The thorough way: the interface is read and corrected."""
        name = configuration.name
        async with self._lock(name):
            wanted = self._book.peers(name)
            await asyncio.to_thread(self._side.sync_peers, configuration, wanted)
            self._applied[name] = wanted
        metrics.peers(name, len(wanted))

    async def _sync_seconds(
        self,
        ready: Mapping[str, Configuration],
        converged: Converged,
        problems: dict[str, str],
    ) -> dict[str, str]:
        """The same for second servers; by uid, the public keys of those that work. One that does
        not is a problem, and costs the first nothing."""
        found: dict[str, str] = {}
        for uid, one in ready.items():
            server = one.second
            if server is None:
                continue
            why = converged.problems.get(server.port)
            if why is None and server.private_key is None:
                why = "its private key is not in the Secret"
            if why is None:
                try:
                    async with self._lock(one.name):
                        # A peer that comes now is told to both.
                        self._seconds[one.name] = server
                        peers = self._book.peers(one.name)
                        await asyncio.to_thread(self._side.sync_peers, server, peers)
                except DatapathError as error:
                    self._seconds.pop(one.name)
                    why = str(error)
            if why is not None:
                problems[one.name] = f"second key pair, port {server.port}: {why}"
            elif one.second_answers and server.private_key is not None:
                found[uid] = keys.public_key(server.private_key)
        return found

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    # Probes.

    async def serves(self, uid: str) -> str | None:
        """None if packets of the configuration would be carried at this moment, else why not.
        Looks at the kernel, not at what we believe."""
        port = self._answers.port(uid)
        if port is None:
            return "not served here"
        at, ports = self._serving
        if time.monotonic() - at > _FRESH:
            try:
                ports = frozenset(await asyncio.to_thread(self._side.serving))
            except DatapathError as error:
                return str(error)
            self._serving = (time.monotonic(), ports)
        return None if port in ports else f"interface wg-{port} is down"


def _ipv6_warnings(wanted: Iterable[Listed], mtu: int, around: Surroundings) -> dict[str, str]:
    """By name: why IPv6 that was asked for is not carried here."""
    if mtu - OVERHEAD < IPV6_MTU:
        why = f"the node's MTU is {mtu}, and tunnels need {IPV6_MTU + OVERHEAD} for IPv6"
    elif not around.ipv6:
        why = "the node's kernel has no IPv6"
    elif not around.default6:
        why = "the node has no IPv6 default route; give its network interface an IPv6 address"
    else:
        return {}
    return {one.name: f"{IPV6_HELD_BACK}: {why}" for one in wanted if one.secondary6}


def _zoned(outcome: Serving, known: Mapping[IPv4Address, int]) -> Serving:
    uids, configurations = list(outcome.configurations), outcome.configurations.values()
    found = dict(zip(uids, zones(configurations, known), strict=True))
    return replace(outcome, configurations=found)


def _logged(wanted: Iterable[Listed], ready: Mapping[str, Configuration]) -> dict[int, Logged]:
    return {
        ready[one.uid].in_zone: Logged(one.name, one.public, one.public6)
        for one in wanted
        if one.connection_log and one.uid in ready
    }


def _problems(outcome: Serving, converged: Converged) -> dict[str, str]:
    """By name: what is wrong with objects, and what the kernel refused."""
    by_port = {c.port: c.name for c in outcome.configurations.values()}
    failed = {by_port[port]: why for port, why in converged.problems.items() if port in by_port}
    return {**outcome.problems, **failed}


def _ready(
    outcome: Serving, converged: Converged, problems: Mapping[str, str]
) -> tuple[dict[str, Configuration], dict[str, str]]:
    """What is served now, and with which public key; both by uid. A configuration whose key
    cannot be read is served if its interface was there already."""
    ready: dict[str, Configuration] = {}
    public: dict[str, str] = {}
    for uid, one in outcome.configurations.items():
        device = converged.found.get(one.interface)
        if one.private_key is None:
            if device is not None and one.port not in converged.problems:
                ready[uid], public[uid] = one, device.public_key
        elif one.name not in problems:
            ready[uid], public[uid] = one, keys.public_key(one.private_key)
    return ready, public
