"""Forgetting connections: conntrack entries of some addresses (ctnetlink).

Newer kernels delete by a partial tuple, so that nothing is listed first; but each address costs
them a walk over the whole table. Beyond a handful of addresses, and on kernels that refuse such
requests (6.1 does), the table is listed once, and each entry that is to go is named. So the cost is
one walk, however many addresses there are.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.linux import netlink
from egress_gateway.datapath.linux.netlink import Message, NetlinkError, NetlinkSocket
from egress_gateway.datapath.linux.netns import NetNS

_DELETE: Final = (1 << 8) | 2
_GET: Final = (1 << 8) | 1
_TUPLE_ORIGINAL, _TUPLE_REPLY, _ZONE, _FILTER = 1, 2, 18, 25
_TUPLE_IP: Final = 1
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


@dataclass(frozen=True, slots=True)
class _End:
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
        if len(wanted) > HANDFUL:
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
    family = socket.AF_INET if four else socket.AF_INET6
    # CTA_IP_V4_SRC, V4_DST, V6_SRC, V6_DST are 1 to 4.
    kind = end.which if four else end.which + 2
    whose = netlink.nested(_TUPLE_IP, netlink.attribute(kind, address.packed))
    payload = (
        struct.pack("!BBH", family, 0, 0)
        + netlink.nested(end.tuple_, whose)
        + netlink.nested(_FILTER, netlink.u32(end.flags, end.which))
    )
    if zone is not None:
        payload += netlink.attribute(_ZONE, struct.pack("!H", zone))
    return Message(_DELETE, 0, payload)
