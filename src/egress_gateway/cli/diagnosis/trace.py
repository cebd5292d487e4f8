"""``egress-gateway trace POD [DESTINATION]``: the way of a pod's packets, hop by hop."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import sys
from collections.abc import Sequence
from typing import Final

import click
import msgspec

from egress_gateway.api import names
from egress_gateway.cli import cluster, options
from egress_gateway.cli.diagnosis.hops import (
    Hop,
    IPAddress,
    IPNetwork,
    hops,
    networks,
    probed,
)
from egress_gateway.cli.diagnosis.overview import Facts, summarize
from egress_gateway.cli.diagnosis.status import read
from egress_gateway.cli.proof.answers import Asked, Round
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import ApiError
from egress_gateway.kube.resources import CONFIG_MAPS, DAEMON_SETS, PODS

_TARGETS: Final = "EGRESS_GATEWAY_VERIFY_TARGETS"
_PUBLIC: Final = ("stun.cloudflare.com:3478", "stun.l.google.com:19302")
"""The gateway agents' default (``gateway.settings``), which needs libraries of its own."""
_SIGNS: Final = {"good": ("✓", "green"), "bad": ("✗", "red"), "unknown": ("?", "yellow")}


@click.command()
@options.kubeconfig
@click.option("-n", "--namespace", default="default", show_default=True, help="The pod's.")
@options.output
@options.system_namespace
@click.option(
    "--probe/--no-probe",
    "send",
    default=True,
    help="Send packets as the pod, small and of full size, through its node's agent (default).",
)
@click.argument("pod")
@click.argument("destination", required=False)
def trace(
    kubeconfig: str | None,
    namespace: str,
    output: str,
    system_namespace: str,
    send: bool,
    pod: str,
    destination: str | None,
) -> None:
    """Follow the packets of POD (to the address DESTINATION). Exit 1 when a hop is bad."""
    to = _address(destination)
    where, _, name = pod.rpartition("/")
    key = (where or namespace, name)
    found, unseen = asyncio.run(_followed(kubeconfig, key, to, system_namespace, send=send))
    if output == "json":
        click.echo(msgspec.json.encode(found).decode())
    else:
        click.echo(
            "".join(map(_line, found)) + "".join(f"not seen: {u}\n" for u in unseen), nl=False
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


async def _followed(
    kubeconfig: str | None, key: tuple[str, str], to: IPAddress | None, system: str, *, send: bool
) -> tuple[list[Hop], Sequence[str]]:
    """The hops, and what was not to be seen."""
    async with cluster.connect(kubeconfig, "egress-gateway-cli") as client:
        facts = await read(client, key[0], system)
        networks = await cluster_networks(client, system)
        overview = summarize(facts, datetime.datetime.now(datetime.UTC))
        found = hops(facts, overview, key, to, networks)
        if send and any(hop.name == "tunnel" for hop in found):
            found += await _packets(client, facts, key, system)
        return found, facts.unseen


async def cluster_networks(client: Client, system: str) -> list[IPNetwork]:
    """What is never a gateway's; nothing where that is not this person's to read."""
    try:
        found = await client.get(CONFIG_MAPS, "egress-gateway", system)
    except ApiError:
        return []
    texts = found.data.get("clusterCidrs", "").split(",")
    return list(networks([text.strip() for text in texts if text.strip()]))


async def _packets(client: Client, facts: Facts, key: tuple[str, str], system: str) -> list[Hop]:
    """What packets of the pod come to: sent from its network by the agent of its node."""
    pod = next(p for p in facts.pods or () if (p.metadata.namespace, p.metadata.name) == key)
    asked = names.asked_configuration(pod.metadata.annotations)
    public = [
        gateway.public_ip
        for sgc in facts.configurations
        if (sgc.metadata.namespace, sgc.metadata.name) == (key[0], asked)
        for gateway in sgc.status.gateways
        if gateway.public_ip
    ]
    try:
        found = await _sent(client, pod.spec.node_name, "/".join(key), system)
    except ApiError as error:
        found = str(error)
    return probed(found, public)


async def _sent(client: Client, node: str, pod: str, system: str) -> Asked | str:
    agents = (await client.list(PODS, system, labels="app=egress-gateway-node")).items
    agent = next((a for a in agents if a.spec.node_name == node), None)
    if agent is None:
        return f"no egress-gateway-node pod runs on {node or 'its node'}"
    servers = await verify_targets(client, system)
    command = ["egress-gateway", "probe", "--pod", pod, "--wait", "1"]
    command += [part for server in servers for part in ("--server", server)]
    code, out, error = await client.execute(system, agent.metadata.name, "node", command)
    if code:
        return (error or out).decode(errors="replace").strip().rpartition("\n")[2]
    asked = msgspec.json.decode(out, type=Round).asked
    return next((one for one in asked if one.seen), asked[0])


async def verify_targets(client: Client, system: str) -> Sequence[str]:
    """The STUN servers that gateways ask: those of the settings, else the default ones."""
    told = ""
    with contextlib.suppress(ApiError):
        found = await client.get(DAEMON_SETS.untyped(), "egress-gateway-gateway", system)
        env = found["spec"]["template"]["spec"]["containers"][0].get("env") or []
        told = next((e.get("value", "") for e in env if e["name"] == _TARGETS), "")
    return tuple(filter(None, (t.strip() for t in told.split(",")))) or _PUBLIC
