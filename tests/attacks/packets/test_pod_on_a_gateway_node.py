"""Actor: who may start a pod, or a process, on a gateway node.

The gateway pool's taint keeps nobody out. Such a pod has NET_RAW by default, so it writes whole
packets: with a tenant's secondary address as their source, or as their destination and with an
Internet host's source (a forged reply). Both families; a process on the node's own network too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import socket
import struct
from collections.abc import Callable
from functools import partial

from egress_gateway.datapath.linux.echo import checksum
from egress_gateway.datapath.linux.netns import NetNS
from tests.datapath.box import boxed
from tests.datapath.test_ipv6 import NODE, SECONDARIES, SECONDARIES6, attach, serve
from tests.datapath.topology import (
    INTERNET,
    INTERNET6,
    PODS_GATEWAY,
    Gateway,
    Place,
    Pod,
    World,
    until,
)

PORT = 34567


class Scene:
    """A tenant's pod that is served, and a stranger's pod on the gateway node."""

    def __init__(self) -> None:
        self.world = World(ipv6=True)
        self.gateway: Gateway = self.world.gateways[0]
        self.victim: Pod = self.world.pod("victim")
        self.pair, (self.wanted,) = serve(self.world, self.victim)
        self.converge()
        attach(self.victim, self.pair, self.gateway)
        self.stranger = Place("stranger")
        self.stranger.attach(self.gateway.links, "10.244.9.2", PODS_GATEWAY)
        self.stranger.attach6(self.gateway.links, "2001:db8:244:9::2")
        self.gateway.sysctl("net/ipv6/conf/all/forwarding", "1")

    def converge(self) -> None:
        """As the agent does: with what the node is joined to."""
        desired = self.gateway.desired(self.wanted)
        around = self.gateway.side.surroundings()
        result = self.gateway.side.converge(dataclasses.replace(desired, surroundings=around))
        assert result.problems == {}

    def dropped(self, name: str) -> int:
        return self.gateway.side.counters().get(name, 0)

    def works(self) -> None:
        assert self.victim.seen_as(INTERNET) == SECONDARIES[0]
        assert self.victim.seen_as(INTERNET6) == SECONDARIES6[0]

    def listener(self, host: str) -> socket.socket:
        """The victim's socket that waits for an answer of ``host``, port 9."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def opened() -> socket.socket:
            made = socket.socket(family, socket.SOCK_DGRAM)
            made.bind(("", PORT))
            made.connect((host, 9))
            made.settimeout(1)
            made.send(b"?")
            return made

        return self.victim.place.netns.run(opened)


def datagram(source: str, target: str, sport: int, dport: int, body: bytes = b"FORGED") -> bytes:
    """A whole IP packet with a UDP datagram; no checksum of UDP's own in IPv4."""
    a, b = ipaddress.ip_address(source), ipaddress.ip_address(target)
    head = struct.pack("!HHHH", sport, dport, 8 + len(body), 0)
    if a.version == 4:
        first = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(body), 1, 0, 64, 17, 0)
        return first + a.packed + b.packed + head + body
    pseudo = a.packed + b.packed + struct.pack("!II", 8 + len(body), 17) + head + body
    head = head[:6] + struct.pack("!H", checksum(pseudo))
    return struct.pack("!IHBB", 6 << 28, 8 + len(body), 17, 64) + a.packed + b.packed + head + body


def throw(where: NetNS, packet: bytes, target: str) -> None:
    """Sends a packet as it is; a drop in the output hook is an EPERM."""
    six = ":" in target

    def send() -> None:
        family = socket.AF_INET6 if six else socket.AF_INET
        with (
            socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw,
            contextlib.suppress(PermissionError),
        ):
            if six:
                raw.setsockopt(socket.IPPROTO_IPV6, 36, 1)  # IPV6_HDRINCL
            raw.sendto(packet, (target, 0))

    where.run(send)


def hears(scene: Scene) -> set[str]:
    return scene.world.internet.sources() | scene.world.internet.sources6()


def attack(where: Callable[[Scene], NetNS]) -> None:
    scene = Scene()
    place = where(scene)
    for secondary, host in ((SECONDARIES[0], INTERNET), (SECONDARIES6[0], INTERNET6)):
        before = scene.dropped("forged_source")
        for port in (7, 7777):
            throw(place, datagram(secondary, host, 5000, port), host)
        until(
            partial(lambda n: scene.dropped("forged_source") >= n, before + 2),
            f"packets that forge {secondary} are dropped and counted",
        )
    assert hears(scene) <= {NODE}, "nothing left with a tenant's address"
    for secondary, host in ((SECONDARIES[0], INTERNET), (SECONDARIES6[0], INTERNET6)):
        with scene.listener(host) as victim:
            before = scene.dropped("forged_destination")
            for _ in range(3):
                throw(place, datagram(host, secondary, 9, PORT), secondary)
            until(
                partial(lambda n: scene.dropped("forged_destination") >= n, before + 3),
                f"forged replies to {secondary} are dropped and counted",
            )
            with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                assert victim.recv(100) != b"FORGED"
    stray = scene.dropped("forged_source"), scene.dropped("forged_destination")
    scene.works()
    assert (scene.dropped("forged_source"), scene.dropped("forged_destination")) == stray
    scene.converge()
    scene.works()


@boxed
def test_a_pod_speaks_with_no_tenants_address() -> None:
    attack(lambda scene: scene.stranger.netns)


@boxed
def test_a_process_on_the_nodes_network_speaks_with_no_tenants_address() -> None:
    attack(lambda scene: scene.gateway.netns)


@boxed
def test_a_packet_that_comes_back_by_the_uplink_with_a_secondary_as_source_is_forged() -> None:
    """From a neighbour that Azure did not stop."""
    scene = Scene()
    before = scene.dropped("forged_source")
    neighbour = Place("neighbour")
    neighbour.attach(scene.world.router.links, "10.1.1.77")
    address = str(scene.gateway.primary)
    throw(neighbour.netns, datagram(SECONDARIES[0], address, 5000, 10250), address)
    until(lambda: scene.dropped("forged_source") == before + 1, "it is dropped and counted")
    scene.works()
