"""The node agent's process: puts the parts together, and takes them down in order."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from egress_gateway.api import names
from egress_gateway.cni import binary, conflist
from egress_gateway.cni.install import Installer
from egress_gateway.cni.tenure import Tenure
from egress_gateway.datapath.addresses import IPNetwork
from egress_gateway.datapath.linux import netns
from egress_gateway.datapath.pod.linkguard import LinkGuard
from egress_gateway.datapath.pod.sources import SourceFilter
from egress_gateway.datapath.wireguard import backends
from egress_gateway.datapath.wireguard.mtu import default_route_mtu
from egress_gateway.kube import config, kept
from egress_gateway.kube.client import Client
from egress_gateway.kube.events import Recorder
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import GATEWAY_STATUSES, POD_ENDPOINTS, PODS, SGCS
from egress_gateway.kube.review import MetricsReader
from egress_gateway.node import metrics
from egress_gateway.node.agent import NodeAgent
from egress_gateway.node.attachment.model import NodeFacts
from egress_gateway.node.attachment.store import AttachmentStore
from egress_gateway.node.cluster.knowledge import Knowledge
from egress_gateway.node.cluster.ranges import REASON, Ranges, discover
from egress_gateway.node.cni.readiness import Readiness
from egress_gateway.node.liveness.health import Rules
from egress_gateway.node.liveness.probe import Prober
from egress_gateway.node.reporting.endpoints import Endpoints
from egress_gateway.node.reporting.tell import Teller, own_node
from egress_gateway.node.sandboxes.sandbox import NodeKernel
from egress_gateway.node.server import PluginServer
from egress_gateway.node.settings import Settings
from egress_gateway.service.figures import Fact, build
from egress_gateway.service.health import HealthServer
from egress_gateway.service.metrics import serving as serving_metrics
from egress_gateway.service.strangers import PortsFloodWatch

log = logging.getLogger(__name__)

_THREADS: Final = 16
_MARGIN: Final = 5.0
"""Seconds that the plugin waits for longer than the agent, so that the agent says why."""


async def run(settings: Settings) -> None:
    """Works until cancelled. Pods keep their tunnels when it ends."""
    access = config.load(settings.kubeconfig or None)
    async with Client(access, names.FIELD_MANAGER_NODE) as client:
        readiness = Readiness(_installer(settings), client, settings.node_name)
        if settings.uninstall:
            await _retire(settings, readiness)
            return
        # What they ask of the node's namespace needs no thread of its own.
        with ThreadPoolExecutor(_THREADS, "kernel", initializer=netns.here) as executor:
            await _serve(settings, client, readiness, executor)


async def _retire(settings: Settings, readiness: Readiness) -> None:
    """Until cancelled, so that a DaemonSet that has rolled out says: done on every node."""
    health = HealthServer(port=settings.health_port)
    health.add_check("plugin", lambda: readiness.problem)
    async with health.serving():
        await readiness.retire()


async def _serve(
    settings: Settings, client: Client, readiness: Readiness, executor: ThreadPoolExecutor
) -> None:
    node = settings.node_name
    configurations = Cache(client, SGCS.keeping(kept.configuration))
    pods = Cache(client, PODS.keeping(kept.pod), fields=f"spec.nodeName={node}")
    # Of gateways that ask to be left: the others' reports, with a heartbeat in each, are many.
    statuses = Cache(
        client,
        GATEWAY_STATUSES,
        namespace=settings.system_namespace,
        labels=names.VETOES_LABEL,
    )
    present = Cache(client, POD_ENDPOINTS, labels=Endpoints.selector(node))
    recorder = Recorder(client, "static-egress-gateway-node", instance=node)
    ranges = _ranges(settings, client, recorder)
    exceptions = await ranges.look()
    rules = Rules(misses=settings.probe_misses, hold_down=settings.hold_down)
    prober = Prober(rules, interval=settings.probe_interval)
    kernel = _kernel(settings, exceptions, executor)
    agent = NodeAgent(
        settings=settings,
        kernel=kernel,
        knowledge=Knowledge(configurations, pods, statuses),
        endpoints=Endpoints(client, present, node),
        prober=prober,
        teller=Teller(recorder),
    )
    agent.lifecycle.adopt_pods()
    answering = PluginServer(agent.lifecycle, settings.run_path)
    health = HealthServer(port=settings.health_port)
    health.add_check("plugin", lambda: readiness.problem)
    health.add_check(
        "api",
        lambda: unheard(
            {
                "StaticGatewayConfigurations": configurations.is_synced,
                "this node's Pods": pods.is_synced,
            }
        ),
    )
    health.add_check("socket", lambda: answering.problem)
    health.add_check("step", lambda: agent.stalled, live=True)
    strangers = PortsFloodWatch(
        lambda text: recorder.event(own_node(node), "Warning", names.PORT_FLOOD, text)
    )
    review = MetricsReader(client) if settings.metrics_auth else None
    wireguard = Fact(metrics.WIREGUARD)
    told = [build("node"), agent.snapshot(), wireguard]
    async with (
        health.serving(),
        serving_metrics(settings.metrics_port, review, told),
        asyncio.TaskGroup() as group,
    ):
        for cache in (configurations, pods, statuses, present):
            group.create_task(cache.run())
        group.create_task(recorder.run())
        group.create_task(strangers.run())
        group.create_task(prober.run())
        group.create_task(agent.run())
        group.create_task(ranges.run(agent.spare_from_gateways))
        # The socket is there before the chain names the plugin that calls it.
        group.create_task(answering.run())
        group.create_task(
            readiness.run(
                partial(recorder.event, own_node(node), "Warning", names.PLUGIN_NOT_IN_PLACE)
            )
        )
        group.create_task(backends.tell_version(kernel.backend, wireguard.tell))


def unheard(heard: Mapping[str, bool]) -> str | None:
    """What the agent does without: new configurations of pods, or annotations of running ones.
    Pure."""
    missing = " and ".join(what for what, known in heard.items() if not known)
    return f"no list of {missing} from the Kubernetes API yet" if missing else None


def _ranges(settings: Settings, client: Client, recorder: Recorder) -> Ranges:
    node, memory = settings.node_name, settings.run_path / "cluster-ranges.json"
    return Ranges(
        settings.exceptions,
        lambda: discover(client, node, os.environ, memory),
        lambda text: recorder.event(own_node(node), "Warning", REASON, text),
    )


def _kernel(
    settings: Settings, exceptions: tuple[IPNetwork, ...], executor: ThreadPoolExecutor
) -> NodeKernel:
    mtu = settings.node_mtu or default_route_mtu()
    backend = backends.detect(tunnel_socket=settings.run_path / "tunnels.sock")
    log.info("prepared data path", extra={"node_mtu": mtu})
    return NodeKernel(
        facts=NodeFacts(mtu=mtu, exceptions=exceptions),
        backend=backend,
        sources=SourceFilter(),
        store=AttachmentStore(settings.run_path),
        executor=executor,
        ports=range(settings.listen_port_first, settings.listen_port_last + 1),
        guard=LinkGuard() if settings.guard_links else None,
    )


def _installer(settings: Settings) -> Installer:
    return Installer(
        plugin=binary.path(),
        bin_dir=Path(settings.cni_bin_dir),
        conf_dir=Path(settings.cni_conf_dir),
        entry=conflist.entry(
            run_dir=settings.host_run_dir or settings.run_dir,
            agent_timeout=settings.attach_timeout + _MARGIN,
        ),
        tenure=Tenure(settings.run_path),
    )
