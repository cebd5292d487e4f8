"""Connection tracking of a namespace (ctnetlink): forgetting connections, and what it says of them.

Newer kernels delete by a partial tuple, so that nothing is listed first. Older ones (6.1
refuses it), and all of them for IPv6, are asked for their entries, and told each that is to go.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Final

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


def forget_sources(netns: NetNS, addresses: Iterable[IPAddress]) -> None:
    """Deletes the connections that ``addresses`` opened."""
    _delete(netns, addresses, _TUPLE_ORIGINAL, _FILTER_ORIGINAL, _BY_SOURCE)


def forget_translated(netns: NetNS, address: IPAddress) -> None:
    """Deletes the connections that were translated to ``address``: it is where replies go."""
    _delete(netns, [address], _TUPLE_REPLY, _FILTER_REPLY, _BY_DESTINATION)


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
    """Takes ``bit`` off the marks of connections that are ``wrong``, which is asked with the source
    that began one and the flow as its destination sees it, behind translation. Returns how many."""
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


def _delete(
    netns: NetNS, addresses: Iterable[IPAddress], tuple_: int, flags: int, which: int
) -> None:
    wanted = list(addresses)
    four = [address for address in wanted if address.version == 4]
    six = [address for address in wanted if address.version == 6]
    connection = NetlinkSocket(netlink.NETFILTER, netns)
    try:
        if four and not _delete_by_filter(connection, four, tuple_, flags, which):
            _delete_each(connection, four, tuple_, which)
        if six:
            _delete_each(connection, six, tuple_, which)
    finally:
        connection.close()


def _delete_by_filter(
    connection: NetlinkSocket, addresses: Iterable[IPAddress], tuple_: int, flags: int, which: int
) -> bool:
    """For IPv4 alone: of IPv6 the kernel (6.18 and before) takes all entries but the wanted ones.
    False if it knows no such filter."""
    first, *rest = [_message(address, tuple_, flags, which) for address in addresses]
    refused = connection.batch([first])[0]
    if refused and refused[0] == errno.EINVAL:
        return False
    for answer in (refused, *connection.batch(rest)):
        if answer:
            raise NetlinkError("forgetting connections", *answer)
    return True


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
    # CTA_IP_V4_SRC, V4_DST, V6_SRC, V6_DST are 1 to 4.
    kind = which if four else which + 2
    whose = netlink.nested(_TUPLE_IP, netlink.attribute(kind, address.packed))
    payload = (
        struct.pack("!BBH", _family(address), 0, 0)
        + netlink.nested(tuple_, whose)
        + netlink.nested(_FILTER, netlink.u32(flags, which))
    )
    return Message(_DELETE, 0, payload)
