"""Packets of every size arrive, or their sender is told how large they may be.

Everything of full size goes both ways at once, with "don't fragment" set, and its encrypted packets
are whole; larger datagrams go in fragments; and ICMP errors cross the translation in both
directions. At 1,500 and at 9,000 bytes. A narrow path between the nodes, true or pretended, stops
nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import ipaddress
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from egress_gateway.api import keys
from egress_gateway.datapath.linux import conntrack
from egress_gateway.datapath.linux.echo import checksum
from tests.datapath.box import boxed
from tests.datapath.test_packets import SECONDARIES, peers_of
from tests.datapath.topology import INTERNET, PORT, Place, Pod, World, configuration, until

_DISCOVER, _DO, _DONT, _MTU = 10, 2, 0, 14  # IP_MTU_DISCOVER and its values, IP_MTU: ip(7)
_HEADERS = 28
"""Bytes of a datagram's IPv4 and UDP headers."""
_SENT = ((0x45, 0x4000, b""), (0x46, 0x4000, bytes([1] * 4)), (0x55, 0x4000, b""), (0x45, 1, b""))
"""What an ICMP error shows of the packet that was too large: its first octet (version and header's
length), "don't fragment" or its place among fragments, options. Linux believes all of these."""
_BULK = bytes(range(256)) * 4096


@boxed
def test_full_size_both_ways_at_1500() -> None:
    _full_size(1500, narrow=1300)


@boxed
def test_full_size_both_ways_at_9000() -> None:
    _full_size(9000, narrow=1500)


def _full_size(mtu: int, *, narrow: int) -> None:
    world = World()
    pod = _attached(world, mtu)
    inside = mtu - 60
    _bulk(pod)
    assert _fragments(world.worker) == _fragments(world.gateways[0]) == 0
    with _pair(world, pod) as (client, server):
        _datagram(client, server, inside)
        _datagram(server, client, inside)
        _told(client, inside, inside + 1)
        _told(server, inside, mtu)
    with _pair(world, pod) as (client, server):
        for one, other in ((client, server), (server, client)):
            one.setsockopt(socket.IPPROTO_IP, _DISCOVER, _DONT)
            _datagram(one, other, 4 * mtu)
    # A narrow place between gateway and Internet: its ICMP error is for the gateway's address.
    command = f"ip route replace {INTERNET} dev v-internet mtu lock {narrow}"
    subprocess.run(command.split(), check=True)
    with _pair(world, pod) as (client, server):
        _told(client, narrow, inside)
        _datagram(client, server, narrow)
    _bulk(pod)
    _errors(world, pod)
    _pretended(world, 600)
    _idle(world)
    _pretended(world, 600)
    before = _fragments(world.worker), _fragments(world.gateways[0])
    _bulk(pod)
    assert before == (_fragments(world.worker), _fragments(world.gateways[0]))
    for node, address in _nodes(world).items():
        command = f"ip route replace {address} dev v-{node.name} mtu lock {narrow}"
        subprocess.run(command.split(), check=True)
    ends = [_wire(node) for node in _nodes(world)]
    _bulk(pod)
    for wire in ends:
        numbers = _cut(wire)
        assert len(numbers) > 200
        assert len({*numbers}) > len(numbers) * 2 / 3, "fragments of two packets have one number"
    assert pod.side.held() == 0
    assert world.internet.sources() == {SECONDARIES[0]}


def _nodes(world: World) -> dict[Place, str]:
    return {world.worker: "10.1.0.4", world.gateways[0]: str(world.gateways[0].primary)}


def _pretended(world: World, mtu: int) -> None:
    """Somebody tells either node that the path to the other takes ``mtu`` bytes."""
    assert world.sources is not None
    (listening,) = world.sources.allowed()
    (worker, gateway) = (
        (a, p) for a, p in zip(_nodes(world).values(), (listening, PORT), strict=True)
    )
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as forger:
        for (here, ours), (there, theirs) in ((worker, gateway), (gateway, worker)):
            addresses = socket.inet_aton(here) + socket.inet_aton(there)
            for first, place, options in _SENT:
                sent = struct.pack("!BBHHHBBH", first, 0, mtu + 1, 0, place, 64, 17, 0) + addresses
                told = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + sent + options
                told += struct.pack("!HHHH", ours, theirs, mtu - 19, 0)
                forger.sendto(told[:2] + checksum(told).to_bytes(2) + told[4:], (here, 0))
    for node in _nodes(world):
        for address in _nodes(world).values():
            get = ["ip", "-n", node.name, "route", "get", address]
            found = subprocess.run(get, check=True, capture_output=True, text=True).stdout
            assert " mtu " not in found, f"{node.name} believes it"


def _idle(world: World) -> None:
    """As after minutes of silence: connection tracking has forgotten the tunnel."""
    for node in _nodes(world):
        conntrack.forget_sources(node.netns, map(ipaddress.ip_address, _nodes(world).values()))


def _fragments(node: Place) -> int:
    """How many fragments of encrypted packets came there (RFC 4293, ipReasmReqds)."""
    text = node.netns.run(lambda: Path("/proc/thread-self/net/snmp").read_text())
    names, values = (line.split() for line in text.splitlines()[:2])
    return dict(zip(names[1:], map(int, values[1:]), strict=True))["ReasmReqds"]


def _wire(node: Place) -> socket.socket:
    """Hears what comes to the node from now on."""
    kind = socket.htons(0x0800)
    wire = node.netns.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, kind))
    wire.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    return wire


def _cut(wire: socket.socket) -> list[int]:
    """IPv4's Identification of each encrypted packet that was cut."""
    found = []
    with wire, contextlib.suppress(BlockingIOError):
        while True:
            head, (_, _, way, *_) = wire.recvfrom(20, socket.MSG_DONTWAIT)
            number, place = struct.unpack("!HH", head[4:8])
            if way != socket.PACKET_OUTGOING and head[9] == socket.IPPROTO_UDP and place == 0x2000:
                found.append(number)
    return found


def _attached(world: World, mtu: int) -> Pod:
    pod = world.pod("pod-a")
    gateway = world.gateways[0]
    ends = [(place, "eth0") for place in (world.internet, world.worker, gateway, pod.place)]
    ends += [(world.router, f"v-{n}") for n in ("internet", "w1", "gw1")]
    for place, link in (*ends, (world.worker, "v-pod-a")):
        place.links.set_up(link, mtu=mtu)
    pair = keys.generate()
    world.route_secondary(SECONDARIES[0], gateway)
    wanted = configuration(pair, SECONDARIES[0])
    gateway.side.converge(dataclasses.replace(gateway.desired(wanted), mtu=mtu))
    gateway.side.sync_peers(wanted, peers_of(pod))
    desired = pod.desired(pair.public, str(gateway.primary))
    assert desired.active is not None
    tunnel = dataclasses.replace(desired.active, mtu=mtu - 60)
    desired = dataclasses.replace(desired, active=tunnel)
    pod.side.converge(desired)
    pod.handshake(desired)
    return pod


def _bulk(pod: Pod) -> None:
    """A megabyte there and back."""
    with pod.connect(INTERNET) as connection:
        assert connection.recv(100).decode().strip() == SECONDARIES[0]
        sender = threading.Thread(target=connection.sendall, args=(_BULK,), daemon=True)
        sender.start()
        heard = bytearray()
        while len(heard) < len(_BULK):
            heard += connection.recv(1 << 16)
        sender.join()
        assert heard == _BULK


@contextlib.contextmanager
def _pair(world: World, pod: Pod) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets that know each other, one in the pod and one in the Internet."""
    with udp(world.internet) as server, udp(pod.place) as client:
        server.bind(("", 0))
        client.connect((INTERNET, server.getsockname()[1]))
        client.send(b"hello")
        _, peer = server.recvfrom(100)
        assert peer[0] == SECONDARIES[0]
        server.connect(peer)
        yield client, server


def udp(place: Place) -> socket.socket:
    """A datagram socket of ``place`` that never fragments."""
    made = place.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    made.setsockopt(socket.IPPROTO_IP, _DISCOVER, _DO)
    made.settimeout(60)
    return made


def _datagram(sender: socket.socket, receiver: socket.socket, size: int) -> None:
    """A packet of ``size`` bytes arrives whole."""
    payload = bytes(size - _HEADERS)

    def sent() -> bool:
        return _fits(sender, payload)  # a late word about an earlier packet may come first

    until(sent, f"{size} bytes are sent")
    assert receiver.recv(1 << 16) == payload


def _told(sender: socket.socket, fits: int, size: int) -> None:
    """The sender of too large a packet learns what fits."""

    until(lambda: not _fits(sender, bytes(size - _HEADERS)), f"the sender of {size} bytes is told")
    assert sender.getsockopt(socket.IPPROTO_IP, _MTU) == fits


def _fits(sender: socket.socket, payload: bytes) -> bool:
    try:
        sender.send(payload)
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise
        return False
    return True


def refused(sender: socket.socket) -> None:
    """Waits until the sender is told that nobody listens."""

    def told() -> bool:
        try:
            sender.send(b"x")
            sender.settimeout(0.05)
            sender.recv(100)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            pass
        return False

    until(told, "port unreachable")


def _errors(world: World, pod: Pod) -> None:
    """Port unreachable, from either end to the other."""
    with udp(pod.place) as client:
        client.connect((INTERNET, 9))
        refused(client)
    with _pair(world, pod) as (client, server):
        client.close()
        refused(server)
