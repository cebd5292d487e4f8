"""Actor: a pod without the annotation, with NET_RAW, on the node of an annotated pod.

It forges packets of an Internet host to the annotated pod, as if a connection came in. What the pod
then sends to that host from that port would count as an answer, and leave by the pod's own link.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import subprocess
from typing import Final

import pytest

from egress_gateway.datapath.linux.echo import checksum
from egress_gateway.datapath.linux.link import Route
from egress_gateway.datapath.linux.nft import Nftables
from egress_gateway.datapath.pod.linkguard import FORGED, LEAVING
from tests.attacks.packets.test_pod_on_a_gateway_node import datagram, throw
from tests.attacks.packets.test_raw_frames import (
    Scene,
    bridged,
    comes_in,
    frame,
    link_address,
    own,
    packet,
)
from tests.datapath.box import boxed
from tests.datapath.pod.test_path_mtu import udp
from tests.datapath.test_ipv6 import NODE, SECONDARIES, SECONDARIES6
from tests.datapath.topology import EXCLUDED_HOST, INTERNET, Pod, until

_KNOWN: Final = 4500
"""Both ends' port, as some protocols have it (IPsec, NTP, SIP): nobody has to guess it."""
_FOREIGN: Final = 0x0F00_0F00
"""As of Cilium: a pod's identity in the upper half, ``MARK_MAGIC_IDENTITY`` in the lower one."""
_IP_MTU: Final = 14
"""linux/in.h"""
_NARROW: Final = 1300
_SERVICE: Final = "10.96.0.77"
_OWN: Final = {4: SECONDARIES[0], 6: SECONDARIES6[0]}


def heard(scene: Scene) -> set[str]:
    return scene.world.internet.sources() | scene.world.internet.sources6()


def sends(where: Pod, target: str, body: bytes, *, port: int = _KNOWN) -> None:
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with where.place.netns.run(lambda: socket.socket(family, socket.SOCK_DGRAM)) as made:
        made.bind(("", port))
        made.sendto(body, (target, port))


def attacked(scene: Scene, neighbour: Pod, to: bytes | None = None) -> None:
    """The pod's packets leave by its gateway, whatever the neighbour has forged before."""
    for version in (4, 6):
        address, internet = own(scene, version)
        before = scene.dropped(FORGED)
        forged = datagram(internet, address, _KNOWN, _KNOWN)
        frame(scene, forged, pod=neighbour, to=to)
        until(lambda n=before: scene.dropped(FORGED) == n + 1, "it is dropped")  # type: ignore[misc]
        sends(scene.pod, internet, b"to a partner")
        until(lambda v=version: _OWN[v] in heard(scene), "it leaves by the gateway")  # type: ignore[misc]
    assert heard(scene) == {*_OWN.values()}


@boxed
def test_nobody_makes_up_a_connection_that_the_pod_then_answers() -> None:
    scene = Scene()
    neighbour = scene.world.pod("neighbour")
    attacked(scene, neighbour)
    before = scene.guard.counters()
    for version in (4, 6):
        comes_in(scene, version)
    sends(neighbour, str(scene.pod.address), b"as itself")
    assert neighbour.seen_as() == NODE, "what it forges for others is none of our business"
    assert scene.guard.counters() == before


def posed_as(scene: Scene, neighbour: Pod, reason: str, to: bytes | None = None) -> None:
    """The Internet's answer would be a new connection to the pod: what the pod sends to that host
    then would count as an answer, and be dropped."""
    for version in (4, 6):
        address, internet = own(scene, version)
        before = scene.dropped(reason)
        frame(scene, datagram(address, internet, 7, 7), pod=neighbour, to=to)
        until(lambda n=before: scene.dropped(reason) == n + 1, "it, or its answer, is dropped")  # type: ignore[misc]
        sends(scene.pod, internet, b"to a partner", port=7)
        until(lambda v=version: _OWN[v] in heard(scene), "it leaves by the gateway")  # type: ignore[misc]


@boxed
def test_nobody_speaks_in_the_pods_name() -> None:
    scene = Scene()
    posed_as(scene, scene.world.pod("neighbour"), LEAVING)
    assert heard(scene) == {*_OWN.values()}


def on_a_bridge() -> Scene:
    """The attached pod's link is a port of it."""
    scene = Scene()
    scene.pod.side.detach({}, [20000])
    bridged(scene)
    scene.pod.side.converge(scene.desired)
    if scene.guard.unguarded:
        pytest.skip("no nftables for bridges in this kernel")
    scene.pod.handshake(scene.desired)
    return scene


def beside(scene: Scene) -> Pod:
    """Another port of the same bridge."""
    neighbour = scene.world.pod("neighbour")
    subprocess.run(["ip", "-n", "w1", "link", "set", "v-neighbour", "master", "cni0"], check=True)
    # Pods of this world have one link-local address, and the node is to ask for none.
    where = link_address(scene.pod.place, "eth0").hex(":")
    add = ["ip", "-n", "w1", "neigh", "replace", "fe80::2", "lladdr", where, "dev", "cni0"]
    subprocess.run(add, check=True)
    there = Route(destination=ipaddress.ip_network(str(neighbour.address)), device="cni0")
    scene.world.worker.links.replace_routes([there])
    return neighbour


@boxed
def test_nor_does_a_port_of_the_same_bridge() -> None:
    scene = on_a_bridge()
    attacked(scene, beside(scene), to=link_address(scene.pod.place, "eth0"))


@boxed
def test_nor_does_a_port_of_the_same_bridge_by_way_of_the_node() -> None:
    scene = on_a_bridge()
    attacked(scene, beside(scene), to=link_address(scene.world.worker, "cni0"))


@boxed
def test_nor_does_a_pod_that_is_no_port_of_the_bridge() -> None:
    scene = on_a_bridge()
    attacked(scene, scene.world.pod("neighbour"))


@boxed
def test_what_a_port_of_the_same_bridge_says_in_the_pods_name_is_not_answered_to_the_pod() -> None:
    scene = on_a_bridge()
    neighbour = beside(scene)
    posed_as(scene, neighbour, FORGED, to=link_address(scene.world.worker, "cni0"))
    assert neighbour.seen_as() == NODE, "what it says in its own name is"


@boxed
def test_nor_is_what_a_pod_says_that_is_no_port_of_the_bridge() -> None:
    scene = on_a_bridge()
    posed_as(scene, scene.world.pod("neighbour"), FORGED)


def asks_a_service(scene: Scene) -> None:
    """Its address is direct, and the node translates it to one that is not."""
    scene.world.worker.nft(
        "table ip services { chain pre { type nat hook prerouting priority dstnat;\n"
        f"ip daddr {_SERVICE} dnat to {INTERNET}\n}}\n}}"
    )
    assert scene.pod.seen_as(_SERVICE) == NODE
    assert (scene.dropped(FORGED), scene.dropped(LEAVING)) == (0, 0)


@boxed
def test_a_service_whose_endpoint_is_outside_answers_the_pod() -> None:
    asks_a_service(Scene())


@boxed
def test_a_service_whose_endpoint_is_outside_answers_a_port_of_a_bridge() -> None:
    asks_a_service(on_a_bridge())


def hears_of_a_narrow_path(scene: Scene) -> None:
    """From a router that is none of the direct destinations, on the way to one of those."""
    large = datagram(NODE, EXCLUDED_HOST, _KNOWN, _KNOWN)[:28]
    body = struct.pack("!BBHHH", 3, 4, 0, 0, _NARROW) + large
    told = packet(INTERNET, NODE, 1, body[:2] + checksum(body).to_bytes(2) + body[4:])
    with udp(scene.pod.place) as asking:
        asking.bind(("", _KNOWN))
        asking.connect((EXCLUDED_HOST, _KNOWN))

        def hears() -> bool:
            with contextlib.suppress(ConnectionRefusedError):
                asking.send(b"ask")
            throw(scene.world.internet.netns, told, NODE)
            return asking.getsockopt(socket.IPPROTO_IP, _IP_MTU) == _NARROW

        until(hears, "the pod hears of it")
    assert (scene.dropped(FORGED), scene.dropped(LEAVING)) == (0, 0)


@boxed
def test_a_router_tells_the_pod_of_a_narrow_path() -> None:
    hears_of_a_narrow_path(Scene())


@boxed
def test_a_router_tells_a_port_of_a_bridge_of_a_narrow_path() -> None:
    hears_of_a_narrow_path(on_a_bridge())


@boxed
def test_whoever_comes_in_to_a_port_of_a_bridge_is_answered() -> None:
    scene = on_a_bridge()
    before = scene.guard.counters()
    for version in (4, 6):
        comes_in(scene, version)
    sends(beside(scene), str(scene.pod.address), b"as itself")
    assert scene.guard.counters() == before


@boxed
def test_marks_of_others_stay_as_they_are_and_cost_no_packet() -> None:
    scene = Scene()
    plain = scene.world.pod("plain")
    scene.world.worker.nft(
        "table inet others {\n"
        "counter kept { }\n"
        "chain first { type filter hook prerouting priority mangle;\n"
        f'iifname "v-plain" meta mark set {_FOREIGN:#x}; }}\n'
        "chain last { type filter hook postrouting priority filter;\n"
        f"ip saddr {plain.address} meta mark {_FOREIGN:#x} counter name kept; }}\n}}"
    )
    assert plain.seen_as() == NODE
    assert Nftables(scene.world.worker.netns).counter("inet", "others", "kept")
    assert (scene.dropped(FORGED), scene.dropped(LEAVING)) == (0, 0)
