"""Connections of addresses that went are forgotten in one pass, and no others."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.linux import conntrack, netlink
from egress_gateway.datapath.linux.netlink import Message, NetlinkSocket
from tests.datapath.box import boxed
from tests.datapath.topology import Place

_NEW = 1 << 8
_ORIGINAL, _REPLY, _TIMEOUT, _ZONE, _STATUS = 1, 2, 7, 18, 3
_CONFIRMED_SEEN_REPLY = 0x2 | 0x8


def tuple_of(source: IPAddress, target: IPAddress, port: int, *, reply: bool) -> bytes:
    first, second = (target, source) if reply else (source, target)
    four = source.version == 4
    addresses = netlink.nested(
        1,
        netlink.attribute(1 if four else 3, first.packed),
        netlink.attribute(2 if four else 4, second.packed),
    )
    ports = (9, port) if reply else (port, 9)
    protocol = netlink.nested(
        2,
        netlink.attribute(1, b"\x11"),
        netlink.attribute(2, struct.pack("!H", ports[0])),
        netlink.attribute(3, struct.pack("!H", ports[1])),
    )
    return netlink.nested(_REPLY if reply else _ORIGINAL, addresses, protocol)


def entry(source: IPAddress, port: int, zone: int) -> Message:
    """A UDP connection, as ctnetlink makes one."""
    target = ipaddress.ip_address("198.51.100.10" if source.version == 4 else "2001:db8:ffff::10")
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    payload = (
        struct.pack("!BBH", family, 0, 0)
        + tuple_of(source, target, port, reply=False)
        + tuple_of(source, target, port, reply=True)
        + netlink.attribute(_STATUS, struct.pack("!I", _CONFIRMED_SEEN_REPLY))
        + netlink.attribute(_TIMEOUT, struct.pack("!I", 600))
        + netlink.attribute(_ZONE, struct.pack("!H", zone))
    )
    return Message(_NEW, netlink.CREATE | netlink.EXCLUSIVE, payload)


class Table:
    def __init__(self, place: Place) -> None:
        self.place = place
        # Connections are tracked where a rule asks for it.
        place.nft("table inet t { chain c { type filter hook input priority 0; ct state new; }; }")

    def fill(self, sources: list[IPAddress], zone: int) -> None:
        connection = NetlinkSocket(netlink.NETFILTER, self.place.netns)
        made = [entry(source, 1000 + n % 50000, zone) for n, source in enumerate(sources)]
        assert all(refused is None for refused in connection.batch(made))
        connection.close()

    def sources(self, zone: int) -> set[IPAddress]:
        found: set[IPAddress] = set()

        def read(message: Message) -> None:
            parts = netlink.attributes(message.payload, 4)
            if int.from_bytes(parts.get(_ZONE, b"")) == zone:
                ends = netlink.attributes(netlink.attributes(parts[_ORIGINAL])[1])
                found.add(ipaddress.ip_address(ends.get(1) or ends[3]))

        connection = NetlinkSocket(netlink.NETFILTER, self.place.netns)
        header = struct.pack("!BBH", socket.AF_UNSPEC, 0, 0)
        connection.scan(Message((1 << 8) | 1, netlink.DUMP, header), "listing", read)
        connection.close()
        return found


@contextmanager
def requests() -> Iterator[list[str]]:
    """What the kernel is asked meanwhile: one walk over its table each."""
    asked: list[str] = []
    batch, scan = NetlinkSocket.batch, NetlinkSocket.scan

    def counted_batch(self: NetlinkSocket, messages: list[Message]) -> object:
        # A deletion that names the whole tuple is a look-up; one with a filter is a walk.
        asked.extend("walk" for m in messages if 25 in netlink.attributes(m.payload, 4))
        return batch(self, messages)

    def counted_scan(self: NetlinkSocket, *arguments: object) -> None:
        asked.append("walk")
        scan(self, *arguments)  # type: ignore[arg-type]

    NetlinkSocket.batch = counted_batch  # type: ignore[assignment,method-assign]
    NetlinkSocket.scan = counted_scan  # type: ignore[assignment,method-assign]
    try:
        yield asked
    finally:
        NetlinkSocket.batch, NetlinkSocket.scan = batch, scan  # type: ignore[method-assign]


def four(number: int) -> IPAddress:
    return IPv4Address("10.244.0.0") + number


def six(number: int) -> IPAddress:
    return ipaddress.IPv6Address("2001:db8:244::") + number


@boxed
def test_any_number_of_addresses_is_one_walk() -> None:
    table = Table(Place("p"))
    for make in (four, six):
        table.fill([make(n) for n in range(3000)], 6000)
    stay = {make(n) for make in (four, six) for n in range(2000, 3000)}
    with requests() as asked:
        gone = [make(n) for make in (four, six) for n in range(2000)]
        more = [four(n) for n in range(100_000, 140_000)]
        conntrack.forget_sources(table.place.netns, [*gone, *more], 6000)
    assert len(asked) <= 2, "one for each family"
    assert table.sources(6000) == stay


@boxed
def test_a_zones_connections_are_its_own() -> None:
    """The same address may be another configuration's too; its connections stay."""
    for number in (1, conntrack.HANDFUL, conntrack.HANDFUL + 1, 500):
        table = Table(Place(f"p{number}"))
        everybody = [make(n) for make in (four, six) for n in range(number + 3)]
        for zone in (6000, 6001):
            table.fill(everybody, zone)
        gone = [four(n) for n in range(number)]
        conntrack.forget_sources(table.place.netns, gone, 6000)
        assert table.sources(6000) == set(everybody) - set(gone)
        if zones_are_kept() or number > conntrack.HANDFUL:
            assert table.sources(6001) == set(everybody)


def zones_are_kept() -> bool:
    """Kernels before 6.8 take no zone in a request that names part of a tuple."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    return release >= (6, 8)
