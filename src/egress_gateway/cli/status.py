"""``egress-gateway status``: what a person asks at three in the morning, on one screen.

For each configuration: ready or why not, its addresses, its gateways, its pods. The exit code is 1
when a configuration is not ready, so that a script can wait on it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from egress_gateway.api.conditions import READY, find
from egress_gateway.api.types import GatewayStatus, PodEndpoint, StaticGatewayConfiguration
from egress_gateway.kube import config, resources
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import ApiError


@click.command()
@click.option("--kubeconfig", help="Path; else KUBECONFIG, ~/.kube/config or the pod's own.")
@click.option("-n", "--namespace", help="Only this namespace.")
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def status(kubeconfig: str | None, namespace: str | None, output: str) -> None:
    """Configurations, gateways and pods at a glance."""
    try:
        found = asyncio.run(_read(kubeconfig, namespace))
    except config.ConfigError as error:
        raise click.ClickException(str(error)) from error
    except ApiError as error:
        raise click.ClickException(f"the Kubernetes API refused: {error}") from error
    overview = summarize(*found)
    if output == "json":
        click.echo(json.dumps(overview))
    else:
        click.echo(render(overview), nl=False)
    sys.exit(0 if all(c["ready"] for c in overview) else 1)


async def _read(
    kubeconfig: str | None, namespace: str | None
) -> tuple[Sequence[StaticGatewayConfiguration], Sequence[PodEndpoint], Sequence[GatewayStatus]]:
    async with Client(config.load(kubeconfig), "egress-gateway-cli") as client:
        configurations, endpoints, gateways = await asyncio.gather(
            client.list(resources.SGCS, namespace=namespace),
            client.list(resources.POD_ENDPOINTS, namespace=namespace),
            client.list(resources.GATEWAY_STATUSES),
        )
    return configurations.items, endpoints.items, gateways.items


def summarize(
    configurations: Sequence[StaticGatewayConfiguration],
    endpoints: Sequence[PodEndpoint],
    gateways: Sequence[GatewayStatus],
) -> list[dict[str, Any]]:
    """One entry a configuration; pure."""
    serving = {
        (ready.static_gateway_configuration, g.metadata.name)
        for g in gateways
        for ready in g.spec.ready_gateway_configurations
    }
    overview = []
    for sgc in configurations:
        name = f"{sgc.metadata.namespace}/{sgc.metadata.name}"
        ready = find(sgc.status.conditions, READY)
        overview.append(
            {
                "configuration": name,
                "ready": ready is not None and ready.status == "True",
                "reason": ready.reason if ready else "NotObserved",
                "message": ready.message if ready else "no controller has looked at it yet",
                "prefix": sgc.status.egress_ip_prefix,
                "gateways": [
                    msgspec.to_builtins(g) | {"serving": (name, g.node) in serving}
                    for g in sgc.status.gateways
                ],
                "pods": sorted(
                    e.metadata.name
                    for e in endpoints
                    if e.metadata.namespace == sgc.metadata.namespace
                    and e.spec.static_gateway_configuration == sgc.metadata.name
                ),
            }
        )
    return overview


def render(overview: list[dict[str, Any]]) -> str:
    """``summarize``'s result for a terminal."""
    if not overview:
        return "no StaticGatewayConfiguration\n"
    lines = []
    for entry in overview:
        state = "ready" if entry["ready"] else f"NOT READY ({entry['reason']})"
        lines.append(f"{entry['configuration']}: {state}  {entry['prefix'] or 'no address yet'}")
        if not entry["ready"]:
            lines.append(f"  {entry['message']}")
        for gateway in entry["gateways"]:
            serving = "serving" if gateway["serving"] else "NOT SERVING"
            public = gateway.get("publicIp") or "no public address"
            lines.append(f"  gateway {gateway['node']}  {serving}  {public}")
        lines.append(f"  pods: {', '.join(entry['pods']) or 'none'}")
    return "\n".join(lines) + "\n"
