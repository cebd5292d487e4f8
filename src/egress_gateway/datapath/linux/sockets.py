"""Sockets of a namespace, as the kernel lists them (sock_diag(7), proc(5)), and who opened each TCP
connection.

The kernel does not say which side opened a connection, but its counters do. A SYN takes one number
of the sequence space, and the side that sent it has it acknowledged by the other's SYN-ACK through
the path that counts acknowledged bytes (``tcp_ack``). The side that answered has its SYN-ACK
acknowledged before the socket exists. So the opener has one byte more acknowledged than it has
sent, for as long as the connection lasts.
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.errors import DatapathError, understood
from egress_gateway.datapath.linux import netlink
from egress_gateway.datapath.linux.netlink import Message, NetlinkError, NetlinkSocket
from egress_gateway.datapath.linux.netns import NetNS

TCP: Final = 6
UDP: Final = 17

# Numbers of TCP's states are those of the kernel's tcp_states.h.
_ESTABLISHED: Final = 1
_SYN_RECEIVED: Final = 3
_FIN_WAIT1, _FIN_WAIT2 = 4, 5
_CLOSE_WAIT: Final = 8
_LAST_ACK: Final = 9
_LISTEN: Final = 10
_CLOSING: Final = 11
_CARRYING: Final = {_ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2, _CLOSE_WAIT, _LAST_ACK, _CLOSING}

_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_WITH_TCP_INFO: Final = 1 << 1
_TCP_INFO: Final = 2
_ALL_STATES: Final = 0xFFFF_FFFF
_FIXED: Final = 72
"""Bytes of ``struct inet_diag_msg``."""

Opener = Literal["pod", "remote", "unknown"]


class Flow(msgspec.Struct, frozen=True):
    """A connection as the pod sees it."""

    remote: IPAddress
    remote_port: int
    local_port: int
    protocol: int = TCP


class Socket(msgspec.Struct, frozen=True):
    """``flow`` None: a socket that is bound to no remote end. ``opener`` of the connection."""

    protocol: int
    local: IPAddress
    local_port: int
    flow: Flow | None = None
    opener: Opener = "unknown"


class Counters(NamedTuple):
    """What the kernel counts of a TCP connection, in bytes (``struct tcp_info``, and the write
    queue of ``struct inet_diag_msg``)."""

    sent: int
    retransmitted: int
    acknowledged: int
    queued: int
    """Written and not yet acknowledged; an end of stream counts as one."""
    unsent: int


def opener(state: int, counters: Counters) -> Opener:
    """Which side opened the connection: see the top of the file. "unknown" when the counters do not
    fit together: they are not read at one instant, and packets that were dropped on their way out
    of the machine count twice. Pure."""
    in_flight = counters.queued - counters.unsent
    surplus = counters.acknowledged + in_flight - (counters.sent - counters.retransmitted)
    # The end of the stream takes a number too.
    ended = state == _FIN_WAIT2 or (
        state in (_FIN_WAIT1, _LAST_ACK, _CLOSING) and counters.unsent == 0
    )
    verdicts: dict[int, Opener] = {0: "remote", 1: "pod"}
    return verdicts.get(surplus - ended, "unknown")


def connections(netns: NetNS) -> list[Socket]:
    """TCP and UDP sockets, but for listening ones and those that have no socket left (TIME_WAIT).
    Some 20 µs each."""
    connection = NetlinkSocket(_SOCK_DIAG, netns)
    try:
        found: list[Socket] = []
        for family in (2, 10):
            for protocol in (TCP, UDP):
                found += _dump(connection, family, protocol)
        return found
    except NetlinkError as error:
        # A kernel without the modules tcp_diag and udp_diag, or without IPv6.
        if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        return list(_by_listening_ports(netns))
    finally:
        connection.close()


def _dump(connection: NetlinkSocket, family: int, protocol: int) -> Iterator[Socket]:
    wanted = _WITH_TCP_INFO if protocol == TCP else 0
    header = struct.pack("=BBBBI", family, protocol, wanted, 0, _ALL_STATES)
    asked = Message(_BY_FAMILY, netlink.DUMP, header + bytes(48))
    for answer in connection.query(asked, "listing sockets"):
        if (found := decode(answer.payload, protocol)) is not None:
            yield found


@understood(DatapathError, "the kernel's answer about a socket")
def decode(payload: bytes, protocol: int) -> Socket | None:
    """An answer of sock_diag; None for a socket that carries nothing."""
    state = payload[1]
    if protocol == TCP and state not in (*_CARRYING, _SYN_RECEIVED):
        return None
    length = 4 if payload[0] == 2 else 16
    local_port, remote_port = struct.unpack_from("!HH", payload, 4)
    local = _plain(payload[8 : 8 + length])
    if protocol == UDP and state != _ESTABLISHED:
        return Socket(UDP, local, local_port)
    flow = Flow(_plain(payload[24 : 24 + length]), remote_port, local_port, protocol)
    if protocol == UDP:
        return Socket(UDP, local, local_port, flow)
    if state == _SYN_RECEIVED:
        return Socket(TCP, local, local_port, flow, "remote")
    counters = _counters(payload)
    who: Opener = opener(state, counters) if counters else "unknown"
    return Socket(TCP, local, local_port, flow, who)


def _counters(payload: bytes) -> Counters | None:
    info = netlink.attributes(payload, _FIXED).get(_TCP_INFO, b"")
    if len(info) < 216:  # before Linux 4.19
        return None
    (queued,) = struct.unpack_from("=I", payload, 60)
    (acknowledged,) = struct.unpack_from("=Q", info, 120)
    (unsent,) = struct.unpack_from("=I", info, 144)
    sent, retransmitted = struct.unpack_from("=QQ", info, 200)
    return Counters(sent, retransmitted, acknowledged, queued, unsent)


def _plain(raw: bytes) -> IPAddress:
    if len(raw) == 4:
        return ipaddress.IPv4Address(raw)
    six = ipaddress.IPv6Address(raw)
    return six.ipv4_mapped or six


def _by_listening_ports(netns: NetNS) -> Iterator[Socket]:
    """Without counters: a connection to a port that somebody listens on came in."""
    streams = [s for name in ("tcp", "tcp6") for s in _read(netns, name)]
    listening = {s.local_port for s in streams if s.state == _LISTEN}
    for s in streams:
        if s.state in (*_CARRYING, _SYN_RECEIVED):
            who: Opener = "remote" if s.local_port in listening else "unknown"
            flow = Flow(s.remote, s.remote_port, s.local_port)
            yield Socket(TCP, s.local, s.local_port, flow, who)
    for s in (s for name in ("udp", "udp6") for s in _read(netns, name)):
        bound = Flow(s.remote, s.remote_port, s.local_port, UDP)
        yield Socket(UDP, s.local, s.local_port, bound if s.state == _ESTABLISHED else None)


def bound_udp_ports(netns: NetNS) -> set[int]:
    """Ports that some UDP socket is bound to."""
    return {s.local_port for name in ("udp", "udp6") for s in _read(netns, name)}


def has_sockets(netns: NetNS) -> bool:
    """Whether the namespace has any socket that sends packets. A pod that is being started has
    none, and listing them walks the tables of the whole machine: milliseconds for each."""

    def read() -> str:
        paths = (Path("/proc/thread-self/net", name) for name in ("sockstat", "sockstat6"))
        return "\n".join(path.read_text() for path in paths if path.exists())

    return in_use(netns.run(read)) > 0


def in_use(statistics: str) -> int:
    """Sockets that ``/proc/net/sockstat{,6}`` (proc(5)) counts as in use: of TCP listening and
    connected ones, of other protocols all."""
    lines = (line.split() for line in statistics.splitlines())
    return sum(int(words[2]) for words in lines if words[1:2] == ["inuse"])


def ephemeral_ports(netns: NetNS) -> range:
    """The ports that the kernel gives to sockets that ask for none."""

    def read() -> str:
        return Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()

    first, last = map(int, netns.run(read).split())
    return range(first, last + 1)


class _Line(NamedTuple):
    local: IPAddress
    local_port: int
    remote: IPAddress
    remote_port: int
    state: int


def _read(netns: NetNS, name: str) -> list[_Line]:
    path = Path("/proc/thread-self/net", name)

    def read() -> str:
        return path.read_text() if path.exists() else ""

    return parse(netns.run(read))


@understood(DatapathError, "a table of sockets in /proc/net")
def parse(table: str) -> list[_Line]:
    """Lines of ``/proc/net/{tcp,udp}{,6}`` (proc(5)): words of addresses are in host order."""
    found = []
    for line in table.splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        own, _, own_port = local.partition(":")
        address, _, port = remote.partition(":")
        found.append(
            _Line(
                _address(own), int(own_port, 16), _address(address), int(port, 16), int(state, 16)
            )
        )
    return found


def _address(text: str) -> IPAddress:
    words = [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]
    return _plain(struct.pack(f"={len(words)}I", *words))
