"""How large the node's packets may be."""

from __future__ import annotations

import ipaddress
from typing import Final

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux.link import MAIN, Links
from egress_gateway.datapath.linux.netns import NetNS

_EVERYWHERE: Final = ipaddress.IPv4Network("0.0.0.0/0")


def default_route_mtu() -> int:
    """MTU in bytes of the link that the node's default route uses."""
    with NetNS.current() as node, Links(node) as links:
        known = links.links()
        for route in links.routes(MAIN, 4):
            if route.destination == _EVERYWHERE and route.device in known:
                return known[route.device].mtu
    raise DatapathError(
        "the node has no IPv4 default route to take the MTU from; set node_mtu "
        "(EGRESS_GATEWAY_NODE_MTU)"
    )
