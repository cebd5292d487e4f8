"""Sockets of a namespace, as /proc/net tells: who listens, and which TCP connections came in."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.linux.netns import NetNS

_ESTABLISHED: Final = 1
_LISTEN: Final = 10


@dataclass(frozen=True, slots=True)
class Flow:
    """A TCP connection that came in before the table was there."""

    remote: IPAddress
    remote_port: int
    local_port: int


class _Socket(NamedTuple):
    local_port: int
    remote: IPAddress
    remote_port: int
    state: int


def inbound_flows(netns: NetNS) -> list[Flow]:
    """TCP connections to ports that somebody listens on: those that came in. A connection
    that the pod itself opened from such a port cannot be told apart, and is rare."""
    if not _has_tcp(netns):
        return []
    sockets = [s for name in ("tcp", "tcp6") for s in _read(netns, name)]
    listening = {s.local_port for s in sockets if s.state == _LISTEN}
    return [
        Flow(s.remote, s.remote_port, s.local_port)
        for s in sockets
        if s.state == _ESTABLISHED and s.local_port in listening and not s.remote.is_loopback
    ]


def bound_udp_ports(netns: NetNS) -> set[int]:
    """Ports that some UDP socket is bound to."""
    return {s.local_port for name in ("udp", "udp6") for s in _read(netns, name)}


def _has_tcp(netns: NetNS) -> bool:
    """Whether the namespace has any TCP socket. A pod that is being started has none, and listing
    them walks the table of the whole machine: five milliseconds for each of the two families."""

    def read() -> str:
        paths = (Path("/proc/thread-self/net", name) for name in ("sockstat", "sockstat6"))
        return "\n".join(path.read_text() for path in paths if path.exists())

    return in_use(netns.run(read)) > 0


def in_use(statistics: str) -> int:
    """TCP sockets in ``/proc/net/sockstat{,6}`` (proc(5)): listening and connected ones."""
    lines = (line.split() for line in statistics.splitlines())
    return sum(
        int(words[2]) for words in lines if words[:2] in (["TCP:", "inuse"], ["TCP6:", "inuse"])
    )


def _read(netns: NetNS, name: str) -> list[_Socket]:
    path = Path("/proc/thread-self/net", name)

    def read() -> str:
        return path.read_text() if path.exists() else ""

    return list(parse(netns.run(read)))


def parse(table: str) -> Iterator[_Socket]:
    """Lines of ``/proc/net/{tcp,udp}{,6}`` (proc(5)): words of addresses are in host order."""
    for line in table.splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        address, _, port = remote.partition(":")
        yield _Socket(
            int(local.partition(":")[2], 16), _address(address), int(port, 16), int(state, 16)
        )


def _address(text: str) -> IPAddress:
    words = [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    if len(raw) == 4:
        return ipaddress.IPv4Address(raw)
    six = ipaddress.IPv6Address(raw)
    return six.ipv4_mapped or six
