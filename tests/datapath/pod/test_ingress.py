"""Whoever comes in by the pod's ordinary link is answered by it, as if we were not there.

TCP, UDP, echo and ICMP errors; straight to the pod's address, through the node's translation
(Services, host ports), and from the node itself (the kubelet's probes); with strict reverse path
checks, in both route modes, and while the pod is held back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import socket
import subprocess
import threading
from collections.abc import Iterator

from egress_gateway.datapath.pod.model import PodDesired
from tests.datapath.box import boxed
from tests.datapath.pod.test_path_mtu import refused, udp
from tests.datapath.test_packets import NODE, SECONDARIES, serve
from tests.datapath.topology import (
    EXCLUDED_HOST,
    INTERNET,
    PODS_GATEWAY,
    Place,
    Pod,
    World,
    network,
    until,
)

_TCP, _UDP, _CLOSED = 8080, 8081, 8082
_BULK = bytes(range(256)) * 2048
_SERVICE = f"""\
table ip services {{
  chain services {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr {NODE} meta l4proto {{ tcp, udp }} th dport 8080-8082 dnat to 10.244.1.2
  }}
}}
"""


@boxed
def test_with_everything_else_through_the_gateway() -> None:
    world, pod, desired = _attached(default_route=True, excluded=())
    _comes_in(world, pod, desired, client=INTERNET)
    assert pod.seen_as() == SECONDARIES[0]


@boxed
def test_with_azure_networking() -> None:
    world, pod, desired = _attached(default_route=False, excluded=(network("172.16.0.0/12"),))
    _comes_in(world, pod, desired, client=EXCLUDED_HOST)
    assert pod.seen_as(EXCLUDED_HOST) == SECONDARIES[0]
    assert pod.seen_as() == NODE


def _attached(
    *, default_route: bool, excluded: tuple[ipaddress.IPv4Network, ...]
) -> tuple[World, Pod, PodDesired]:
    world = World()
    world.worker.nft(_SERVICE)
    pod = world.pod("pod-a")
    for link in ("all", "eth0"):
        pod.place.sysctl(f"net/ipv4/conf/{link}/rp_filter", "1")
    pair, _ = serve(world, pod)
    desired = dataclasses.replace(
        pod.desired(pair.public, str(world.gateways[0].primary)),
        default_route=default_route,
        excluded=excluded,
    )
    pod.side.converge(desired)
    pod.handshake(desired)
    return world, pod, desired


def _comes_in(world: World, pod: Pod, desired: PodDesired, *, client: str) -> None:
    own = str(pod.address)
    with _listening(pod.place):
        for target in (own, NODE):
            _asked(world.internet, client, target)
        _asked(world.worker, str(PODS_GATEWAY), own)
        _in(world.internet, f"ping -n -q -c 1 -W 60 -I {client} {own}")
        # Errors about what the pod sends come in by its ordinary link, too.
        narrow = f"ip route replace {client} dev v-internet mtu lock 1300"
        subprocess.run(narrow.split(), check=True)
        _asked(world.internet, client, own)
        assert pod.side.held() == 0
        pod.side.converge(dataclasses.replace(desired, active=None))
        _asked(world.internet, client, own)
        _asked(world.worker, str(PODS_GATEWAY), own)
        pod.side.converge(desired)
        pod.handshake(desired)


def _asked(place: Place, source: str, target: str) -> None:
    """From ``source`` everything is answered by ``target``: bulk, full size, and refusals."""
    connection = place.netns.run(
        lambda: socket.create_connection((target, _TCP), 60, source_address=(source, 0))
    )
    with connection:
        sender = threading.Thread(target=connection.sendall, args=(_BULK,), daemon=True)
        sender.start()
        heard = bytearray()
        while len(heard) < len(_BULK):
            heard += connection.recv(1 << 16)
        sender.join()
        assert heard == _BULK
    with udp(place) as client:
        client.bind((source, 0))
        client.connect((target, _UDP))
        for size in (10, 1272, 1472):
            _echoed(client, bytes(size))
    with udp(place) as client:
        client.bind((source, 0))
        client.connect((target, _CLOSED))
        refused(client)


def _echoed(client: socket.socket, payload: bytes) -> None:
    """Again, if need be: a datagram that meets a narrow place on its way is lost for once."""

    def answered() -> bool:
        client.send(payload)
        client.settimeout(0.3)
        try:
            return client.recv(1 << 16) == payload
        except TimeoutError:
            return False

    until(answered, f"{len(payload)} bytes are answered")


@contextlib.contextmanager
def _listening(place: Place) -> Iterator[None]:
    """What the pod serves: an echo of streams and one of datagrams."""
    tcp = place.netns.run(lambda: socket.create_server(("", _TCP)))
    datagrams = place.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    datagrams.bind(("", _UDP))
    for serve_ in (_streams, _datagrams):
        bound = tcp if serve_ is _streams else datagrams
        threading.Thread(target=serve_, args=(bound,), daemon=True).start()
    with tcp, datagrams:
        yield


def _streams(listening: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while heard := connection.recv(1 << 16):
            connection.sendall(heard)


def _datagrams(bound: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            heard, peer = bound.recvfrom(1 << 16)
            bound.sendto(heard, peer)


def _in(place: Place, command: str) -> None:
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{place.name}", *command.split()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
