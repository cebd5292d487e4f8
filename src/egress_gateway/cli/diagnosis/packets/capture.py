"""``egress-gateway capture``: packets of one hop of a pod's way, as a pcap file on standard output.
``trace --pcap`` runs it in the agent of the hop's node.

It shows one pod's packets, or (behind the translation) those of one configuration, and no others.
"""

from __future__ import annotations

import ipaddress
from typing import Final

import click

from egress_gateway.api import names
from egress_gateway.cli.diagnosis.packets.bounds import HEADERS, PACKETS, SECONDS, SIZE, SNAPLEN
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.gateway.namespace import NAMESPACE
from egress_gateway.datapath.gateway.ruleset import INSIDE_LINK
from egress_gateway.datapath.linux import netns
from egress_gateway.datapath.linux.capture import CaptureLimits, capture
from egress_gateway.datapath.linux.link import Links
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.pod.ruleset import LINKS

_PORTS: Final = click.IntRange(names.PORT_FIRST, names.PORT_LAST)


@click.command("capture")
@click.option("--hop", type=click.Choice(["pod", "tunnel", "gateway", "address"]), required=True)
@click.option("--pod", help="namespace/name, for the hops pod and tunnel.")
@click.option("--port", "ports", type=_PORTS, multiple=True, help="Of the configuration.")
@click.option("--address", "addresses", multiple=True, help="Only packets from or to it.")
@click.option("--seconds", type=SECONDS, default=10.0, show_default=True)
@click.option("--packets", type=PACKETS, default=1000, show_default=True)
@click.option("--snaplen", type=click.IntRange(64, SNAPLEN), default=HEADERS, show_default=True)
def command(
    hop: str,
    pod: str | None,
    ports: tuple[int, ...],
    addresses: tuple[str, ...],
    seconds: float,
    packets: int,
    snaplen: int,
) -> None:
    """Write packets of one hop to standard output, and what ended it to standard error."""
    try:
        chosen = [ipaddress.ip_address(text) for text in addresses]
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if hop in ("gateway", "address") and not chosen:
        raise click.UsageError(f"--hop {hop} needs --address: it shows no other pod's packets")
    limits = CaptureLimits(seconds=seconds, packets=packets, size=SIZE, snaplen=snaplen)
    try:
        with _where(hop, pod) as where:
            links = where.run(lambda: _links(hop, where, ports))
            found = where.run(lambda: capture(links, chosen, limits))
    except DatapathError as error:
        raise click.ClickException(str(error)) from None
    click.echo(found.pcap, nl=False)
    missed = f", {found.missed} more came too fast" if found.missed else ""
    click.echo(
        f"{found.packets} packets of {', '.join(links)}{missed}; ended by {found.ended}", err=True
    )


def _where(hop: str, pod: str | None) -> NetNS:
    # Needs what agents alone have: a person's installation lacks the cryptography of keys.
    from egress_gateway.cli.agents.namespaces import attachment

    if hop in ("gateway", "address"):
        return _of_gateway()
    if (found := attachment(pod or "")) is None:
        raise click.ClickException(f"this node has no attached pod {pod}")
    return NetNS.open(found.netns)


def _of_gateway() -> NetNS:
    if not netns.exists(NAMESPACE):
        raise click.ClickException("this node has no gateway's namespace")
    return NetNS.open(netns.DIRECTORY / NAMESPACE)


def _links(hop: str, where: NetNS, ports: tuple[int, ...]) -> list[str]:
    with Links(where) as links:
        there = [link.name for link in links.links().values() if link.name != "lo"]
    wanted = {
        "pod": [name for name in there if name not in LINKS],
        "tunnel": [name for name in there if name in LINKS],
        "gateway": [name for name in there if name in {f"wg-{port}" for port in ports}],
        "address": [INSIDE_LINK],
    }[hop]
    if not wanted:
        raise click.ClickException(f"there is no link of the hop {hop} now")
    return wanted
