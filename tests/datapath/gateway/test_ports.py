"""Source ports of a gateway's address: how they are chosen, counted, and logged."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

from egress_gateway.datapath.linux import connections
from egress_gateway.datapath.linux.connections import Connection
from egress_gateway.datapath.linux.netns import NetNS
from tests.datapath.box import boxed
from tests.datapath.test_packets import SECONDARIES, attach, peers_of, serve, served
from tests.datapath.topology import INTERNET, Gateway, Pod, World, until

PORT = 9443


def dial(pod: Pod, source_port: int) -> socket.socket:
    """A connection from a chosen port of the pod."""

    def connect() -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((str(pod.address), source_port))
        made.settimeout(60)
        made.connect((INTERNET, PORT))
        return made

    return pod.place.netns.run(connect)


def abort(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def server(world: World) -> socket.socket:
    return world.internet.netns.run(lambda: socket.create_server(("", PORT), backlog=64))


@contextlib.contextmanager
def inside(gateway: Gateway) -> Iterator[NetNS]:
    with NetNS.open(f"/run/netns/egress-{gateway.name}") as opened:
        yield opened


@boxed
def test_a_port_that_became_free_is_not_the_next_to_be_used() -> None:
    world, pod, pair = served()
    attach(pod, pair, world.gateways[0])
    ports: list[int] = []
    with server(world) as listening:
        for source in (4000, 700) * 6:
            connection = dial(pod, source)
            accepted, peer = listening.accept()
            ports.append(peer[1])
            abort(connection)
            accepted.close()
    # By chance two of twelve are the same once in a thousand runs, three once in ten millions.
    assert len(set(ports)) >= 11, ports
    assert min(ports) >= 1024


@boxed
def test_pods_with_the_same_source_port_do_not_follow_each_other_at_a_server() -> None:
    """The server keeps the first pod's connection; the gateway forgot it with the pod."""
    world = World()
    gateway = world.gateways[0]
    pods = [world.pod("pod-a"), world.pod("pod-b")]
    pair, (wanted,) = serve(world, *pods)
    for index, pod in enumerate(pods):
        attach(pod, pair, gateway, listen=20000 + index)
    with server(world) as listening:
        first = dial(pods[0], 4000)
        kept, before = listening.accept()
        gateway.side.change_peers(wanted, add={}, remove=peers_of(pods[0]))
        second = dial(pods[1], 4000)
        accepted, after = listening.accept()
        assert after[0] == before[0] == SECONDARIES[0]
        assert after[1] != before[1]
        for one in (first, kept, second, accepted):
            one.close()


@boxed
def test_ports_are_counted_by_configuration_and_destination() -> None:
    world, pod, pair = served()
    gateway = world.gateways[0]
    attach(pod, pair, gateway)
    assert gateway.side.load.survey().use.get(6000) is None
    with server(world) as listening:
        open_ = [dial(pod, 5000 + i) for i in range(7)]
        accepted = [listening.accept()[0] for _ in open_]
        other = pod.connect(INTERNET)
        used = gateway.side.load.survey().use[6000]
        assert (used.ports, used.connections) == (7, 8)
        assert (str(used.destination), used.port, used.protocol) == (INTERNET, PORT, "tcp")
        for one in (*open_, *accepted, other):
            one.close()
    entries, limit = gateway.side.load.table()
    assert 8 <= entries < limit


@boxed
def test_connections_are_told_as_they_begin_and_end() -> None:
    world = World()
    gateway = world.gateways[0]
    pod = world.pod("pod-a")
    pair, (wanted,) = serve(world, pod)
    attach(pod, pair, gateway)
    with server(world) as listening, inside(gateway) as namespace:
        events = connections.ConnectionEvents(namespace)
        connection = dial(pod, 5000)
        accepted, peer = listening.accept()
        began = events.read(60)
        expected = Connection(
            zone=6000,
            protocol="tcp",
            source=pod.address,
            source_port=5000,
            destination=IPv4Address(INTERNET),
            destination_port=PORT,
            translated=IPv4Address(SECONDARIES[0]),
            translated_port=peer[1],
        )
        assert began == [expected]
        gateway.side.change_peers(wanted, add={}, remove=peers_of(pod))
        ended: list[Connection] = []

        def told() -> bool:
            ended.extend(events.read(0.1))
            return bool(ended)

        until(told, "the end is told")
        assert [(e.source_port, e.translated_port, e.ended) for e in ended] == [
            (5000, peer[1], True)
        ]
        events.close()
        connection.close()
        accepted.close()
