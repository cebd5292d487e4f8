"""Actor: whoever stole a worker's token where Nodes have no podCIDRs that count.

He claims for a pod of his the address that is a gateway's own for another tenant. So WireGuard lets
packets of that source out of his tunnel. No packet of his may leave with it.
"""

from __future__ import annotations

import ipaddress
import struct

from egress_gateway.api import keys
from egress_gateway.datapath.linux.echo import checksum
from tests.attacks.packets.test_pod_on_a_gateway_node import datagram, throw
from tests.datapath.box import boxed
from tests.datapath.test_ipv6 import SECONDARIES, SECONDARIES6
from tests.datapath.topology import (
    INTERNET,
    INTERNET6,
    PORT,
    World,
    configuration,
    until,
)

OWN, OWN6 = "10.1.1.111", "2001:db8:1:1::111"


def error(source: str, target: str, kind: int, code: int = 0) -> bytes:
    """A whole packet with an ICMP error about a packet that never was."""
    about = datagram(target, source, 9, 34567)
    a, b = ipaddress.ip_address(source), ipaddress.ip_address(target)
    body = struct.pack("!BBHI", kind, code, 0, 1280) + about
    if a.version == 4:
        body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, 1, 0)
        return head + a.packed + b.packed + body
    pseudo = a.packed + b.packed + struct.pack("!II", len(body), 58) + body
    body = body[:2] + struct.pack("!H", checksum(pseudo)) + body[4:]
    return struct.pack("!IHBB", 6 << 28, len(body), 58, 64) + a.packed + b.packed + body


@boxed
def test_no_packet_of_a_pod_leaves_with_another_tenants_secondary() -> None:
    world = World(ipv6=True)
    gateway, evil = world.gateways[0], world.pod("evil")
    victims, own = keys.generate(), keys.generate()
    wanted = (
        configuration(victims, SECONDARIES[0], secondary6=SECONDARIES6[0]),
        configuration(own, OWN, port=PORT + 1, secondary6=OWN6),
    )
    world.route_secondary(OWN, gateway)
    world.route_secondary6(OWN6, gateway)
    assert gateway.side.converge(gateway.desired(*wanted)).problems == {}
    claimed = (evil.address, evil.address6, SECONDARIES[0], SECONDARIES6[0])
    peers = {evil.pair.public: [ipaddress.ip_network(a) for a in claimed if a]}
    gateway.side.sync_peers(wanted[1], peers)
    desired = evil.desired(own.public, str(gateway.primary), port=PORT + 1)
    evil.side.converge(desired)
    evil.handshake(desired)
    assert evil.seen_as(INTERNET) == OWN
    assert evil.seen_as(INTERNET6) == OWN6
    before = gateway.side.counters()["stray"]
    for kind, code in ((3, 1), (3, 3), (3, 4), (11, 0)):
        throw(evil.place.netns, error(SECONDARIES[0], INTERNET, kind, code), INTERNET)
    for kind in (1, 2, 3, 4):
        throw(evil.place.netns, error(SECONDARIES6[0], INTERNET6, kind), INTERNET6)
    for source, host in ((SECONDARIES[0], INTERNET), (SECONDARIES6[0], INTERNET6)):
        throw(evil.place.netns, datagram(source, host, 5000, 7777), host)
    assert evil.seen_as(INTERNET) == OWN
    assert evil.seen_as(INTERNET6) == OWN6
    until(lambda: gateway.side.counters()["stray"] > before, "they are counted", seconds=60)
    assert not {SECONDARIES[0], SECONDARIES6[0]} & (
        world.internet.sources() | world.internet.sources6()
    )
