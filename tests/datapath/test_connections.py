"""What becomes of connections: sizes, changes of configuration, peers that go."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import subprocess
import threading

from egress_gateway.api import keys
from egress_gateway.datapath.linux import conntrack, netlink
from egress_gateway.datapath.linux.link import Route
from egress_gateway.datapath.linux.netlink import NetlinkSocket
from egress_gateway.datapath.linux.netns import NetNS
from tests.datapath.box import boxed
from tests.datapath.test_packets import SECONDARIES, attach, peers_of, serve, served
from tests.datapath.topology import INTERNET, Place, World, configuration, network, until

_MTU_DISCOVER, _PROBE_OFF, _DO = 10, 0, 2


def udp(place: Place, *, discover: int = _PROBE_OFF) -> socket.socket:
    made = place.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    made.setsockopt(socket.IPPROTO_IP, _MTU_DISCOVER, discover)
    made.settimeout(60)
    return made


@boxed
def test_full_size_streams_and_datagrams_pass_both_ways() -> None:
    world, pod, pair = served()
    attach(pod, pair, world.gateways[0])
    payload = bytes(range(256)) * 4096
    with pod.connect(INTERNET) as stream:
        stream.recv(100)
        received = bytearray()

        def read() -> None:
            while len(received) < len(payload):
                received.extend(stream.recv(65536))

        reader = threading.Thread(target=read)
        reader.start()
        stream.sendall(payload)
        reader.join(60)
    assert bytes(received) == payload
    with udp(world.internet) as server, udp(pod.place) as client:
        server.bind((INTERNET, 9))
        client.sendto(b"q" * 4000, (INTERNET, 9))
        question, peer = server.recvfrom(65536)
        assert (len(question), peer[0]) == (4000, SECONDARIES[0])
        server.sendto(b"a" * 4000, peer)
        assert len(client.recv(65536)) == 4000


@boxed
def test_a_server_that_forbids_fragments_learns_the_paths_size() -> None:
    world, pod, pair = served()
    attach(pod, pair, world.gateways[0])
    with udp(world.internet, discover=_DO) as server, udp(pod.place) as client:
        server.bind((INTERNET, 9))
        client.sendto(b"q", (INTERNET, 9))
        _, peer = server.recvfrom(100)

        def told() -> bool:
            try:
                server.sendto(b"a" * 1472, peer)
            except OSError as error:
                return error.errno == errno.EMSGSIZE
            return False

        until(told, "the gateway's ICMP error reaches the server")
        server.sendto(b"a" * 1412, peer)
        assert len(client.recv(65536)) == 1412
    assert world.internet.sources() == {SECONDARIES[0]}


@boxed
def test_the_same_ports_under_another_configuration_leave_with_its_address() -> None:
    world = World()
    gateway = world.gateways[0]
    pod = world.pod("pod-a")
    pairs = [keys.generate(), keys.generate()]
    wanted = [
        configuration(pair, secondary, port=6000 + i)
        for i, (pair, secondary) in enumerate(zip(pairs, SECONDARIES, strict=True))
    ]
    gateway.side.converge(gateway.desired(*wanted))
    for secondary in SECONDARIES:
        world.route_secondary(secondary, gateway)
    with udp(pod.place) as client:
        client.bind((str(pod.address), 4000))
        for i in (0, 1):
            for j in (0, 1):
                # Both know the peer: nothing but the zones keeps the two apart.
                gateway.side.sync_peers(wanted[j], peers_of(pod))
            desired = pod.desired(
                pairs[i].public, str(gateway.primary), port=6000 + i, listen=20000 + i
            )
            pod.side.converge(desired)
            pod.handshake(desired)
            client.sendto(b"x", (INTERNET, 7))
            assert client.recv(100).decode() == SECONDARIES[i]


@boxed
def test_a_changed_secondary_takes_effect_on_connections_that_exist() -> None:
    world, pod, pair = served()
    gateway = world.gateways[0]
    attach(pod, pair, gateway)
    with udp(pod.place) as client:
        client.sendto(b"x", (INTERNET, 7))
        assert client.recv(100).decode() == SECONDARIES[0]
        world.route_secondary(SECONDARIES[1], gateway)
        gateway.side.converge(gateway.desired(configuration(pair, SECONDARIES[1])))
        client.sendto(b"x", (INTERNET, 7))
        assert client.recv(100).decode() == SECONDARIES[1]


@boxed
def test_a_peers_connections_go_with_it_and_others_stay() -> None:
    world = World()
    gateway = world.gateways[0]
    pods = [world.pod("pod-a"), world.pod("pod-b")]
    pair, (wanted,) = serve(world, *pods)
    streams = []
    for index, pod in enumerate(pods):
        attach(pod, pair, gateway, listen=20000 + index)
        stream = pod.connect(INTERNET)
        stream.recv(100)
        streams.append(stream)
    before = _entries(gateway)
    gateway.side.change_peers(wanted, add={}, remove=peers_of(pods[0]))
    after = _entries(gateway)
    assert str(pods[0].address) in before
    assert str(pods[0].address) not in after
    assert str(pods[1].address) in after
    streams[1].sendall(b"still here\n")
    assert streams[1].recv(100) == b"still here\n"
    for stream in streams:
        stream.close()


@boxed
def test_forgetting_an_address_that_has_no_connections_is_nothing() -> None:
    """Others keep theirs."""
    world = World()
    gateway = world.gateways[0]
    pod = world.pod("pod-a")
    attach(pod, serve(world, pod)[0], gateway)
    with pod.connect(INTERNET) as stream:
        stream.recv(100)
        assert str(pod.address) in _entries(gateway)
        addresses = [network(f"10.243.{i}.0/24").network_address for i in range(200)]
        conntrack.forget_sources(gateway.netns, addresses)
        conntrack.forget_sources(gateway.netns, [])
        assert str(pod.address) in _entries(gateway)
        stream.sendall(b"still here\n")
        assert stream.recv(100) == b"still here\n"


@boxed
def test_nothing_from_outside_opens_a_connection_through_the_gateway() -> None:
    world, pod, pair = served()
    gateway = world.gateways[0]
    attach(pod, pair, gateway)
    with pod.place.netns.run(lambda: socket.create_server(("", 8080))) as server:
        server.settimeout(0.3)
        with contextlib.suppress(OSError):
            world.internet.netns.run(
                lambda: socket.create_connection((SECONDARIES[0], 8080), timeout=0.3)
            )
            raise AssertionError("a connection to the secondary address was accepted")
        # Somebody on the path who knows the pod's address and routes it to the gateway.
        via = Route(
            destination=network(str(pod.address)),
            gateway=gateway.primary,
            device="v-gw1",
            onlink=True,
        )
        world.router.links.replace_routes([via])
        with contextlib.suppress(OSError):
            world.internet.netns.run(
                lambda: socket.create_connection((str(pod.address), 8080), timeout=0.3)
            )
            raise AssertionError("a connection to the pod came through the gateway")


def _entries(gateway: object) -> str:
    from pathlib import Path

    from egress_gateway.datapath.linux.netns import NetNS

    name = f"egress-{gateway.name}"  # type: ignore[attr-defined]
    with NetNS.open(f"/run/netns/{name}") as inside:
        return inside.run(lambda: Path("/proc/thread-self/net/nf_conntrack").read_text())


@boxed
def test_notices_are_heard_by_a_process_with_thousands_of_descriptors() -> None:
    """select(2) refuses descriptors from 1,024 on: an agent with many pods would hear nothing."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    with contextlib.ExitStack() as stack:
        for _ in range(1100):
            stack.callback(os.close, os.open("/dev/null", os.O_RDONLY))
        heard = NetlinkSocket(netlink.ROUTE, NetNS.current())
        stack.callback(heard.close)
        heard.listen_to(1, buffer=1 << 16)  # RTNLGRP_LINK
        assert heard.listen(0.0) == []
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        assert heard.listen(60.0)
