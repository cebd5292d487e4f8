"""The gateway agent's process: puts the parts together, and takes them down in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from ipaddress import IPv4Address

from aiohttp import web

from egress_gateway.api import names
from egress_gateway.datapath.gateway.side import GatewaySide
from egress_gateway.datapath.linux.door import HostFolder
from egress_gateway.datapath.wireguard import backends
from egress_gateway.datapath.wireguard.mtu import OVERHEAD_V4, default_route_mtu
from egress_gateway.gateway import metrics
from egress_gateway.gateway.agent import (
    STRUCTURE,
    GatewayAgent,
    GatewayKernel,
    Report,
    Sources,
)
from egress_gateway.gateway.connectionlog import ConnectionLog
from egress_gateway.gateway.connections.limits import ConnectionLimits
from egress_gateway.gateway.connections.ports import PortWatch
from egress_gateway.gateway.events import GatewayEvents, OwnNode
from egress_gateway.gateway.health.internet import Internet
from egress_gateway.gateway.health.report import Answers, Reporter
from egress_gateway.gateway.health.verified import Verification
from egress_gateway.gateway.health.vetoes import Vetoes
from egress_gateway.gateway.keystore import KeyStore
from egress_gateway.gateway.metrics import GatewayFigures
from egress_gateway.gateway.peers.book import ClaimCaches, PeerBook
from egress_gateway.gateway.refusals import Refusals
from egress_gateway.gateway.settings import Settings
from egress_gateway.kube import config, kept
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import ApiError
from egress_gateway.kube.events import Recorder
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import NODES, POD_ENDPOINTS, PODS, SGCS, Node
from egress_gateway.kube.review import MetricsReader
from egress_gateway.kube.workqueue.queue import WorkQueue
from egress_gateway.service.backoff import Backoff
from egress_gateway.service.errors import OperatorError
from egress_gateway.service.figures import Fact, build
from egress_gateway.service.health import HealthServer
from egress_gateway.service.metrics import serving as serving_metrics
from egress_gateway.service.server import BoundedServer
from egress_gateway.service.strangers import PortsFloodWatch

log = logging.getLogger(__name__)


async def run(settings: Settings) -> None:
    """Works until cancelled. Interfaces, peers and translation stay when it ends."""
    access = config.load(settings.kubeconfig or None)
    async with Client(access, names.FIELD_MANAGER_GATEWAY) as client:
        probes = _Probes(_side(settings), Answers(settings.run_path / "gateway.json"))
        review = MetricsReader(client) if settings.metrics_auth else None
        told = [build("gateway"), metrics.snapshot(probes.figures), probes.wireguard]
        async with (
            _answering(settings, probes),
            serving_metrics(settings.metrics_port, review, told),
        ):
            machine = await _machine(settings, client)
            await _serve(settings, client, machine, probes)


class _Probes:
    """Answers probes; before the agent is there, from what its predecessor left."""

    def __init__(self, side: GatewaySide, answers: Answers) -> None:
        self.side = side
        self.answers = answers
        self.agent: GatewayAgent | None = None
        self.wireguard = Fact(metrics.WIREGUARD)

    async def probe(self, request: web.Request) -> web.Response:
        uid = request.match_info["uid"]
        if self.agent is not None:
            why = await self.agent.serves(uid)
        else:
            port = self.answers.port(uid)
            up = port in await asyncio.to_thread(self.side.serving)
            why = None if up else "the agent is starting"
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)

    def figures(self) -> GatewayFigures:
        return self.agent.figures() if self.agent else GatewayFigures()

    def problem(self) -> str | None:
        return self.agent.problem if self.agent else "waiting for the API server"

    def stalled(self) -> str | None:
        return self.agent.stalled if self.agent else None


async def _serve(settings: Settings, client: Client, machine: OwnNode, probes: _Probes) -> None:
    configurations = Cache(client, SGCS.keeping(kept.configuration))
    endpoints = Cache(client, POD_ENDPOINTS.keeping(kept.claim))
    pods = Cache(client, PODS.keeping(kept.pod))
    nodes = Cache(client, NODES.keeping(kept.node))
    queue: WorkQueue[str] = WorkQueue("gateway", backoff=0.2, backoff_limit=10.0)
    recorder = Recorder(client, names.FIELD_MANAGER_GATEWAY, instance=machine.name)
    reporter = Reporter(
        client, machine.node, settings.system_namespace, heartbeat=settings.heartbeat
    )
    events = GatewayEvents(
        recorder=recorder,
        machine=machine,
        configurations=configurations,
        pods=pods,
        endpoints=endpoints,
    )
    claims = ClaimCaches(endpoints=endpoints, pods=pods, nodes=nodes)
    book = PeerBook(claims, queue.add, mirror_pods=settings.mirror_pods)
    ports = PortWatch(
        probes.side.load,
        percent=settings.ports_warning,
        interval=settings.ports_interval,
        changed=lambda: queue.add(STRUCTURE),
        limits=ConnectionLimits(
            pod=settings.connections_per_pod,
            share=settings.connection_share,
            rate=settings.connection_rate,
        ),
        tell=lambda name, address, text: events.connections_limited(
            book.owner(name, address), text
        ),
    )
    connection_log = ConnectionLog(
        probes.side.load.events, book.owner, settings.connection_log_rate
    )
    keystore = KeyStore(
        client, names.keys_namespace(settings.keys_namespace, settings.system_namespace)
    )
    agent = GatewayAgent(
        settings,
        machine,
        sources=Sources(configurations=configurations, nodes=nodes, book=book, keystore=keystore),
        kernel=GatewayKernel(side=probes.side, ports=ports, connection_log=connection_log),
        report=Report(reporter=reporter, answers=probes.answers, events=events),
        queue=queue,
    )
    async with asyncio.TaskGroup() as group:
        caches = (configurations, endpoints, pods, nodes)
        for cache in caches:
            group.create_task(cache.run())
        group.create_task(recorder.run())
        own = NODES.reference(machine.node)
        strangers = PortsFloodWatch(
            lambda text: recorder.event(own, "Warning", names.PORT_FLOOD, text)
        )
        group.create_task(strangers.run())
        group.create_task(HostFolder(settings.run_path).watch())
        group.create_task(backends.tell_version(probes.side.backend, probes.wireguard.tell))
        for cache in caches:
            # Nothing is decided on half the truth: a missing list must not remove peers.
            await cache.synced()
        log.info("read the cluster", extra={"endpoints": len(endpoints), "pods": len(pods)})
        book.complete()
        probes.agent = agent
        group.create_task(agent.run())
        group.create_task(ports.run())
        refusals = Refusals(
            book,
            served=lambda: agent.secondaries.keys(),
            tell=events.claim_refused,
            publish=reporter.refuse,
        )
        group.create_task(refusals.run())
        vetoes = Vetoes(
            client,
            machine.name,
            reporter,
            _internet(settings, agent),
            verification=_verification(settings, agent),
            warn=events.warn,
        )
        group.create_task(vetoes.run())


def _internet(settings: Settings, agent: GatewayAgent) -> Internet | None:
    if not settings.targets:
        return None
    return Internet(
        settings.targets,
        lambda: agent.secondaries,
        interval=settings.internet_interval,
        misses=settings.internet_misses,
    )


def _verification(settings: Settings, agent: GatewayAgent) -> Verification:
    return Verification(
        settings.stun_servers,
        agent.expected,
        interval=settings.verify_interval,
        size=lambda: agent.mtu - OVERHEAD_V4,
        refused=settings.refused,
    )


def _side(settings: Settings) -> GatewaySide:
    return GatewaySide(backend=backends.detect(tunnel_socket=settings.run_path / "tunnels.sock"))


async def _machine(settings: Settings, client: Client) -> OwnNode:
    node = await _own_node(client, settings.node_name)
    mtu = settings.node_mtu or await asyncio.to_thread(default_route_mtu)
    machine = OwnNode(node=node, primary=_primary(settings, node), mtu=mtu)
    log.info("started the agent", extra={"primary": str(machine.primary), "mtu": mtu})
    return machine


async def _own_node(client: Client, name: str) -> Node:
    """The Node that we run on; waits for the API server, with backoff."""
    backoff = Backoff(0.2, 10.0)
    while True:
        try:
            return await client.get(NODES, name)
        except ApiError as error:
            pause = backoff.failed()
            log.warning("cannot read Node %s: %s", name, error, extra={"retry_in": pause})
            await asyncio.sleep(pause)


def _primary(settings: Settings, node: Node) -> IPv4Address:
    candidates = [settings.primary_ip] if settings.primary_ip else node.internal_ips
    for text in candidates:
        with contextlib.suppress(ValueError):
            return IPv4Address(text)
    raise OperatorError(
        f"Node {settings.node_name} has no IPv4 InternalIP; set --primary-ip to its address"
    )


@contextlib.asynccontextmanager
async def _answering(settings: Settings, probes: _Probes) -> AsyncIterator[None]:
    """The load balancer's probes on the node's addresses, the kubelet's on loopback alone."""
    balancer = BoundedServer("balancer", port=settings.health_port, address="0.0.0.0")  # noqa: S104
    balancer.add_route(names.HEALTH_PATH + "{uid}", probes.probe)
    health = HealthServer(port=settings.probe_port)
    health.add_check("gateway", probes.problem)
    health.add_check("pass", probes.stalled, live=True)
    async with balancer.serving(), health.serving():
        yield
