"""``egress-gateway trace POD [DESTINATION]``: the way of a pod's packets, hop by hop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec

from egress_gateway.cli import cluster, options, running, terminal
from egress_gateway.cli.agents.answers import Round
from egress_gateway.cli.diagnosis.overview import Facts, summarize
from egress_gateway.cli.diagnosis.packets import pcap
from egress_gateway.cli.diagnosis.packets.bounds import HEADERS, PACKETS, SECONDS, SNAPLEN
from egress_gateway.cli.diagnosis.packets.hops import (
    Hop,
    asked_for,
    connected,
    endpoint_of,
    hops,
    inside,
    policies,
    probed,
)
from egress_gateway.cli.diagnosis.status import read
from egress_gateway.cli.diagnosis.workloads import agents
from egress_gateway.datapath.addresses import IPAddress, IPNetwork, parse_networks
from egress_gateway.kube.errors import ApiError, Forbidden, NotFound
from egress_gateway.kube.resources import (
    CONFIG_MAPS,
    DAEMON_SETS,
    NETWORK_POLICIES,
    PODS,
    SERVICES,
    Pod,
    Untyped,
)

if TYPE_CHECKING:
    from egress_gateway.kube.client import Client

_TARGETS: Final = "EGRESS_GATEWAY_VERIFY_TARGETS"
_PUBLIC: Final = ("stun.cloudflare.com:3478", "stun.l.google.com:19302")
"""The gateway agents' default (``gateway.settings``), which needs libraries of its own."""
_CAPTURE: Final = 90.0
"""Seconds for the longest capture, and its way through the API server."""
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
@click.option(
    "--pcap",
    "hop",
    metavar="HOP",
    help=f"Write the packets of this hop to a file: {', '.join(pcap.HOPS)}.",
)
@click.option(
    "--write",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="That file. Default: POD-HOP.pcap here; -: standard output.",
)
@click.option("--seconds", type=SECONDS, default=10.0, show_default=True, help="Of the capture.")
@click.option(
    "--packets", type=PACKETS, default=1000, show_default=True, help="At most; and 10 MiB."
)
@click.option(
    "--snaplen",
    type=click.IntRange(64, SNAPLEN),
    default=HEADERS,
    show_default=True,
    help="Bytes that are kept of each packet.",
)
@click.argument("pod")
@click.argument("destination", required=False)
def trace(
    kubeconfig: str | None,
    namespace: str,
    output: str,
    system_namespace: str,
    send: bool,
    hop: str | None,
    file: Path | None,
    pod: str,
    destination: str | None,
    **bounds: float,
) -> None:
    """Follow the packets of POD (to DESTINATION, an address, or ADDRESS:PORT to open a TCP
    connection there). Exit 1 when a hop is bad."""
    to, peer = _address(destination)
    where, _, name = pod.rpartition("/")
    key = (where or namespace, name)
    if hop is not None:
        if reason := pcap.refusal(hop):
            raise click.UsageError(reason)
        limits = [part for name, value in bounds.items() for part in (f"--{name}", str(value))]
        capturing = _capture(kubeconfig, key, hop, system_namespace, limits, send=send)
        captured, said = running.run(capturing)
        target = file or Path(f"{name}-{hop}.pcap")
        with click.open_file(str(target), "wb") as out:
            out.write(captured)
        terminal.echo(f"{said}; written to {target}", err=True)
        return
    found, unseen = running.run(_followed(kubeconfig, key, (to, peer), system_namespace, send=send))
    if output == "json":
        click.echo(msgspec.json.encode(found).decode())
    else:
        terminal.echo(
            "".join(map(_line, found)) + "".join(f"not seen: {u}\n" for u in unseen), nl=False
        )
    sys.exit(1 if any(hop.verdict == "bad" for hop in found) else 0)


async def _capture(
    kubeconfig: str | None,
    key: tuple[str, str],
    hop: str,
    system: str,
    limits: Sequence[str],
    *,
    send: bool,
) -> tuple[bytes, str]:
    """The file, and what the agent says of it. Meanwhile packets are sent as the pod (``send``),
    so that there is something to see."""
    async with cluster.connect(kubeconfig, "egress-gateway-cli") as client:
        facts = await read(client, key[0], system)
        place = pcap.place(facts, key, hop)
        if isinstance(place, str):
            raise click.ClickException(place)
        agent = await _agent(client, place.component, place.node, system)
        if agent is None:
            raise click.ClickException(
                f"no {place.component} agent runs on {place.node}: nobody is there to listen"
            )
        command = ["egress-gateway", "capture", *limits, *place.arguments]
        pod = _started(facts, key, ("tunnel",)) if send else None
        sending = asyncio.create_task(_keep_sending(client, key, system)) if pod else None
        try:
            code, out, error = await client.execute(
                system, agent.metadata.name, place.component, command, timeout=_CAPTURE
            )
        except Forbidden as refused:
            raise click.ClickException(
                f"{refused}; --pcap needs to create pods/exec in {system} "
                f"(of {agent.metadata.name}) besides what trace reads"
            ) from None
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        said = error.decode(errors="replace").strip().rpartition("\n")[2]
        if code:
            raise click.ClickException(said.removeprefix("Error: ") or "the agent's capture failed")
        return out, said


async def _keep_sending(client: Client, key: tuple[str, str], system: str) -> None:
    """Until it is cancelled: nobody says when the other agent has begun to listen."""
    while True:
        await _asked(client, key, system)


def _address(text: str | None) -> tuple[IPAddress | None, str]:
    """The address, and the text if it has a port too."""
    host, colon, port = (text or "").rpartition(":")
    with_port = bool(colon and port.isdecimal() and (host.startswith("[") or ":" not in host))
    try:
        found = ipaddress.ip_address(host.strip("[]") if with_port else text) if text else None
    except ValueError:
        raise click.UsageError(f"{text!r} is no IP address; resolve a name first") from None
    if with_port and not 0 < int(port) < 65536:
        raise click.UsageError(f"{port} is no port")
    return found, (text or "") if with_port else ""


def _line(hop: Hop) -> str:
    sign, colour = _SIGNS[hop.verdict]
    return f"{click.style(sign, fg=colour)} {hop.name:<13} {terminal.one_line(hop.text)}\n"


async def _followed(
    kubeconfig: str | None,
    key: tuple[str, str],
    destination: tuple[IPAddress | None, str],
    system: str,
    *,
    send: bool,
) -> tuple[list[Hop], Sequence[str]]:
    """The hops, and what was not to be seen. Packets go out while objects are read."""
    async with cluster.connect(kubeconfig, "egress-gateway-cli") as client:
        to, peer = destination
        sending = asyncio.create_task(_asked(client, key, system, to, peer)) if send else None
        try:
            facts, networks, found_policies = await asyncio.gather(
                read(client, key[0], system),
                cluster_networks(client, system),
                _policies(client, key[0]),
            )
            found = hops(facts, summarize(facts), key, to, networks)
            # Without it, the pod has no way yet, or one that we have nothing to do with.
            if pod := _started(facts, key, {hop.name for hop in found}):
                by_gateway = any(hop.name == "tunnel" for hop in found)
                if isinstance(found_policies, str):
                    text = f"not seen: {found_policies}"
                    found.append(Hop(name="NetworkPolicy", verdict="unknown", text=text))
                else:
                    found += policies(found_policies, pod.metadata.labels, by_gateway)
                if sending is not None:
                    found += _packets(*await sending, facts, pod, to, by_gateway=by_gateway)
            return found, facts.unseen
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)


def _started(facts: Facts, key: tuple[str, str], hops: Collection[str]) -> Pod | None:
    if not {"route", "tunnel"} & set(hops):
        return None
    found = (p for p in facts.pods or () if (p.metadata.namespace, p.metadata.name) == key)
    return next(found, None)


async def _policies(client: Client, namespace: str) -> Sequence[Untyped] | str:
    """All of a namespace, or why they are not to be seen."""
    try:
        return (await client.list(NETWORK_POLICIES, namespace)).items
    except ApiError as error:
        return str(error)


async def cluster_networks(client: Client, system: str) -> list[IPNetwork]:
    """What is never a gateway's; nothing where that is not this person's to read."""
    try:
        found = await client.get(CONFIG_MAPS, "egress-gateway", system)
    except ApiError:
        return []
    texts = found.data.get("clusterCidrs", "").split(",")
    return list(parse_networks(text.strip() for text in texts))


def _packets(
    found: Round | str,
    unasked: Sequence[Hop],
    facts: Facts,
    pod: Pod,
    to: IPAddress | None,
    *,
    by_gateway: bool,
) -> list[Hop]:
    """What packets of the pod came to. ``found``, ``unasked``: what ``_asked`` answered."""
    if isinstance(found, str):
        return [Hop(name="packets", verdict="unknown", text=f"none were sent: {found}")]
    sgc = asked_for(facts, pod)
    assert sgc is not None, "without one nothing is asked for"
    public = [gateway.public_ip for gateway in sgc.status.gateways if gateway.public_ip]
    endpoint = endpoint_of(facts, (pod.metadata.namespace, pod.metadata.name))
    answers = found.asked if by_gateway else ()
    return [
        *inside(found, to, by_gateway),
        *unasked,
        *probed(answers, public),
        *connected(found, endpoint if by_gateway else None, sgc),
    ]


async def _asked(
    client: Client, key: tuple[str, str], system: str, to: IPAddress | None = None, peer: str = ""
) -> tuple[Round | str, Sequence[Hop]]:
    """What packets of the pod come to, or why none were sent: the agent of its node sends them from
    its network, looks at its kernel and asks its resolvers. Beside that, what nobody could ask."""
    namespace, name = key
    unasked: list[Hop] = []
    try:
        spec = (await client.get(PODS.untyped(), name, namespace))["spec"]
        node = spec.get("nodeName") or ""
        resolvers, servers, agent = await asyncio.gather(
            _resolvers(client, spec),
            verify_targets(client, system),
            _agent(client, "node", node, system),
        )
        if isinstance(resolvers, str):
            text = f"which one it has: {resolvers}"
            unasked.append(Hop(name="resolver", verdict="unknown", text=text))
            resolvers = ()
        options = [part for server in servers for part in ("--server", server)]
        options += ["--way", str(to)] if to is not None else []
        options += ["--connect", peer] if peer else []
        options += [part for one in resolvers for part in ("--resolver", one)]
        if agent is None:
            return f"no egress-gateway-node pod runs on {node or 'its node'}", unasked
        return await _sent(client, agent.metadata.name, "/".join(key), system, options), unasked
    except ApiError as error:
        return str(error), unasked


async def _resolvers(client: Client, spec: Untyped) -> Sequence[str] | str:
    """The DNS servers of a pod's resolv.conf, as its kubelet derives them from its spec
    (https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/), or why that is not
    known. ``node``: its node's."""
    own = list((spec.get("dnsConfig") or {}).get("nameservers") or ())
    policy = spec.get("dnsPolicy", "ClusterFirst")
    if policy == "None":
        return own
    if policy == "ClusterFirst":
        try:
            cluster = await client.get(SERVICES, "kube-dns", "kube-system")
            return [ip for ip in cluster["spec"].get("clusterIPs", ()) if ip != "None"] + own
        except NotFound:
            pass  # kubelets know no clusterDNS
        except ApiError as error:
            return str(error)
    return ["node", *own]


async def _agent(client: Client, component: str, node: str, system: str) -> Pod | None:
    """The pod of a component on a node; pools' gateway agents have DaemonSets of their own."""
    running = await agents(client, component, system)
    return next((agent for agent in running if agent.spec.node_name == node), None)


async def _sent(
    client: Client, agent: str, pod: str, system: str, options: Sequence[str] = ()
) -> Round | str:
    """What the node agent's pod ``agent`` found as ``pod``, or why there is nothing."""
    command = ["egress-gateway", "probe", "--pod", pod, "--wait", "1", *options]
    code, out, error = await client.execute(system, agent, "node", command)
    if code:
        return (error or out).decode(errors="replace").strip().rpartition("\n")[2]
    try:
        found = msgspec.json.decode(out, type=Round)
        if "--server" in options and not found.asked:
            raise ValueError("it says nothing of servers")
    except (ValueError, RecursionError) as error:
        return f"{agent}, of another version, answers in another form: {error}"
    return found


async def verify_targets(client: Client, system: str) -> Sequence[str]:
    """The STUN servers that gateways ask: those of the settings, else the default ones."""
    told = ""
    with contextlib.suppress(ApiError):
        found = await client.get(DAEMON_SETS.untyped(), "egress-gateway-gateway", system)
        env = found["spec"]["template"]["spec"]["containers"][0].get("env") or []
        told = next((e.get("value", "") for e in env if e["name"] == _TARGETS), "")
    return tuple(filter(None, (t.strip() for t in told.split(",")))) or _PUBLIC
