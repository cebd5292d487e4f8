"""The node's MTU is known, or the agent says what to set; it never guesses."""

from __future__ import annotations

import ipaddress
import subprocess
from functools import partial

import pytest

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux.link import Route
from egress_gateway.datapath.wireguard.mtu import default_route_mtu
from tests.datapath.box import boxed
from tests.datapath.topology import Place, network


@boxed
def test_the_default_routes_link_has_it_and_without_one_the_error_says_what_to_set() -> None:
    node, other = Place("node"), Place("other")
    with pytest.raises(DatapathError, match="EGRESS_GATEWAY_NODE_MTU"):
        default_route_mtu(node.netns)
    node.links.add_veth("eth0", "peer", other.netns)
    node.links.add_address("eth0", ipaddress.ip_interface("10.1.0.4/24"))
    node.links.set_up("eth0", mtu=9000)
    with pytest.raises(DatapathError, match="no IPv4 default route"):
        default_route_mtu(node.netns)  # a route of the subnet is not one
    via = ipaddress.ip_address("10.1.0.1")
    default = Route(destination=network("0.0.0.0/0"), gateway=via, device="eth0")
    node.links.replace_routes([default])
    assert default_route_mtu(node.netns) == 9000
    node.links.set_up("eth0", mtu=1400)
    assert default_route_mtu(node.netns) == 1400
    node.links.delete("eth0")
    for number in range(1, 9):
        node.links.add_veth(f"eth{number}", f"peer{number}", other.netns)
        node.links.set_up(f"eth{number}", mtu=1300 + number)
        command = f"ip route add default dev eth{number} metric {number}".split()
        node.netns.run(partial(subprocess.run, command, check=True))
    assert default_route_mtu(node.netns) == 1301, "of many network cards the preferred one"
