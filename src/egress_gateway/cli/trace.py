"""``egress-gateway trace POD [DESTINATION]``: the way of a pod's packets, hop by hop."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import sys
from typing import Final

import click
import msgspec

from egress_gateway.cli import options
from egress_gateway.cli.hops import Hop, IPAddress, IPNetwork, hops
from egress_gateway.cli.overview import Facts, summarize
from egress_gateway.cli.status import read
from egress_gateway.kube import config
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import ApiError
from egress_gateway.kube.resources import CONFIG_MAPS

_SIGNS: Final = {"good": ("✓", "green"), "bad": ("✗", "red"), "unknown": ("?", "yellow")}


@click.command()
@options.kubeconfig
@click.option("-n", "--namespace", default="default", show_default=True, help="The pod's.")
@options.output
@options.system_namespace
@click.argument("pod")
@click.argument("destination", required=False)
def trace(
    kubeconfig: str | None,
    namespace: str,
    output: str,
    system_namespace: str,
    pod: str,
    destination: str | None,
) -> None:
    """Follow the packets of POD (to the address DESTINATION). Exit 1 when a hop is bad."""
    to = _address(destination)
    where, _, name = pod.rpartition("/")
    key = (where or namespace, name)
    try:
        facts, cluster = asyncio.run(_look(kubeconfig, key[0], system_namespace))
    except config.ConfigError as error:
        raise click.ClickException(str(error)) from error
    except ApiError as error:
        raise click.ClickException(f"the Kubernetes API refused: {error}") from error
    found = hops(facts, summarize(facts, datetime.datetime.now(datetime.UTC)), key, to, cluster)
    if output == "json":
        click.echo(msgspec.json.encode(found).decode())
    else:
        click.echo(
            "".join(map(_line, found)) + "".join(f"not seen: {u}\n" for u in facts.unseen), nl=False
        )
    sys.exit(1 if any(hop.verdict == "bad" for hop in found) else 0)


def _address(text: str | None) -> IPAddress | None:
    try:
        return ipaddress.ip_address(text) if text else None
    except ValueError:
        raise click.UsageError(f"{text!r} is no IP address; resolve a name first") from None


def _line(hop: Hop) -> str:
    sign, colour = _SIGNS[hop.verdict]
    return f"{click.style(sign, fg=colour)} {hop.name:<13} {hop.text}\n"


async def _look(
    kubeconfig: str | None, namespace: str, system: str
) -> tuple[Facts, list[IPNetwork]]:
    facts = await read(kubeconfig, namespace, system)
    async with Client(config.load(kubeconfig), "egress-gateway-cli") as client:
        try:
            found = await client.get(CONFIG_MAPS, "egress-gateway", system)
        except ApiError:
            return facts, []  # not this person's to read
    texts = found.data.get("clusterCidrs", "").split(",")
    return facts, [ipaddress.ip_network(t.strip(), strict=False) for t in texts if t.strip()]
