"""The webhook's process: any number of replicas, without a leader."""

from __future__ import annotations

import asyncio

from egress_gateway.api import names
from egress_gateway.kube import config
from egress_gateway.kube.client import Client
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import NAMESPACES
from egress_gateway.kube.review import MetricsReader
from egress_gateway.service import metrics
from egress_gateway.service.figures import build
from egress_gateway.service.health import HealthServer
from egress_gateway.webhook.keeper import Keeper
from egress_gateway.webhook.server import Namespaces, WebhookServer
from egress_gateway.webhook.settings import Settings


async def run(settings: Settings) -> None:
    """Works until cancelled. Raises ``kube.config.ConfigError``."""
    access = config.load(settings.kubeconfig or None)
    async with Client(access, names.FIELD_MANAGER_WEBHOOK) as client:
        namespaces = Cache(client, NAMESPACES)
        lookup = Namespaces(client, namespaces)
        server = WebhookServer(
            address=settings.address,
            port=settings.port,
            default=lookup.default,
            wait_image=settings.wait_image,
        )
        keeper = Keeper(client, namespaces, settings, on_certificate=server.use)
        health = HealthServer(port=settings.health_port, address=settings.health_address)
        review = MetricsReader(client) if settings.metrics_auth else None
        # Once it can answer it stays ready, whatever becomes of a later look.
        health.add_check("webhook", lambda: None if server.started else keeper.problem)
        async with (
            health.serving(),
            metrics.serving(settings.metrics_port, review, [build("webhook")]),
            asyncio.TaskGroup() as group,
        ):
            group.create_task(namespaces.run())
            group.create_task(keeper.run())
            group.create_task(_serve(server, keeper))


async def _serve(server: WebhookServer, keeper: Keeper) -> None:
    await keeper.certified.wait()
    await server.start()
    try:
        await asyncio.Event().wait()
    finally:
        await server.close()
