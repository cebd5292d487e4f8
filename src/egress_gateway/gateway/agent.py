"""The gateway agent: observes, plans and applies, in two loops.

*Structure* (which configurations, with which addresses) is one key of the work queue. A pass reads
keys, makes the kernel agree, and reports. *Peers* are one key for each configuration, so that a pod
that comes or goes costs one message to one interface. The agent remembers nothing that the kernel
could contradict: each structure pass compares with the kernel. When the agent ends it changes
nothing, and its successor adopts what it finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Final

from egress_gateway.api import keys
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.datapath.addresses import IPNetwork, parse_address, parse_network
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.gateway.plan import OVERHEAD, GatewayDesired, Surroundings
from egress_gateway.datapath.gateway.served import ServedConfiguration, TunnelSources
from egress_gateway.datapath.gateway.side import Converged, GatewaySide
from egress_gateway.datapath.linux.notify import Watcher
from egress_gateway.datapath.wireguard.mtu import IPV6_MTU, default_route_mtu
from egress_gateway.gateway.connectionlog import ConnectionLog
from egress_gateway.gateway.connections.ports import PortWatch
from egress_gateway.gateway.events import GatewayEvents, OwnNode
from egress_gateway.gateway.health.report import Answers, Reporter, status_spec
from egress_gateway.gateway.health.verified import Expected, own_servers
from egress_gateway.gateway.keystore import KeyStore
from egress_gateway.gateway.metrics import ConfigurationFigures, GatewayFigures
from egress_gateway.gateway.outcome import ipv6_warnings, logged, problems_of, ready_of, zoned
from egress_gateway.gateway.peers.book import PeerBook
from egress_gateway.gateway.peers.sync import PeerSync
from egress_gateway.gateway.progress import PassProgress
from egress_gateway.gateway.serving import ServingPlan, listed, serving, without_ipv6
from egress_gateway.gateway.settings import Settings
from egress_gateway.kube.errors import ApiError
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import Key, Node
from egress_gateway.kube.workqueue.queue import WorkQueue, run_workers
from egress_gateway.service.backoff import Backoff

log = logging.getLogger(__name__)

STRUCTURE: Final = ""
"""The queue's key of the structure; all others are ``namespace/name`` of a configuration."""
_SOON: Final = 2.0
"""Seconds until a report that could not be written is tried again."""
_WORKERS: Final = 16
"""Configurations whose peers change at the same time."""
_PATIENCE: Final = 5.0
"""Seconds that a pass waits for the peers of all configurations; see ``PeerSync.sync_all``."""
READY_AFTER: Final = 60.0
"""Seconds of a pass, or without one beyond ``resync``, after which the agent is not ready."""
ALIVE_AFTER: Final = 300.0
"""The same after which it asks to be started again: what hangs in a kernel call ends so."""
_SHARE: Final = 10
_LONGEST_REST: Final = 5.0
_FRESH: Final = 0.2
"""Seconds that an answer to a probe may be old."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the agent learns what it should do."""

    configurations: Cache[StaticGatewayConfiguration]
    nodes: Cache[Node]
    book: PeerBook
    keystore: KeyStore


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayKernel:
    """What the agent changes, and what looks on."""

    side: GatewaySide
    ports: PortWatch
    connection_log: ConnectionLog


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Whom the agent tells: the controller, the load balancer, and people."""

    reporter: Reporter
    answers: Answers
    events: GatewayEvents


class GatewayAgent:
    """Serves the configurations that list this node. ``queue`` has ``STRUCTURE`` and names of
    configurations."""

    def __init__(
        self,
        settings: Settings,
        machine: OwnNode,
        *,
        sources: Sources,
        kernel: GatewayKernel,
        report: Report,
        queue: WorkQueue[str],
    ) -> None:
        self._settings = settings
        self._machine = machine
        self._configurations = sources.configurations
        self._keystore = sources.keystore
        self._nodes = sources.nodes
        self._side = kernel.side
        self._kernel = kernel
        self._report = report
        self._queue = queue
        self._peers = PeerSync(kernel.side, sources.book)
        self._backoff = Backoff(0.2, 10.0)
        self._interfaces_up: tuple[float, frozenset[int]] = (float("-inf"), frozenset())
        """When the kernel was last asked for probes, and its answer: ports."""
        self._dropped: dict[str, int] | None = None
        """Packets by reason, at the last pass."""
        self._found = (0, 0)
        """Configurations that are served, and that have a problem."""
        self._problem: str | None = "the first pass is not done"
        self._progress = PassProgress(settings.resync)
        self._damage: Watcher | None = None
        sources.configurations.on_change(self._on_configuration)
        sources.nodes.on_change(self._on_node)

    async def run(self) -> None:
        """Works until cancelled. Start it when the caches are synced: before, an empty list
        would look like "no peers"."""
        self._queue.add(STRUCTURE)
        self._damage = Watcher(lambda _: self._on_damage())
        try:
            await run_workers(self._queue, self._handle, _WORKERS)
        finally:
            self._damage.close()
            self._peers.close()

    @property
    def problem(self) -> str | None:
        """Why the agent is not ready; None when it is."""
        return self._progress.stalled(READY_AFTER) or self._problem

    @property
    def stalled(self) -> str | None:
        """Why the agent should be started again; None while passes begin and end."""
        return self._progress.stalled(ALIVE_AFTER)

    def _on_damage(self) -> None:
        """Somebody changed something, perhaps we ourselves: the next pass compares. Passes that
        notices ask for take a tenth of the time at most, whatever the neighbours do."""
        self._queue.add_after(STRUCTURE, self._progress.rest(_SHARE, _LONGEST_REST))

    async def _watch(self) -> None:
        """Watches for damage from now on. Without a watch, only routine passes find damage."""
        if self._damage is None:
            return
        for key, (where, tables) in self._side.places.items():
            try:
                if await self._damage.watch(key, where, tables=tables):
                    self._queue.add(STRUCTURE)  # what happened before it listened
            except (DatapathError, OSError) as error:
                log.warning("could not watch the kernel: %s", error, extra={"namespace": key})

    def _on_configuration(
        self,
        key: Key,
        old: StaticGatewayConfiguration | None,
        new: StaticGatewayConfiguration | None,
    ) -> None:
        # Conditions, counts and what concerns other nodes change often, and are none of ours.
        before, after = (listed([o] if o else [], self._machine.name) for o in (old, new))
        if before == after:
            return
        self._queue.add(STRUCTURE)

    async def _handle(self, key: str) -> float | None:
        if key == STRUCTURE:
            with self._progress:
                return await self._structure()
        try:
            await self._peers.change(key)
        except DatapathError:
            self._queue.add(STRUCTURE)  # looks at all of the interface
            raise
        return None

    @property
    def mtu(self) -> int:
        """Bytes; of the node's network, as the last pass found it."""
        return self._machine.mtu

    async def _follow_mtu(self) -> None:
        """Somebody may change it while the agent runs. Without a default route it is as before."""
        if self._settings.node_mtu:
            return
        with contextlib.suppress(DatapathError):
            found = await asyncio.to_thread(default_route_mtu)
            if found != self.mtu:
                log.info("followed the node's MTU", extra={"mtu": found})
                self._machine = replace(self._machine, mtu=found)

    @property
    def secondaries(self) -> dict[str, IPv4Address]:
        """The address that each configuration's packets leave with, by name."""
        return {name: one.secondary for name, one in self._peers.served.items()}

    def expected(self) -> dict[str, Expected]:
        """What each configuration's packets leave with, and what the Internet should see."""
        wanted = listed(self._configurations.values(), self._machine.name)
        told = {one.name: one for one in wanted}
        found = {}
        for name, one in self._peers.served.items():
            known = told.get(name)
            found[name] = Expected(
                secondary=one.secondary,
                public=known.public if known else "",
                secondary6=one.secondary6,
                public6=known.public6 if known else "",
                servers=own_servers(known.verify_targets) if known else (),
            )
        return found

    def figures(self) -> GatewayFigures:
        """What a scrape tells."""
        ports, peers = self._kernel.ports, self._peers.counts
        found = []
        for name, one in self._peers.served.items():
            use = ports.use.get(name)
            found.append(
                ConfigurationFigures(
                    name=name,
                    peers=peers.get(name, 0),
                    traffic=ports.traffic.get(one.interface),
                    ports=use.ports if use else 0,
                    connections=use.connections if use else 0,
                )
            )
        pods, configurations = ports.limited
        return GatewayFigures(
            ready=self._found[0],
            problems=self._found[1],
            configurations=tuple(found),
            dropped=self._dropped or {},
            table=ports.table,
            limited_pods=pods,
            limited_configurations=configurations,
            verified={
                one.static_gateway_configuration: one.as_expected and not one.large_lost
                for one in self._report.reporter.verified
            },
            vetoes=tuple(
                (v.reason, v.static_gateway_configuration) for v in self._report.reporter.vetoes
            ),
        )

    # Structure.

    async def _structure(self) -> float:
        """One pass: reads what is listed and with which keys, makes the kernel so, reports it.
        Returns the seconds until the next one."""
        wanted = listed(self._configurations.values(), self._machine.name)
        if not wanted:
            return await self._idle()
        if not await asyncio.to_thread(lambda: self._side.exists):
            # Its socket would keep a namespace alive that has lost its name, and its ports taken.
            await asyncio.to_thread(self._kernel.connection_log.set, {})
        await self._follow_mtu()
        private, key_problems = await self._keystore.refresh(wanted)
        outcome = serving(wanted, private, key_problems, self._keystore.second)
        try:
            around = await asyncio.to_thread(self._side.surroundings)
            if not around.ipv6 or self._machine.mtu - OVERHEAD < IPV6_MTU:
                outcome = without_ipv6(outcome)
            outcome = zoned(outcome, await asyncio.to_thread(self._side.zones))
            # The first connection that leaves with a new address is logged with what it is.
            known = logged(wanted, outcome.configurations)
            self._kernel.connection_log.know(known)
            converged = await asyncio.to_thread(self._side.converge, self._desired(outcome, around))
        except DatapathError as error:
            # What ran goes on, and the last report stands; the queue tries again.
            self._problem = str(error)
            raise
        self._note(converged)
        await self._watch()
        problems = problems_of(outcome, converged)
        ready, public = ready_of(outcome, converged, problems)
        self._peers.serve(ready.values())
        late = await self._peers.sync_all(ready.values(), patience=_PATIENCE)
        problems |= late
        ready = {uid: one for uid, one in ready.items() if one.name not in late}
        seconds = await self._sync_seconds(ready, converged, problems)
        self._kernel.ports.watch(ready)
        # Before its first pass there was no namespace to listen in.
        await asyncio.to_thread(self._kernel.connection_log.set, known)
        without = ipv6_warnings(wanted, self._machine.mtu, around)
        await self._publish(ready, public, problems, without, seconds)
        if self._problem is not None:
            log.info(
                "served configurations",
                extra={"configurations": len(ready), "peers": self._peers.total},
            )
        self._problem = None
        before, self._dropped = self._dropped, await asyncio.to_thread(self._side.counters)
        self._found = len(ready), len(problems)
        if before is not None:
            self._report.events.packets_dropped(before, self._dropped)
        if problems:
            return self._backoff.failed()
        self._backoff.succeeded()
        return self._settings.resync

    def _desired(self, outcome: ServingPlan, around: Surroundings) -> GatewayDesired:
        return GatewayDesired(
            primary=self._machine.primary,
            mtu=self._machine.mtu,
            configurations=tuple(outcome.configurations.values()),
            refused=self._settings.refused,
            surroundings=around,
            tunnels=self._tunnel_sources(),
            connection_rate=self._settings.connection_rate,
        )

    def _tunnel_sources(self) -> TunnelSources:
        nodes = internal_networks(self._nodes.values())
        return TunnelSources(
            # Without a Node that tells its address nothing is known of the nodes.
            networks=(*nodes, *self._settings.tunnel_networks) if nodes else (),
            handshakes=self._settings.handshake_rate,
        )

    def _on_node(self, key: Key, old: Node | None, new: Node | None) -> None:
        if (old.internal_ips if old else []) != (new.internal_ips if new else []):
            self._queue.add(STRUCTURE)

    async def _idle(self) -> float:
        """Nothing lists this node: it looks as if we had never been here."""
        if self._damage:
            for key in self._side.places:
                self._damage.forget(key)
        self._peers.serve([])
        self._kernel.ports.watch({})
        await asyncio.to_thread(self._kernel.connection_log.set, {})
        if await asyncio.to_thread(self._side.remove):
            log.info("removed everything: no configuration lists this node")
        await self._publish({}, {}, {}, {}, {})
        self._problem = None
        self._dropped, self._found = {}, (0, 0)
        return self._settings.resync

    def _note(self, converged: Converged) -> None:
        self._interfaces_up = (float("-inf"), frozenset())
        for step in converged.done:
            log.info(
                "repaired node" if step.port is None else "configured server",
                extra={"action": type(step.action).__name__, "port": step.port},
            )

    async def _publish(
        self,
        ready: Mapping[str, ServedConfiguration],
        public: Mapping[str, str],
        problems: Mapping[str, str],
        without: Mapping[str, str],
        seconds: Mapping[str, str],
    ) -> None:
        """``without``: what some configurations must do without, by name; they are served."""
        self._report.answers.set({uid: c.port for uid, c in ready.items()})
        warnings, events = self._kernel.ports.warnings, self._report.events
        for name, message in problems.items():
            events.warn(name, "GatewayProblem", f"cannot serve it: {message}")
        for name, message in warnings.items():
            events.warn(name, "PortsRunningOut", message)
        for name, message in without.items():
            events.warn(name, "GatewayWithoutIPv6", message)
        try:
            await self._report.reporter.publish(
                status_spec(
                    ready,
                    public,
                    {**without, **warnings, **problems},
                    seconds,
                    without_ipv6=without.keys() - warnings.keys() - problems.keys(),
                )
            )
        except ApiError as error:
            # Traffic does not depend on the report; the next pass writes it.
            log.warning("could not write the report: %s", error)
            self._queue.add_after(STRUCTURE, _SOON)

    async def _sync_seconds(
        self,
        ready: Mapping[str, ServedConfiguration],
        converged: Converged,
        problems: dict[str, str],
    ) -> dict[str, str]:
        """Tells second servers their peers. Returns the public keys of those that work, by uid. One
        that does not work is a problem, and costs the first nothing."""
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
                    await self._peers.sync_second(one)
                except DatapathError as error:
                    why = str(error)
            if why is not None:
                problems[one.name] = f"second key pair, port {server.port}: {why}"
            elif one.second_answers and server.private_key is not None:
                found[uid] = keys.public_key(server.private_key)
        return found

    # Probes.

    async def serves(self, uid: str) -> str | None:
        """None if packets of the configuration would be carried at this moment, else why not.
        Looks at the kernel, not at what we believe."""
        port = self._report.answers.port(uid)
        if port is None:
            return "not served here"
        at, ports = self._interfaces_up
        if time.monotonic() - at > _FRESH:
            try:
                ports = frozenset(await asyncio.to_thread(self._side.serving))
            except DatapathError as error:
                return str(error)
            self._interfaces_up = (time.monotonic(), ports)
        return None if port in ports else f"interface wg-{port} is down"


_MOST_ADDRESSES: Final = 16
"""Of one Node that count: its kubelet writes the list, and each gateway applies all of it."""


def internal_networks(nodes: Iterable[Node]) -> tuple[IPNetwork, ...]:
    """The InternalIPs of all Nodes, in a stable order, without texts that are no machine's address:
    a kubelet may write networks there, and the API server takes any text."""
    found: set[IPNetwork] = set()
    for text in (text for node in nodes for text in node.internal_ips[:_MOST_ADDRESSES]):
        with contextlib.suppress(ValueError):
            address = parse_address(text)
            if not address.is_unspecified:
                found.add(parse_network(str(address)))
    return tuple(sorted(found, key=lambda n: (n.version, n.network_address.packed)))
