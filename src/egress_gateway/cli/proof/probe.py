"""``egress-gateway probe``: what a pod gets from the network. ``egress-gateway test`` runs it.

Prints one JSON line a round and needs no rights: ordinary sockets, and a look at routes. The line
is the container's termination message too, so that who may read the pod need not read logs.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import click
import msgspec

from egress_gateway.cli.agents.answers import Asked, AskedResolver, Round, SeenPod
from egress_gateway.cli.proof import dns
from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.gateway import stun
from egress_gateway.datapath.linux import netns
from egress_gateway.datapath.linux.link import Links
from egress_gateway.datapath.linux.netns import NetNS

_IP_MTU_DISCOVER: Final = 10
_DO: Final = 2
"""ip(7): never fragment."""
_IP_MTU: Final = 14
"""ip(7): what the kernel takes the path's MTU to be."""
_HEADERS: Final = 28
"""Of IPv4 and UDP."""
_TRIES: Final = 3
_LAST_WORDS: Final = Path("/dev/termination-log")
_WORDS: Final = 4096
"""Bytes that a kubelet takes of it."""
_PATIENCE: Final = "timeout:1 attempts:3"
"""resolv.conf(5), for names of servers; the pod's own resolvers are asked by themselves."""


@click.command()
@click.option("--server", "servers", multiple=True, help="STUN server, as host:port.")
@click.option("--name", "names", multiple=True, help="A name to resolve.")
@click.option("--way", "ways", multiple=True, help="An address to look up the way to.")
@click.option("--connect", "peers", multiple=True, help="Where to open a TCP connection to.")
@click.option("--resolver", "resolvers", multiple=True, help="A DNS server; node: of resolv.conf.")
@click.option("--every", type=float, default=0.0, help="Seconds between rounds; 0: one round.")
@click.option("--wait", type=float, default=2.0, show_default=True, help="Seconds for an answer.")
@click.option("--pod", help="In a node agent: as this pod of the node, namespace/name.")
def probe(
    servers: tuple[str, ...],
    names: tuple[str, ...],
    ways: tuple[str, ...],
    peers: tuple[str, ...],
    resolvers: tuple[str, ...],
    every: float,
    wait: float,
    pod: str | None,
) -> None:
    """Ask STUN servers, resolve names and look up routes; print the results as JSON."""
    if pod:  # somebody waits, and an answer of a dead resolver takes ten seconds for each server
        os.environ.setdefault("RES_OPTIONS", _PATIENCE)
    where, look = _of_pod(pod) if pod else (netns.here(), _nothing)
    while True:
        asking = partial(round_of, servers, names, ways, wait, dns.servers(resolvers), peers)
        found = where.run(asking)
        found = msgspec.structs.replace(found, pod=look())
        line = msgspec.json.encode(found)
        click.echo(line.decode())
        if not every:
            _leave(line)
            return
        time.sleep(every)


def _leave(line: bytes) -> None:
    # Of a person's shell it is not there; of `exec` in an agent it is the agent's.
    if len(line) <= _WORDS and os.getpid() == 1:
        with contextlib.suppress(OSError):
            _LAST_WORDS.write_bytes(line)


def _nothing() -> None:
    """A pod itself sees less of its tunnel than its node's agent."""


def _of_pod(pod: str) -> tuple[NetNS, Callable[[], SeenPod]]:
    # Needs what agents alone have: a person's installation lacks the cryptography of keys.
    from egress_gateway.cli.agents import inside, namespaces

    try:
        if (found := namespaces.attachment(pod)) is not None:
            where = NetNS.open(found.netns)
            return where, partial(inside.look, where, found)
    except DatapathError:
        pass  # deleted meanwhile
    raise click.ClickException(f"this node has no attached pod {pod}")


def round_of(
    servers: Sequence[str],
    names: Sequence[str],
    ways: Sequence[str],
    wait: float,
    resolvers: Sequence[str] = (),
    peers: Sequence[str] = (),
) -> Round:
    """Resolves ``names``, asks each STUN server and resolver for at most ``wait`` seconds, opens a
    connection to each of ``peers`` within three times that, and asks the kernel which way packets
    to ``ways`` would take."""
    unresolved = {}
    for name in names:
        try:
            socket.getaddrinfo(name, None)
        except OSError as error:
            unresolved[name] = str(error)
    # NB: threads that begin here are in this thread's network namespace.
    with ThreadPoolExecutor(len(servers) + len(resolvers) + len(peers) or 1) as pool:
        asked = pool.map(lambda server: _ask(server, wait), servers)
        answered = pool.map(lambda server: _resolver(server, names, wait), resolvers)
        opened = pool.map(lambda peer: _connect(peer, wait * _TRIES), peers)
    return Round(
        unresolved=unresolved,
        asked=list(asked),
        resolvers=list(answered),
        connected=dict(zip(peers, opened, strict=True)),
        ways={way: _way(ipaddress.ip_address(way)) for way in ways},
    )


def _connect(peer: str, wait: float) -> str:
    """Why no connection came about; empty: one did, and is closed."""
    host, _, port = peer.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=wait).close()
    except OSError as error:
        return "silence" if isinstance(error, TimeoutError) else error.strerror or str(error)
    return ""


def _resolver(server: str, names: Sequence[str], wait: float) -> AskedResolver:
    error = dns.ask(server, names[0] if names else "", wait / _TRIES, tries=_TRIES)
    return AskedResolver(server=server, device=_way(ipaddress.ip_address(server)), error=error)


def _way(address: IPAddress) -> str:
    try:
        with Links(NetNS.current()) as links:
            return links.way(address)
    except DatapathError as error:
        return f"none: {error}"


def _ask(server: str, wait: float) -> Asked:
    host, _, port = server.rpartition(":")
    try:
        where = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_DGRAM)[0][4]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _DO)
            asking.connect(where)
            seen = _answer(asking, wait, 0)
            mtu = asking.getsockopt(socket.IPPROTO_IP, _IP_MTU)
            full = _answer(asking, wait, mtu - _HEADERS) if seen else ""
    except OSError as error:
        return Asked(server=server, error=str(error))
    address = str(where[0])
    device = _way(ipaddress.ip_address(address))
    return Asked(server=server, address=address, device=device, seen=seen, mtu=mtu, full_seen=full)


def _answer(asking: socket.socket, wait: float, size: int) -> str:
    """What the server saw; empty if it does not answer, as if it were too large to send."""
    asking.settimeout(wait)
    for _ in range(_TRIES):
        transaction = os.urandom(12)
        try:
            asking.send(stun.request(transaction, size=size))
            while (found := stun.seen(asking.recv(2048))) is None or (
                found.transaction != transaction
            ):
                pass  # of a question before this one
            return str(found.address)
        except OSError:
            continue
    return ""
