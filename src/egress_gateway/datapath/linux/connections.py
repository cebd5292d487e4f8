"""Connections that a gateway translates: how many there are, and which begin and end (ctnetlink).

A port of the gateway's address is used once per destination (address, port, protocol), so the
figure that ends at 64,512 is the number of connections to one destination. A connection belongs to
the configuration whose conntrack zone it is in. Formats: linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import msgspec

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.errors import DatapathError, understood
from egress_gateway.datapath.linux import netlink
from egress_gateway.datapath.linux.netlink import Message, NetlinkSocket
from egress_gateway.datapath.linux.netns import NetNS

PORTS: Final = 65535 - 1024 + 1
"""Ports that one address has for one destination."""
PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 132: "sctp"}

_GET: Final = (1 << 8) | 1
_NEW: Final = 1 << 8
_DELETE: Final = (1 << 8) | 2
_GROUP_NEW, _GROUP_DESTROY = 1, 3
_ORIGINAL, _REPLY, _ZONE = 1, 2, 18
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_SOURCES, _DESTINATIONS = (1, 3), (2, 4)  # of IPv4, of IPv6
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3

_ZONED: Final = struct.pack("=HH", 6, _ZONE)


class _Places(msgspec.Struct, frozen=True):
    """Of TCP and UDP the kernel writes both tuples at fixed places; tens of thousands of entries
    are counted by slices, without a look at anything else."""

    plain: slice
    destination: slice
    protocol: slice
    port: slice
    zone: slice
    source: slice

    @classmethod
    def of(cls, length: int) -> _Places:
        """``length`` of an address in bytes, of which there are four."""
        more = length - 4
        return cls(
            plain=slice(108 + 4 * more, 112 + 4 * more),
            destination=slice(24 + more, 28 + 2 * more),
            protocol=slice(36 + 2 * more, 37 + 2 * more),
            port=slice(52 + 2 * more, 54 + 2 * more),
            zone=slice(112 + 4 * more, 114 + 4 * more),
            source=slice(16, 20 + more),
        )


_PLACES: Final = {socket.AF_INET: _Places.of(4), socket.AF_INET6: _Places.of(16)}


@dataclass(frozen=True, slots=True, order=True)
class Use:
    """Connections of one zone to the destination that has most of them, and all of them."""

    ports: int
    destination: IPAddress = field(compare=False)
    port: int
    protocol: str
    connections: int

    @property
    def family(self) -> Literal[4, 6]:
        """4 or 6, as nftables and metrics name it."""
        return 4 if self.destination.version == 4 else 6


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """One that began or (``ended``) is over. ``translated`` is where its replies go."""

    zone: int
    protocol: str
    source: IPAddress
    source_port: int
    destination: IPAddress
    destination_port: int
    translated: IPAddress
    translated_port: int
    ended: bool = False


class Survey(msgspec.Struct, frozen=True):
    """All connections of a namespace, counted."""

    use: Mapping[int, Use]
    """By zone."""
    sources: Mapping[tuple[int, IPAddress], int]
    """Connections by zone and by who opened them, of every protocol."""


def survey(netns: NetNS) -> Survey:
    """Counts them. Some 4 µs of CPU per connection of the namespace."""
    counted: Counter[bytes] = Counter()
    sources: Counter[bytes] = Counter()
    connection = NetlinkSocket(netlink.NETFILTER, netns)
    try:
        header = struct.pack("!BBH", socket.AF_UNSPEC, 0, 0)
        asked = Message(_GET, netlink.DUMP, header)
        count = {
            int(family): _counting(counted, sources, places) for family, places in _PLACES.items()
        }
        connection.scan(asked, "counting connections", lambda m: count[m.payload[0]](m))
    finally:
        connection.close()
    opened = {
        (int.from_bytes(key[:2]), ipaddress.ip_address(key[2:])): number
        for key, number in sources.items()
    }
    return Survey(summarize(counted), opened)


def use(netns: NetNS) -> Mapping[int, Use]:
    """Of a survey, what is used by zone."""
    return survey(netns).use


def _counting(
    counted: Counter[bytes], sources: Counter[bytes], places: _Places
) -> Callable[[Message], None]:
    plain, zone, protocol = places.plain, places.zone, places.protocol
    port, destination, source = places.port, places.destination, places.source

    def count(message: Message) -> None:
        payload = message.payload
        if payload[plain] == _ZONED:
            counted[payload[zone] + payload[protocol] + payload[port] + payload[destination]] += 1
            sources[payload[zone] + payload[source]] += 1
        else:
            # ICMP and the like, whose tuples have other lengths.
            found = netlink.attributes(payload, 4).get(_ZONE)
            if found:
                sources[found + payload[source]] += 1

    return count


def summarize(counted: Counter[bytes]) -> dict[int, Use]:
    """``counted``: zone, protocol, port, destination as the kernel writes them."""
    totals: Counter[int] = Counter()
    most: dict[int, tuple[int, bytes]] = {}
    for key, number in counted.items():
        zone = int.from_bytes(key[:2])
        totals[zone] += number
        most[zone] = max(most.get(zone, (0, b"")), (number, key))
    return {
        zone: Use(
            ports=number,
            destination=ipaddress.ip_address(key[5:]),
            port=int.from_bytes(key[3:5]),
            protocol=PROTOCOLS.get(key[2], str(key[2])),
            connections=totals[zone],
        )
        for zone, (number, key) in most.items()
    }


def table(netns: NetNS) -> tuple[int, int]:
    """(entries, limit) of the namespace's connection table."""

    def read() -> tuple[int, int]:
        folder = Path("/proc/sys/net/netfilter")
        names = ("nf_conntrack_count", "nf_conntrack_max")
        count, limit = (int((folder / name).read_text()) for name in names)
        return count, limit

    return netns.run(read)


class ConnectionEvents:
    """Connections of a namespace as they begin and end, from now on. Close it before you delete
    the namespace. The kernel makes events only while a program listens."""

    def __init__(self, netns: NetNS) -> None:
        self._socket = NetlinkSocket(netlink.NETFILTER, netns)
        self._socket.listen_to(_GROUP_NEW, _GROUP_DESTROY, buffer=8 << 20)

    def read(self, seconds: float) -> list[Connection]:
        """What came, waiting at most so long for the first. Raises ``Overrun`` when events
        came faster than they were read, and some are lost."""
        return [c for m in self._socket.listen(seconds) if (c := decode(m)) is not None]

    def close(self) -> None:
        """The kernel then makes no more events for us."""
        self._socket.close()


@understood(DatapathError, "the kernel's word on a connection")
def decode(message: Message) -> Connection | None:
    """An event; None if it is of another kind."""
    if message.kind not in (_NEW, _DELETE) or message.payload[0] not in _PLACES:
        return None
    found = netlink.attributes(message.payload, 4)
    original, reply = read_tuple(found[_ORIGINAL]), read_tuple(found[_REPLY])
    return Connection(
        zone=int.from_bytes(found[_ZONE]) if _ZONE in found else 0,
        protocol=PROTOCOLS.get(original.protocol, str(original.protocol)),
        source=original.source,
        source_port=original.source_port,
        destination=original.destination,
        destination_port=original.destination_port,
        translated=reply.destination,
        translated_port=reply.destination_port,
        ended=message.kind == _DELETE,
    )


class Tuple(msgspec.Struct, frozen=True):
    """One direction of a connection."""

    protocol: int
    source: IPAddress
    source_port: int
    destination: IPAddress
    destination_port: int


@understood(DatapathError, "the kernel's word on a connection")
def read_tuple(raw: bytes) -> Tuple:
    """From the attributes inside ``CTA_TUPLE_ORIG`` or ``CTA_TUPLE_REPLY``; protocols without
    ports have none (0)."""
    parts = netlink.attributes(raw)
    addresses = netlink.attributes(parts[_TUPLE_IP])
    ends = netlink.attributes(parts[_TUPLE_PROTO])
    return Tuple(
        ends[_NUMBER][0],
        _address(addresses, _SOURCES),
        int.from_bytes(ends.get(_SOURCE_PORT, b"")),
        _address(addresses, _DESTINATIONS),
        int.from_bytes(ends.get(_DESTINATION_PORT, b"")),
    )


def _address(found: Mapping[int, bytes], kinds: tuple[int, int]) -> IPAddress:
    return ipaddress.ip_address(next(found[kind] for kind in kinds if kind in found))
