"""The node notes which tunnels get cookies, and tells them from everything else."""

from __future__ import annotations

import socket

from egress_gateway.datapath.pod.sources import SourceFilter
from tests.datapath.box import boxed
from tests.datapath.topology import World, until

_COOKIE, _RESPONSE, _DATA = 3, 2, 4


@boxed
def test_a_cookie_from_the_tunnels_gateway_is_noted_and_nothing_else_is() -> None:
    world = World()
    node, gateway = world.worker, world.gateways[0]
    filter_ = SourceFilter(node.netns)
    assert filter_.cookies() == frozenset(), "there is no table yet"
    listening = {}
    for port in (20000, 20001, 20002, 20003):
        filter_.allow(port, gateway.primary)
        listening[port] = node.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        listening[port].bind(("", port))
        listening[port].settimeout(60)
    sender = gateway.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    stranger = world.internet.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    stranger.sendto(bytes([_COOKIE]).ljust(64), ("10.1.0.4", 20003))
    for port, kind, length in (
        (20001, _RESPONSE, 92),
        (20002, _DATA, 64),
        (20003, _COOKIE, 63),
        (20000, _COOKIE, 64),
    ):
        sender.sendto(bytes([kind]).ljust(length), ("10.1.0.4", port))
        assert listening[port].recv(200)[0] == kind, "what is noted arrives all the same"
    until(lambda: filter_.cookies() == {20000}, "the cookie is noted")
    assert filter_.sync() is False, "what is noted is no damage"
    assert filter_.cookies() == {20000}
