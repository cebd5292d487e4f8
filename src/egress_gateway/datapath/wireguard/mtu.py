"""How large packets can be: the node's MTU, and what WireGuard takes of it."""

from __future__ import annotations

from typing import Final

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux.link import MAIN, Links
from egress_gateway.datapath.linux.netns import NetNS

OVERHEAD_V4: Final = 60
OVERHEAD_V6: Final = 80
"""Bytes that WireGuard adds to a packet, outer IP header included."""
IPV6_MTU: Final = 1280
"""Bytes; a link with less cannot carry IPv6 (RFC 8200, 5)."""


def default_route_mtu(node: NetNS | None = None) -> int:
    """MTU in bytes of the link that the IPv4 default route of ``node`` (by default the caller's
    namespace) uses, the one of least metric. Raises ``DatapathError`` if there is none: no guess is
    safe, since one that is too large loses packets."""
    with Links(node or NetNS.current()) as links:
        for route in sorted(links.routes(MAIN, 4), key=lambda route: route.metric):
            default = route.destination.prefixlen == 0 and route.device
            if default and (link := links.link(default)):
                return link.mtu
    raise DatapathError(
        "the node has no IPv4 default route to take the MTU from; set node_mtu "
        "(EGRESS_GATEWAY_NODE_MTU) to the MTU of the node's network in bytes"
    )
