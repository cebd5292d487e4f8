"""The controller process: one leader at a time turns configurations into cloud resources.

Standbys keep their caches warm and answer their probes, so a hand-over costs one survey.
Losing the Lease ends the process: two leaders would fight over the same documents.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from egress_gateway.api import names
from egress_gateway.cloud.protocol import Cloud
from egress_gateway.controller.metrics import Figures, timed
from egress_gateway.controller.migration.takeover import Takeover
from egress_gateway.controller.observed.cluster import Cluster
from egress_gateway.controller.picture import server as picture
from egress_gateway.controller.picture.state import State, state_of
from egress_gateway.controller.providers import open_cloud
from egress_gateway.controller.reconcile import ROLE, SURVEY, Reconciler
from egress_gateway.controller.reporting import posture
from egress_gateway.controller.rotate import Rotations
from egress_gateway.controller.settings import Settings
from egress_gateway.kube import config as kube_config
from egress_gateway.kube.client import Client
from egress_gateway.kube.events import Recorder
from egress_gateway.kube.leader.lease import LeaderElection
from egress_gateway.kube.review import MetricsReader
from egress_gateway.kube.workqueue.queue import run_workers
from egress_gateway.service import metrics
from egress_gateway.service.figures import build
from egress_gateway.service.health import HealthServer

log = logging.getLogger(__name__)

ALIVE_AFTER: Final = 7200.0
"""Seconds of a pass after which it hangs: it looks a dozen times, and Azure may take a minute and a
half for each request of a look."""


async def run(settings: Settings, *, cloud: Cloud | None = None) -> None:
    """Runs until cancelled. Raises ``CloudConfigError`` or ``ClusterAccessError`` for settings
    that cannot work, ``LeadershipLost`` when another leads."""
    cloud = cloud or open_cloud(Path(settings.azure_config))
    access = kube_config.load(settings.kubeconfig or None)
    try:
        # The Lease has connections of its own: behind the requests of a thousand new
        # configurations it could not be renewed in time.
        async with (
            Client(access, names.FIELD_MANAGER_CONTROLLER) as client,
            Client(access, names.FIELD_MANAGER_CONTROLLER) as lease,
        ):
            await _serve(settings, cloud, client, lease)
    finally:
        await cloud.close()


async def _serve(settings: Settings, cloud: Cloud, client: Client, lease: Client) -> None:
    recorder = Recorder(client, names.FIELD_MANAGER_CONTROLLER)
    cluster = Cluster(
        client,
        recorder,
        system_namespace=settings.system_namespace,
        strict_prefixes=settings.strict_prefixes,
        strict_pools=settings.strict_pools,
        agent_pools=settings.agent_pools,
        prefix_share=settings.prefix_share,
        keys_namespace=settings.keys_namespace,
    )
    review = MetricsReader(client) if settings.metrics_auth else None
    figures = Figures(
        configurations=cluster.sgcs.values,
        ready=cluster.serving,
        ages=lambda: {c.plural: c.seconds_behind for c in cluster.caches if c.is_synced},
    )
    told = [build("controller"), figures.snapshot()]

    def shown() -> State:
        return state_of(
            cluster.sgcs.values(),
            cluster.endpoints.values(),
            cluster.statuses.values(),
            up={node.metadata.name for node in cluster.nodes.values() if node.ready},
        )

    async with (
        _health(settings, cluster, figures),
        metrics.serving(settings.metrics_port, review, told),
        picture.serving(settings.ui_port, shown),
    ):
        await _together(
            *(cache.run() for cache in cluster.caches),
            recorder.run(),
            _when_synced(settings, cloud, cluster, figures, client, lease),
        )


async def _when_synced(
    settings: Settings,
    cloud: Cloud,
    cluster: Cluster,
    figures: Figures,
    client: Client,
    lease: Client,
) -> None:
    await cluster.synced()

    async def work(leads: Callable[[], bool]) -> None:
        log.info("leading")
        figures.leading = lambda: True
        await posture.warn(client)
        takeover = Takeover(
            client,
            system_namespace=settings.system_namespace,
            keys_namespace=settings.keys_namespace,
            advice=cloud.advice,
        )
        await _reconcile(settings, cloud, cluster, figures, client, takeover, leads)

    await _lead(settings, lease, work)


async def _together(*work: Coroutine[Any, Any, None]) -> None:
    """All of ``work`` until the first ends; raises its error unchanged (a task group would
    wrap it)."""
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _lead(
    settings: Settings,
    lease: Client,
    work: Callable[[Callable[[], bool]], Coroutine[Any, Any, None]],
) -> None:
    if not settings.leader_elect:
        await work(lambda: True)
        return
    election = LeaderElection(
        lease,
        settings.system_namespace,
        names.LEADER_LEASE,
        _identity(settings),
        duration=settings.lease_duration,
    )
    await election.run(lambda: work(lambda: election.leading))


async def _reconcile(
    settings: Settings,
    cloud: Cloud,
    cluster: Cluster,
    figures: Figures,
    client: Client,
    takeover: Takeover,
    leads: Callable[[], bool],
) -> None:
    reconciler = Reconciler(
        cloud,
        cluster,
        drift_interval=settings.drift_interval,
        retry_limit=settings.retry_limit,
        takeover=takeover,
        leads=leads,
    )
    rotations = Rotations(
        client,
        cluster,
        reconciler.board,
        timeout=settings.rotation_timeout,
        changed=reconciler.rekeyed,
        progressed=reconciler.reports.add,
    )
    figures.queues = {
        "pool": reconciler.work,
        "report": reconciler.reports,
        "rotation": rotations.work,
    }
    reconciler.work.add(ROLE)
    reconciler.work.add(SURVEY)
    try:
        await _together(
            run_workers(rotations.work, timed("rotation", rotations.handle), settings.workers),
            run_workers(reconciler.work, timed("pool", reconciler.handle), settings.workers),
            run_workers(reconciler.reports, timed("report", reconciler.report), settings.workers),
        )
    finally:
        await reconciler.close()


@contextlib.asynccontextmanager
async def _health(settings: Settings, cluster: Cluster, figures: Figures) -> AsyncIterator[None]:
    server = HealthServer(port=settings.health_port, address=settings.health_address)

    def caches() -> str | None:
        behind = [c for c in cluster.caches if not c.is_synced]
        return f"{len(behind)} caches have no list from the API server yet" if behind else None

    server.add_check("caches", caches)
    server.add_check("pass", lambda: figures.stalled(ALIVE_AFTER), live=True)
    async with server.serving():
        yield


def _identity(settings: Settings) -> str:
    return (
        settings.identity
        or os.environ.get("POD_NAME")
        or f"{socket.gethostname()}-{secrets.token_hex(4)}"
    )
