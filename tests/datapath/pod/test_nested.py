"""A pod that has pods of its own: what its containers, virtual machines and VPN clients send leaves
as what it sends itself, and never by its ordinary link.

Nobody guards the node's end of the link here: the hold in the pod is enough.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import ipaddress
import os
import select
import socket
import struct
import threading
from pathlib import Path

from egress_gateway.datapath.linux.echo import checksum
from egress_gateway.datapath.pod.side import PodSide
from tests.datapath.box import boxed
from tests.datapath.pod.test_live_attach import attached, forget_seen, sources
from tests.datapath.pod.test_others_routing import run, tun
from tests.datapath.test_ipv6 import SECONDARIES6
from tests.datapath.test_packets import NODE, SECONDARIES
from tests.datapath.topology import INTERNET, INTERNET6, NODE6, Place, Pod, World, until

_PUBLISHED = 8081
_DOCKER = f"""\
table inet docker {{
  chain pre {{
    type nat hook prerouting priority dstnat;
    iifname "eth0" tcp dport {_PUBLISHED} dnat ip to 192.168.77.2:80
  }}
  chain post {{
    type nat hook postrouting priority srcnat;
    ip saddr 192.168.77.0/24 oifname != "docker0" masquerade
    ip6 saddr fd77::/64 oifname != "docker0" masquerade
    ip saddr 100.64.0.0/24 oifname "eth0" masquerade
    ip saddr 100.64.0.0/24 oifname "wg*" masquerade
  }}
}}
"""
"""As Docker translates, and as those who set up VPN servers do."""


def unguarded() -> tuple[World, Pod]:
    world = World(ipv6=True)
    pod = world.pod("pod-a")
    assert world.sources is not None
    pod.side = PodSide(
        Path("/run/netns", pod.place.name),
        backend=world.worker.backend(),
        sources=world.sources,
        node=world.worker.netns,
    )
    return world, pod


def container(pod: Pod) -> Place:
    """On a bridge in the pod, as Docker has it."""
    inner = Place("inner")
    links = pod.place.links
    links.add_veth("veth0", "eth0", inner.netns)
    run(pod.place, "ip link add docker0 type bridge", "ip link set veth0 master docker0 up")
    for place, link, end in ((pod.place, "docker0", 1), (inner, "eth0", 2)):
        for address in (f"192.168.77.{end}/24", f"fd77::{end}/64"):
            place.links.add_address(link, ipaddress.ip_interface(address))
        place.links.set_up(link)
    routes = ("ip route add default via 192.168.77.1", "ip -6 route add default via fd77::1")
    run(inner, *routes)
    forwards(pod)
    return inner


def forwards(pod: Pod) -> None:
    pod.place.sysctl("net/ipv4/ip_forward", "1")
    pod.place.sysctl("net/ipv6/conf/all/forwarding", "1")
    pod.place.nft(_DOCKER)


def asked(place: Place, host: str) -> str:
    with place.netns.run(lambda: socket.create_connection((host, 80), 60)) as connection:
        return connection.recv(100).decode().strip()


def ready(place: Place) -> None:
    """Both families: duplicate address detection takes a moment."""

    def answered() -> bool:
        with contextlib.suppress(OSError):
            return bool(asked(place, INTERNET) and asked(place, INTERNET6))
        return False

    until(answered, "the container reaches the Internet")


@boxed
def test_containers_inside_a_pod_leave_by_its_gateway_and_are_held_with_it() -> None:
    world, pod = unguarded()
    desired, attach = attached(world, pod)
    inner = container(pod)
    attach()
    ready(inner)
    assert asked(inner, INTERNET) == SECONDARIES[0]
    assert asked(inner, INTERNET6) in SECONDARIES6
    held = pod.side.held()
    forget_seen(world)
    pod.side.converge(dataclasses.replace(desired, active=None))
    for family, host in ((socket.AF_INET, INTERNET), (socket.AF_INET6, INTERNET6)):
        made = functools.partial(socket.socket, family, socket.SOCK_DGRAM)
        with inner.netns.run(made) as datagram:
            datagram.sendto(b"x", (host, 7))
    until(lambda: pod.side.held() >= held + 2, "the hold drops both")
    assert sources(world) <= {SECONDARIES[0], *SECONDARIES6}
    # What a container serves is reached by the pod and, published, from outside.
    server = inner.netns.run(lambda: socket.create_server(("", 80)))
    for place, where in (
        (world.internet, (str(pod.address), _PUBLISHED)),
        (pod.place, ("192.168.77.2", 80)),
    ):
        client = place.netns.run(functools.partial(socket.create_connection, where, 60))
        accepted = server.accept()[0]
        with client, accepted:
            accepted.sendall(b"hello")
            assert client.recv(100) == b"hello"


@boxed
def test_what_containers_had_opened_never_goes_on_by_the_pods_ordinary_link() -> None:
    world, pod = unguarded()
    _, attach = attached(world, pod)
    inner = container(pod)
    ready(inner)
    sink = world.internet.netns.run(lambda: socket.create_server((INTERNET, 9002)))
    stream = inner.netns.run(lambda: socket.create_connection((INTERNET, 9002), 60))
    remote = sink.accept()[0]
    source = inner.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    source.sendto(b"x", (INTERNET, 7))
    assert source.recv(100).decode() == NODE
    ending = threading.Event()

    def talk() -> None:
        while not ending.wait(0.01):
            with contextlib.suppress(OSError):
                source.sendto(b"x", (INTERNET, 7))
            with contextlib.suppress(OSError):
                remote.send(b"x")  # what the container acknowledges
            with contextlib.suppress(OSError):
                stream.send(b"x")

    talking = threading.Thread(target=talk)
    talking.start()
    attach()
    forget_seen(world)
    until(lambda: SECONDARIES[0] in sources(world), "datagrams go on by the gateway")
    assert asked(inner, INTERNET) == SECONDARIES[0]
    ending.set()
    talking.join()
    assert not sources(world) & {NODE, NODE6, str(pod.address), str(pod.address6)}


@boxed
def test_clients_of_a_vpn_server_in_a_pod_leave_by_its_gateway() -> None:
    world, pod = unguarded()
    _, attach = attached(world, pod)
    opened = tun(pod)
    run(pod.place, "ip route add 100.64.0.0/24 dev tun0")
    forwards(pod)
    attach()
    seen = b""
    while not seen:
        os.write(opened, packet("100.64.0.7", INTERNET))
        if select.select([opened], [], [], 1)[0]:
            seen = answer(os.read(opened, 2048))
    assert seen.decode() == SECONDARIES[0]
    assert sources(world) == {SECONDARIES[0]}


def packet(source: str, destination: str) -> bytes:
    """A datagram to the port that tells a sender's address."""
    datagram = struct.pack("!HHHH", 5555, 7, 9, 0) + b"x"
    length = 20 + len(datagram)
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    header = struct.pack("!BBHHHBBH", 0x45, 0, length, 1, 0, 64, socket.IPPROTO_UDP, 0) + ends
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + datagram


def answer(raw: bytes) -> bytes:
    """What a datagram carries; nothing of other packets."""
    return raw[28:] if raw[0] >> 4 == 4 and raw[9] == socket.IPPROTO_UDP else b""
