"""Forgetting connections: conntrack entries of one address (ctnetlink).

Newer kernels delete by a partial tuple, so that nothing is listed first. Older ones (6.1
refuses it) are asked for their entries, and told each that is to go.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable
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


def forget_sources(netns: NetNS, addresses: Iterable[IPAddress]) -> None:
    """Deletes the connections that ``addresses`` opened."""
    _delete(netns, addresses, _TUPLE_ORIGINAL, _FILTER_ORIGINAL, _BY_SOURCE)


def forget_translated(netns: NetNS, address: IPAddress) -> None:
    """Deletes the connections that were translated to ``address``: it is where replies go."""
    _delete(netns, [address], _TUPLE_REPLY, _FILTER_REPLY, _BY_DESTINATION)


def _delete(
    netns: NetNS, addresses: Iterable[IPAddress], tuple_: int, flags: int, which: int
) -> None:
    wanted = list(addresses)
    if not wanted:
        return
    connection = NetlinkSocket(netlink.NETFILTER, netns)
    try:
        first, *rest = [_message(address, tuple_, flags, which) for address in wanted]
        refused = connection.batch([first])[0]
        if refused and refused[0] == errno.EINVAL:
            _delete_each(connection, wanted, tuple_, which)
            return
        for answer in (refused, *connection.batch(rest)):
            if answer:
                raise NetlinkError("forgetting connections", *answer)
    finally:
        connection.close()


def _delete_each(
    connection: NetlinkSocket, addresses: Iterable[IPAddress], tuple_: int, which: int
) -> None:
    wanted = {address.packed for address in addresses}
    found: list[Message] = []

    def pick(message: Message) -> None:
        entry = netlink.attributes(message.payload, 4)
        ends = netlink.attributes(netlink.attributes(entry[tuple_]).get(_TUPLE_IP, b""))
        if (ends.get(which) or ends.get(which + 2)) in wanted:
            exact = netlink.nested(_TUPLE_ORIGINAL, entry[_TUPLE_ORIGINAL])
            if _ZONE in entry:
                exact += netlink.attribute(_ZONE, entry[_ZONE])
            found.append(Message(_DELETE, 0, message.payload[:4] + exact))

    for family in {socket.AF_INET if len(raw) == 4 else socket.AF_INET6 for raw in wanted}:
        header = struct.pack("!BBH", family, 0, 0)
        connection.scan(Message(_GET, netlink.DUMP, header), "listing connections", pick)
    for refused in connection.batch(found):
        # It may have ended by itself meanwhile.
        if refused and refused[0] != errno.ENOENT:
            raise NetlinkError("forgetting a connection", *refused)


def _message(address: IPAddress, tuple_: int, flags: int, which: int) -> Message:
    four = address.version == 4
    family = socket.AF_INET if four else socket.AF_INET6
    # CTA_IP_V4_SRC, V4_DST, V6_SRC, V6_DST are 1 to 4.
    kind = which if four else which + 2
    whose = netlink.nested(_TUPLE_IP, netlink.attribute(kind, address.packed))
    payload = (
        struct.pack("!BBH", family, 0, 0)
        + netlink.nested(tuple_, whose)
        + netlink.nested(_FILTER, netlink.u32(flags, which))
    )
    return Message(_DELETE, 0, payload)
