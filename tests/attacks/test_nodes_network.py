"""Actor: who reaches the gateways' UDP ports and knows a configuration's public key.

The key is in the configuration's status. With it anybody writes first messages of handshakes whose
first authenticator is right, so that the server does curve arithmetic for each, and under load asks
even honest pods for cookies.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import ipaddress
import os
import socket
import threading
from collections.abc import Iterator

from egress_gateway.api import keys
from egress_gateway.datapath.gateway.ruleset import NODE_TABLE, ServedConfiguration, TunnelSources
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.nft import Nftables
from tests.datapath.box import boxed
from tests.datapath.test_gateway_agent import SECONDARY, agent, begin
from tests.datapath.test_gateway_agent import attach as attach_to_agent
from tests.datapath.test_packets import SECONDARIES, attach, serve
from tests.datapath.topology import PORT, Gateway, Place, Pod, World, until

NODE = "10.1.0.4"
NEIGHBOUR = "10.1.1.77"


def initiation(public_key: str) -> bytes:
    """A first message with a valid mac1 (WireGuard whitepaper, 5.4.2 and 5.4.4)."""
    message = b"\x01\0\0\0" + os.urandom(112)
    key = hashlib.blake2s(b"mac1----" + base64.b64decode(public_key)).digest()
    return message + hashlib.blake2s(message, key=key, digest_size=16).digest() + bytes(16)


@contextlib.contextmanager
def flood(where: NetNS, gateway: Gateway, pair: keys.KeyPair, source: str) -> Iterator[None]:
    """As many first messages as one thread can send, until the end of the block."""
    messages = [initiation(pair.public) for _ in range(256)]
    stop = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            sending.bind((source, 0))
            while not stop.is_set():
                for message in messages:
                    with contextlib.suppress(OSError):
                        sending.sendto(message, (str(gateway.primary), PORT))

    thread = threading.Thread(target=lambda: where.run(send), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


class Scene:
    def __init__(self, *, rate: int = 600) -> None:
        self.world = World()
        self.gateway = self.world.gateways[0]
        self.old, self.new = self.world.pod("old"), self.world.pod("new")
        self.pair, (self.wanted,) = serve(self.world, self.old, self.new)
        self.rate = rate
        self.converge()
        attach(self.old, self.pair, self.gateway)
        self.neighbour = Place("neighbour")
        self.neighbour.attach(self.world.router.links, NEIGHBOUR)

    def converge(self, wanted: ServedConfiguration | None = None) -> None:
        nodes = tuple(
            ipaddress.ip_network(address) for address in (NODE, str(self.gateway.primary))
        )
        desired = dataclasses.replace(
            self.gateway.desired(wanted or self.wanted),
            tunnels=TunnelSources(networks=nodes, handshakes=self.rate),
        )
        self.gateway.side.converge(desired)
        assert self.gateway.side.converge(desired).done == (), "packets change no rules"

    def dropped(self, reason: str) -> int:
        return self.gateway.side.counters().get(reason, 0)

    def works(self, pod: Pod) -> None:
        assert pod.seen_as() == SECONDARIES[0]


@boxed
def test_a_flood_from_no_node_keeps_no_pod_from_its_gateway() -> None:
    scene = Scene()
    with flood(scene.neighbour.netns, scene.gateway, scene.pair, NEIGHBOUR):
        until(lambda: scene.dropped("foreign_tunnel") > 5000, "the flood is dropped", seconds=60)
        attach(scene.new, scene.pair, scene.gateway, listen=20001)
        scene.works(scene.new)
        scene.works(scene.old)
        scene.converge()
    assert scene.dropped("handshake_rate") == 0


@boxed
def test_a_flood_from_a_node_is_limited_and_cuts_no_tunnel_off() -> None:
    """A pod whose packets are masqueraded speaks as its node."""
    scene = Scene()
    with flood(scene.world.worker.netns, scene.gateway, scene.pair, NODE):
        until(lambda: scene.dropped("handshake_rate") > 5000, "the flood is cut", seconds=60)
        scene.works(scene.old)
        scene.converge()
    attach(scene.new, scene.pair, scene.gateway, listen=20001)
    scene.works(scene.new)
    assert scene.dropped("foreign_tunnel") == 0


@boxed
def test_without_a_limit_nothing_is_counted() -> None:
    scene = Scene(rate=0)
    before = scene.dropped("handshake_rate")
    with flood(scene.world.worker.netns, scene.gateway, scene.pair, NODE):
        scene.works(scene.old)
    assert scene.dropped("handshake_rate") == before


@boxed
def test_the_agent_lets_in_who_is_a_node_and_hears_of_new_ones() -> None:
    world, gateway, story = begin()
    pod = world.pod("pod-a")
    story.secret()
    story.listed()
    story.pod(pod)
    story.node("w1", "10.1.0.99")
    with agent(gateway, story.api, resync=3600.0):
        until(lambda: story.probe() == 200, "served")
        seen = attach_to_agent(story, pod)
        until(lambda: gateway_dropped(gateway) > 0, "that is not the address of a node")
        assert seen() is None
        story.node("w1", NODE)
        until(lambda: seen() == SECONDARY, "it is one now", seconds=60)


@boxed
def test_other_networks_are_let_in_by_a_setting() -> None:
    world, gateway, story = begin()
    pod = world.pod("pod-a")
    story.secret()
    story.listed()
    story.pod(pod)
    story.node("w1", "10.1.0.99")
    with agent(gateway, story.api, tunnel_sources=["10.1.0.0/24"]):
        seen = attach_to_agent(story, pod)
        until(lambda: seen() == SECONDARY, "served", seconds=60)


def gateway_dropped(gateway: Gateway) -> int:
    """As the agent exports it: its namespace has a name of its own."""
    return Nftables(gateway.netns).counter("inet", NODE_TABLE, "foreign_tunnel") or 0
