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

from egress_gateway.api import keys, names
from egress_gateway.cli.diagnosis import status
from egress_gateway.cli.diagnosis.overview import summarize
from egress_gateway.datapath.gateway.ruleset import NODE_TABLE
from egress_gateway.datapath.gateway.served import ServedConfiguration, TunnelSources
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.nft import Nftables
from egress_gateway.kube.resources import EVENTS
from tests.datapath.box import boxed
from tests.datapath.gateway.test_gateway_agent import SECONDARY, Story, agent, begin
from tests.datapath.gateway.test_gateway_agent import attach as attach_to_agent
from tests.datapath.test_packets import SECONDARIES, attach, serve
from tests.datapath.topology import NODE6, PORT, Gateway, Place, Pod, World, until

NODE = "10.1.0.4"
NEIGHBOUR = "10.1.1.77"
GATEWAY6 = "2001:db8:1::14"


BODIES = {1: 112, 2: 56, 3: 60}
"""Types of WireGuard's messages that all wait in one queue with handshakes (initiation, response,
cookie reply; whitepaper, 5.4.2 to 5.4.7): octets between the type and the first authenticator, of
a cookie reply all of them."""


def message(kind: int, public_key: str) -> bytes:
    """A message with a valid mac1, if its type has one."""
    found = bytes([kind, 0, 0, 0]) + os.urandom(BODIES[kind])
    key = hashlib.blake2s(b"mac1----" + base64.b64decode(public_key)).digest()
    macs = hashlib.blake2s(found, key=key, digest_size=16).digest() + bytes(16)
    return found if kind == 3 else found + macs


@contextlib.contextmanager
def flood(
    where: NetNS, pair: keys.KeyPair, *, source: str, target: str, kind: int = 1
) -> Iterator[None]:
    """As many messages as one thread can send, until the end of the block. A moment's pause after
    each 256: where time stands still while anybody works, nobody else would have his turn."""
    messages = [message(kind, pair.public) for _ in range(256)]
    stop = threading.Event()

    def send() -> None:
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sending:
            sending.bind((source, 0))
            while not stop.wait(0.001):
                for one in messages:
                    with contextlib.suppress(OSError):
                        sending.sendto(one, (target, PORT))

    thread = threading.Thread(target=lambda: where.run(send), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)


class Scene:
    def __init__(self, *, rate: int = 600, ipv6: bool = False) -> None:
        self.world = World(ipv6=ipv6)
        self.gateway = self.world.gateways[0]
        self.primary = str(self.gateway.primary)
        self.old, self.new = self.world.pod("old"), self.world.pod("new")
        self.pair, (self.wanted,) = serve(self.world, self.old, self.new)
        self.rate = rate
        self.converge()
        attach(self.old, self.pair, self.gateway)
        self.neighbour = Place("neighbour")
        self.neighbour.attach(self.world.router.links, NEIGHBOUR)

    def converge(self, wanted: ServedConfiguration | None = None) -> None:
        nodes = tuple(ipaddress.ip_network(address) for address in (NODE, NODE6, self.primary))
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
    with flood(scene.neighbour.netns, scene.pair, source=NEIGHBOUR, target=scene.primary):
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
    with flood(scene.world.worker.netns, scene.pair, source=NODE, target=scene.primary):
        until(lambda: scene.dropped("handshake_rate") > 5000, "the flood is cut", seconds=60)
        scene.works(scene.old)
        scene.converge()
    attach(scene.new, scene.pair, scene.gateway, listen=20001)
    scene.works(scene.new)
    assert scene.dropped("foreign_tunnel") == 0


@boxed
def test_a_pod_that_is_masqueraded_keeps_none_of_its_nodes_pods_from_their_gateway() -> None:
    """It speaks as its node, and would use up what the gateway takes from there."""
    scene = Scene()
    worker, rogue = scene.world.worker, scene.world.pod("rogue")
    worker.nft(
        "table ip overlay { chain post { type nat hook postrouting priority srcnat;\n"
        'ip saddr 10.244.0.0/16 oifname "eth0" masquerade\n}\n}'
    )
    sources = scene.world.sources
    assert sources is not None
    with flood(rogue.place.netns, scene.pair, source=str(rogue.address), target=scene.primary):
        until(lambda: sources.strangers() > 5000, "the flood ends on its node", seconds=60)
        attach(scene.new, scene.pair, scene.gateway, listen=20001)
        scene.works(scene.new)
        scene.works(scene.old)
        assert not sources.sync(), "what is counted is no damage"
    assert scene.dropped("handshake_rate") == 0
    assert scene.dropped("foreign_tunnel") == 0


@boxed
def test_answers_and_cookies_nobody_asked_for_are_limited_as_first_messages_are() -> None:
    """They wait in the same queue, and a full queue asks honest pods for cookies."""
    scene = Scene()
    for kind in (2, 3):
        before = scene.dropped("handshake_rate")
        with flood(
            scene.world.worker.netns, scene.pair, source=NODE, target=scene.primary, kind=kind
        ):
            until(
                lambda before=before: scene.dropped("handshake_rate") > before + 5000,  # type: ignore[misc]
                f"the flood of type {kind} is cut",
                seconds=60,
            )
            scene.works(scene.old)
    attach(scene.new, scene.pair, scene.gateway, listen=20001)
    scene.works(scene.new)


@boxed
def test_no_other_address_of_the_gateway_is_a_way_to_its_servers() -> None:
    """WireGuard listens on every address of the node: that of its pods' bridge, which pods of all
    nodes reach, and IPv6 ones. Tunnels end at the primary address and at the balancer's alone."""
    scene = Scene(ipv6=True)
    world, gateway = scene.world, scene.gateway
    for address in ("10.244.9.1", GATEWAY6):
        gateway.links.add_address("lo", ipaddress.ip_interface(address))
    world.route_secondary("10.244.9.1", gateway)
    world.route_secondary6(GATEWAY6, gateway)
    for source, target in ((NODE, "10.244.9.1"), (NODE6, GATEWAY6)):
        before = scene.dropped("foreign_tunnel")
        with flood(world.worker.netns, scene.pair, source=source, target=target):
            until(
                lambda before=before: scene.dropped("foreign_tunnel") > before + 5000,  # type: ignore[misc]
                f"what comes to {target} is dropped",
                seconds=60,
            )
            attach(scene.new, scene.pair, gateway, listen=20001)
            scene.works(scene.new)
    with gateway.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as local:
        local.bind(("127.0.0.1", PORT + 1))
        local.sendto(b"\x01" * 148, local.getsockname())
        local.settimeout(60)
        assert local.recv(1000) == b"\x01" * 148, "ports that no server has are the node's own"


@boxed
def test_without_a_limit_nothing_is_counted() -> None:
    scene = Scene(rate=0)
    before = scene.dropped("handshake_rate")
    with flood(scene.world.worker.netns, scene.pair, source=NODE, target=scene.primary):
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
        until(lambda: "EgressForeignTunnel" in reasons(story), "the administrator is told")
        facts = story.api.call(status.read(story.api.client, None, names.SYSTEM_NAMESPACE))
        assert {one.reason for one in summarize(facts).attempts} == {"EgressForeignTunnel"}


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


def reasons(story: Story) -> set[str]:
    """Of Events on Nodes."""
    found = story.api.call(story.api.client.list(EVENTS, "default")).items
    return {event.reason for event in found if event.involved_object.kind == "Node"}


def gateway_dropped(gateway: Gateway) -> int:
    """As the agent exports it: its namespace has a name of its own."""
    return Nftables(gateway.netns).counter("inet", NODE_TABLE, "foreign_tunnel") or 0
