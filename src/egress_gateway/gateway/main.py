"""The gateway agent's process: puts the parts together, and takes them down in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from ipaddress import IPv4Address

from aiohttp import web

from egress_gateway.api import names
from egress_gateway.datapath.addresses import IPNetwork
from egress_gateway.datapath.gateway.side import GatewaySide
from egress_gateway.datapath.mtu import default_route_mtu
from egress_gateway.datapath.wireguard import backends
from egress_gateway.gateway.agent import STRUCTURE, Agent
from egress_gateway.gateway.connectionlog import ConnectionLog
from egress_gateway.gateway.health.internet import Internet
from egress_gateway.gateway.health.vetoes import Vetoes
from egress_gateway.gateway.keystore import KeyStore
from egress_gateway.gateway.peers.book import PeerBook
from egress_gateway.gateway.ports import PortWatch
from egress_gateway.gateway.report import Answers, Reporter
from egress_gateway.gateway.settings import Settings
from egress_gateway.kube import config
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import ApiError
from egress_gateway.kube.events import Recorder
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import NODES, POD_ENDPOINTS, PODS, SGCS, Node
from egress_gateway.kube.workqueue.backoff import Backoff
from egress_gateway.kube.workqueue.queue import WorkQueue
from egress_gateway.service.health import HealthServer

log = logging.getLogger(__name__)


async def run(settings: Settings) -> None:
    """Works until cancelled. Interfaces, peers and translation stay when it ends."""
    refused, _ = settings.refused, settings.targets  # nonsense is told before anything starts
    access = config.load(settings.kubeconfig or None)
    async with Client(access, names.FIELD_MANAGER_GATEWAY) as client:
        answers = Answers(settings.run_path / "gateway.json")
        side = _side(settings)
        early = _Early(side, answers)
        async with _health(settings, early) as health:
            node = await _own_node(client, settings.node_name)
            primary = _primary(settings, node)
            mtu = settings.node_mtu or await asyncio.to_thread(default_route_mtu)
            log.info("gateway", extra={"primary": str(primary), "mtu": mtu})
            await _serve(settings, client, node, primary, mtu, refused, side, answers, early)
            del health


class _Early:
    """Answers probes before the agent is there, from what its predecessor left."""

    def __init__(self, side: GatewaySide, answers: Answers) -> None:
        self._side = side
        self._answers = answers
        self.agent: Agent | None = None

    async def probe(self, request: web.Request) -> web.Response:
        uid = request.match_info["uid"]
        if self.agent is not None:
            why = await self.agent.serves(uid)
        else:
            port = self._answers.port(uid)
            up = port in await asyncio.to_thread(self._side.serving)
            why = None if up else "the agent is starting"
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)

    def problem(self) -> str | None:
        return self.agent.problem if self.agent else "waiting for the API server"


async def _serve(
    settings: Settings,
    client: Client,
    node: Node,
    primary: IPv4Address,
    mtu: int,
    refused: tuple[IPNetwork, ...],
    side: GatewaySide,
    answers: Answers,
    early: _Early,
) -> None:
    configurations = Cache(client, SGCS)
    endpoints = Cache(client, POD_ENDPOINTS)
    pods = Cache(client, PODS)
    queue: WorkQueue[str] = WorkQueue("gateway", backoff=0.2, backoff_limit=10.0)
    recorder = Recorder(client, "static-egress-gateway-gateway", instance=settings.node_name)
    book = PeerBook(endpoints, pods, queue.add)
    ports = PortWatch(
        side,
        percent=settings.ports_warning,
        interval=settings.ports_interval,
        changed=lambda: queue.add(STRUCTURE),
    )
    reporter = Reporter(client, node, settings.system_namespace, heartbeat=settings.heartbeat)
    agent = Agent(
        node=settings.node_name,
        primary=primary,
        mtu=mtu,
        refused=refused,
        resync=settings.resync,
        side=side,
        configurations=configurations,
        book=book,
        queue=queue,
        keystore=KeyStore(client, settings.system_namespace),
        reporter=reporter,
        recorder=recorder,
        answers=answers,
        ports=ports,
        connection_log=ConnectionLog(side.events, book.owner, settings.connection_log_rate),
    )
    async with asyncio.TaskGroup() as group:
        caches = (configurations, endpoints, pods)
        for cache in caches:
            group.create_task(cache.run())
        group.create_task(recorder.run())
        for cache in caches:
            # NB: nothing is decided on half the truth; a missing list must not remove peers.
            await cache.synced()
        log.info("knows the cluster", extra={"endpoints": len(endpoints), "pods": len(pods)})
        book.complete()
        early.agent = agent
        group.create_task(agent.run())
        group.create_task(ports.run())
        internet = _internet(settings, agent)
        vetoes = Vetoes(client, settings.node_name, reporter, internet, warn=agent.warn)
        group.create_task(vetoes.run())


def _internet(settings: Settings, agent: Agent) -> Internet | None:
    if not settings.targets:
        return None
    return Internet(
        settings.targets,
        lambda: agent.secondaries,
        interval=settings.internet_interval,
        misses=settings.internet_misses,
    )


def _side(settings: Settings) -> GatewaySide:
    backend = backends.detect(tunnel_socket=settings.run_path / "tunnels.sock")
    log.info("data path", extra={"wireguard": backend.kind})
    return GatewaySide(backend=backend)


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
    raise SystemExit(
        f"Node {settings.node_name} has no IPv4 InternalIP; set --primary-ip to its address"
    )


@contextlib.asynccontextmanager
async def _health(settings: Settings, early: _Early) -> AsyncIterator[HealthServer]:
    health = HealthServer(port=settings.health_port)
    health.add_check("gateway", early.problem)
    health.add_route(names.HEALTH_PATH + "{uid}", early.probe)
    await health.start()
    try:
        yield health
    finally:
        await health.close()
