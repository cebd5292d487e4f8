"""Forgetting connections: conntrack entries of one address (ctnetlink).

The kernel deletes by a partial tuple since Linux 5.8, so nothing is listed first.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from typing import Final

from egress_gateway.datapath import netlink
from egress_gateway.datapath.netlink import Message, NetlinkError, NetlinkSocket
from egress_gateway.datapath.netns import NetNS
from egress_gateway.datapath.wireguard import IPAddress

_DELETE: Final = (1 << 8) | 2
_TUPLE_ORIGINAL, _TUPLE_REPLY, _FILTER = 1, 2, 25
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
    messages = [_message(address, tuple_, flags, which) for address in addresses]
    if not messages:
        return
    connection = NetlinkSocket(netlink.NETFILTER, netns)
    try:
        for refused in connection.batch(messages):
            if refused:
                raise NetlinkError("forgetting connections", *refused)
    finally:
        connection.close()


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
