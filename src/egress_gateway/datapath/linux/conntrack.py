"""Connection tracking of a namespace (ctnetlink): forgetting connections, and what it says of them.

Newer kernels delete by a partial tuple, so that nothing is listed first; but each address costs
them a walk over the whole table. Beyond a handful of addresses, for IPv6, and on kernels that
refuse such requests (6.1 does), the table is listed once, and each entry that is to go is named. So
the cost is one walk, however many addresses there are.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.linux import netlink
from egress_gateway.datapath.linux.connections import Tuple, read_tuple
from egress_gateway.datapath.linux.netlink import Message, NetlinkError, NetlinkSocket
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.sockets import UDP, Flow

_DELETE: Final = (1 << 8) | 2
_GET: Final = (1 << 8) | 1
_NEW: Final = 1 << 8
_TUPLE_ORIGINAL, _TUPLE_REPLY, _ZONE, _FILTER = 1, 2, 18, 25
_TUPLE_IP: Final = 1
_MARK, _MARK_MASK = 8, 21
_FILTER_ORIGINAL, _FILTER_REPLY = 1, 2
_BY_SOURCE, _BY_DESTINATION = 1, 2


HANDFUL: Final = 8
"""Addresses for which the kernel is asked to walk the table once each."""


def forget_sources(netns: NetNS, addresses: Iterable[IPAddress], zone: int | None = None) -> None:
    """Deletes the connections that ``addresses`` opened; with ``zone`` those of that conntrack zone
    alone (on kernels before 6.8, a handful of addresses loses those of other zones too)."""
    _delete(netns, addresses, _SOURCES, zone)


def forget_translated(netns: NetNS, address: IPAddress) -> None:
    """Deletes the connections that were translated to ``address``: it is where replies go."""
    _delete(netns, [address], _TRANSLATED, None)


def datagrams_from(netns: NetNS, addresses: Iterable[IPAddress]) -> set[Flow]:
    """UDP flows that ``addresses`` began, as far as the namespace has seen and not forgotten
    them."""
    found: set[Flow] = set()
    connection = NetlinkSocket(netlink.NETFILTER, netns)
    try:
        for address in addresses:

            def note(message: Message, raw: bytes = address.packed) -> None:
                if raw in message.payload:
                    original = read_tuple(netlink.attributes(message.payload, 4)[_TUPLE_ORIGINAL])
                    if original.source.packed == raw and original.protocol == UDP:
                        found.add(_as_seen_by_source(original))

            header = struct.pack("!BBH", _family(address), 0, 0)
            doing = f"listing connections of {address}"
            connection.scan(Message(_GET, netlink.DUMP, header), doing, note)
    finally:
        connection.close()
    return found


def _as_seen_by_source(t: Tuple) -> Flow:
    return Flow(t.destination, t.destination_port, t.source_port, t.protocol)


def clear_mark(netns: NetNS, bit: int, wrong: Callable[[IPAddress, Flow], bool]) -> int:
    """Takes ``bit`` off the marks of connections that are ``wrong``. Calls ``wrong`` with the
    source that opened the connection, and with the flow as its destination sees it, behind
    translation. Returns how many."""
    connection = NetlinkSocket(netlink.NETFILTER, netns)
    marked = netlink.attribute(_MARK, struct.pack("!I", bit))
    mask = netlink.attribute(_MARK_MASK, struct.pack("!I", bit))
    changes: list[Message] = []

    def note(message: Message) -> None:
        entry = netlink.attributes(message.payload, 4)
        original = read_tuple(entry[_TUPLE_ORIGINAL])
        reply = read_tuple(entry[_TUPLE_REPLY])
        flow = Flow(reply.destination, reply.destination_port, reply.source_port, reply.protocol)
        if wrong(original.source, flow):
            exact = netlink.nested(_TUPLE_ORIGINAL, entry[_TUPLE_ORIGINAL])
            if _ZONE in entry:
                exact += netlink.attribute(_ZONE, entry[_ZONE])
            nothing = netlink.attribute(_MARK, bytes(4))
            changes.append(Message(_NEW, 0, message.payload[:4] + exact + nothing + mask))

    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            asked = struct.pack("!BBH", family, 0, 0) + marked + mask
            connection.scan(Message(_GET, netlink.DUMP, asked), "listing marked connections", note)
        for refused in connection.batch(changes):
            if refused and refused[0] != errno.ENOENT:
                raise NetlinkError("changing the mark of a connection", *refused)
    finally:
        connection.close()
    return len(changes)


def _family(address: IPAddress) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


class _End(msgspec.Struct, frozen=True):
    """Which address of which tuple is meant, as ctnetlink names them."""

    tuple_: int
    flags: int
    which: int


_SOURCES: Final = _End(_TUPLE_ORIGINAL, _FILTER_ORIGINAL, _BY_SOURCE)
_TRANSLATED: Final = _End(_TUPLE_REPLY, _FILTER_REPLY, _BY_DESTINATION)


def _delete(netns: NetNS, addresses: Iterable[IPAddress], end: _End, zone: int | None) -> None:
    wanted = list(dict.fromkeys(addresses))
    if not wanted:
        return
    connection = NetlinkSocket(netlink.NETFILTER, netns)
    try:
        # Asked for IPv6 the kernel (6.18 and before) takes all entries but the wanted ones.
        if len(wanted) > HANDFUL or any(address.version == 6 for address in wanted):
            _delete_each(connection, wanted, end, zone)
            return
        for number, address in enumerate(wanted):
            refused = connection.batch([_message(address, end, zone)])[0]
            if refused and refused[0] == errno.EINVAL and number == 0:
                _delete_each(connection, wanted, end, zone)
                return
            if refused:
                raise NetlinkError("forgetting connections", *refused)
    finally:
        connection.close()


def _delete_each(
    connection: NetlinkSocket, addresses: Iterable[IPAddress], end: _End, zone: int | None
) -> None:
    wanted = {address.packed for address in addresses}
    found: list[Message] = []

    def pick(message: Message) -> None:
        payload = message.payload
        # The kernel writes the original tuple first, and its source at a fixed place: a table of
        # a quarter of a million entries is looked through by slices.
        if end is _SOURCES and payload[16 : 20 if payload[0] == socket.AF_INET else 32] not in (
            wanted
        ):
            return
        entry = netlink.attributes(payload, 4)
        ends = netlink.attributes(netlink.attributes(entry[end.tuple_]).get(_TUPLE_IP, b""))
        if (ends.get(end.which) or ends.get(end.which + 2)) not in wanted:
            return
        if zone is not None and int.from_bytes(entry.get(_ZONE, b"")) != zone:
            return
        exact = netlink.nested(_TUPLE_ORIGINAL, entry[_TUPLE_ORIGINAL])
        if _ZONE in entry:
            exact += netlink.attribute(_ZONE, entry[_ZONE])
        found.append(Message(_DELETE, 0, payload[:4] + exact))

    for family in {socket.AF_INET if len(raw) == 4 else socket.AF_INET6 for raw in wanted}:
        header = struct.pack("!BBH", family, 0, 0)
        connection.scan(Message(_GET, netlink.DUMP, header), "listing connections", pick)
    for refused in connection.batch(found):
        # It may have ended by itself meanwhile.
        if refused and refused[0] != errno.ENOENT:
            raise NetlinkError("forgetting a connection", *refused)


def _message(address: IPAddress, end: _End, zone: int | None) -> Message:
    four = address.version == 4
    # CTA_IP_V4_SRC, V4_DST, V6_SRC, V6_DST are 1 to 4.
    kind = end.which if four else end.which + 2
    whose = netlink.nested(_TUPLE_IP, netlink.attribute(kind, address.packed))
    payload = (
        struct.pack("!BBH", _family(address), 0, 0)
        + netlink.nested(end.tuple_, whose)
        + netlink.nested(_FILTER, netlink.u32(end.flags, end.which))
    )
    if zone is not None:
        payload += netlink.attribute(_ZONE, struct.pack("!H", zone))
    return Message(_DELETE, 0, payload)
