"""IPv6 with real packets: tunnelled and translated where the gateway has an address of it, held
back where it has none, never passed by the side. Nodes speak IPv4 to each other throughout."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import signal
import socket
import subprocess
import sys
from ipaddress import IPv6Address

from egress_gateway.api import keys
from egress_gateway.datapath.addresses import IPNetwork
from egress_gateway.datapath.gateway.served import ServedConfiguration
from egress_gateway.datapath.linux.netns import read_sysctl
from egress_gateway.datapath.pod.model import PodDesired
from tests.datapath.box import boxed
from tests.datapath.topology import (
    EXCLUDED_HOST,
    EXCLUDED_HOST6,
    INTERNET,
    INTERNET6,
    NODE6,
    Gateway,
    Pod,
    World,
    configuration,
    network,
    running,
    until,
)

SECONDARIES = ("10.1.1.101", "10.1.1.102")
SECONDARIES6 = ("2001:db8:1:1::101", "2001:db8:1:1::102")
NODE = "10.1.0.4"


def peers_of(*pods: Pod) -> dict[str, list[IPNetwork]]:
    return {
        p.pair.public: [ipaddress.ip_network(a) for a in (p.address, p.address6) if a] for p in pods
    }


def serve(
    world: World, *pods: Pod, ipv6: bool = True
) -> tuple[keys.KeyPair, list[ServedConfiguration]]:
    """All gateways serve ``pods`` with one configuration."""
    pair = keys.generate()
    made = []
    for gateway, four, six in zip(world.gateways, SECONDARIES, SECONDARIES6, strict=False):
        world.route_secondary(four, gateway)
        world.route_secondary6(six, gateway)
        wanted = configuration(pair, four, secondary6=six if ipv6 else None)
        result = gateway.side.converge(gateway.desired(wanted))
        assert result.problems == {}
        gateway.side.sync_peers(wanted, peers_of(*pods))
        assert gateway.side.converge(gateway.desired(wanted)).done == ()
        made.append(wanted)
    return pair, made


def attach(pod: Pod, pair: keys.KeyPair, gateway: Gateway, listen: int = 20000) -> PodDesired:
    desired = pod.desired(pair.public, str(gateway.primary), listen=listen)
    pod.side.converge(desired)
    pod.handshake(desired)
    assert pod.side.converge(desired) == []
    return desired


def seen(pod: Pod) -> tuple[str | None, ...]:
    """Both families, to the Internet and to excluded hosts."""
    hosts = (INTERNET, INTERNET6, EXCLUDED_HOST, EXCLUDED_HOST6)
    return tuple(pod.seen_as(host) for host in hosts)


@boxed
def test_a_pod_of_both_families_leaves_from_both_addresses() -> None:
    world = World(ipv6=True)
    pod = world.pod("pod-a")
    assert seen(pod) == (NODE, NODE6, NODE, NODE6), "before the attach"
    pair, _ = serve(world, pod)
    attach(pod, pair, world.gateways[0])
    before = world.internet.sources6()
    assert seen(pod) == (SECONDARIES[0], SECONDARIES6[0], NODE, NODE6)
    assert pod.side.held() == 0
    assert world.internet.sources6() - before == {SECONDARIES6[0]}
    counters = world.gateways[0].side.counters()
    assert not any(counters.values())
    # What a router may say changes nothing of ours.
    assert read_sysctl(pod.place.netns, "net/ipv6/conf/wg0/accept_ra") == "0"


@boxed
def test_a_pod_of_ipv6_alone_is_carried() -> None:
    world = World(ipv6=True)
    pod = world.pod("pod-a")
    pair, _ = serve(world, pod)
    desired = pod.desired(pair.public, str(world.gateways[0].primary))
    assert pod.address6 is not None
    desired = dataclasses.replace(desired, addresses=(pod.address6,))
    pod.side.converge(desired)
    pod.handshake(desired)
    assert pod.seen_as(INTERNET6) == SECONDARIES6[0]
    assert pod.seen_as(EXCLUDED_HOST6) == NODE6
    assert pod.seen_as(INTERNET, timeout=0.3) is None, "it has no IPv4 that belongs to it"


@boxed
def test_without_an_address_of_ipv6_it_is_held_back_counted_and_ipv4_goes_on() -> None:
    world = World(ipv6=True)
    pod = world.pod("pod-a")
    pair, made = serve(world, pod, ipv6=False)
    gateway = world.gateways[0]
    desired = pod.desired(pair.public, str(gateway.primary))
    # The node knows: applications hear at once that there is no way, and take IPv4.
    told = dataclasses.replace(desired, tunnel_ipv6=False)
    pod.side.converge(told)
    pod.handshake(told)
    assert seen(pod) == (SECONDARIES[0], None, NODE, NODE6)
    with pod.place.netns.run(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        held = pod.side.held()
        with contextlib.suppress(PermissionError):
            udp.sendto(b"x", (INTERNET6, 7))
        assert pod.side.held() == held + 1
    # The node does not know (yet): the gateway lets nothing through.
    pod.side.converge(desired)
    assert pod.seen_as(INTERNET6, timeout=0.3) is None
    assert read_sysctl(gateway.netns, "net/ipv6/conf/all/forwarding") == "0", "not ours to change"
    # Nor when it carries IPv6 of another configuration, and counts then.
    other = configuration(keys.generate(), SECONDARIES[1], port=6001, secondary6=SECONDARIES6[1])
    gateway.side.converge(gateway.desired(*made, other))
    assert pod.seen_as(INTERNET6, timeout=0.3) is None
    until(lambda: gateway.side.counters()["refused"] > 0, "the gateway refuses it")
    assert pod.seen_as() == SECONDARIES[0]
    assert world.internet.sources6() == {NODE6}, "only what is excluded"


@boxed
def test_with_azure_networking_only_excluded_networks_take_the_tunnel() -> None:
    world = World(ipv6=True)
    pod = world.pod("pod-a")
    pair, _ = serve(world, pod)
    excluded = (network("172.16.0.0/12"), ipaddress.ip_network("2001:db8:eeee::/48"))
    desired = dataclasses.replace(
        pod.desired(pair.public, str(world.gateways[0].primary)),
        default_route=False,
        excluded=excluded,
        exceptions=(network("10.0.0.0/8"), ipaddress.ip_network("2001:db8:244::/48")),
    )
    pod.side.converge(desired)
    pod.handshake(desired)
    assert seen(pod) == (NODE, NODE6, SECONDARIES[0], SECONDARIES6[0])
    for without in ({"active": None}, {"tunnel_ipv6": False}):
        pod.side.converge(dataclasses.replace(desired, **without))
        assert pod.seen_as(EXCLUDED_HOST6, timeout=0.3) is None, without
        assert pod.seen_as(INTERNET6) == NODE6, without
    pod.side.converge(dataclasses.replace(desired, excluded=excluded[:1]))
    assert pod.seen_as(EXCLUDED_HOST6) == NODE6, "named no more"


@boxed
def test_no_packet_passes_by_the_side_while_pods_come_move_lose_their_tunnel_and_go() -> None:
    world = World(gateways=2, ipv6=True)
    pod = world.pod("pod-a")
    pair, _ = serve(world, pod)
    before = world.internet.sources6()
    # Without a gateway.
    pod.side.converge(pod.desired("", None))
    assert pod.seen_as(INTERNET6, timeout=0.3) is None
    assert pod.side.held() >= 1
    # One gateway, then the other.
    attach(pod, pair, world.gateways[0])
    assert pod.seen_as(INTERNET6) == SECONDARIES6[0]
    desired = attach(pod, pair, world.gateways[1], listen=20001)
    assert pod.seen_as(INTERNET6) == SECONDARIES6[1]
    # The tunnel dies, and with it its routes.
    assert desired.active is not None
    if world.worker.backend().kind == "kernel":
        pod.place.links.delete("wg0")
    else:
        (process,) = running(desired.active.name)
        os.kill(process, signal.SIGKILL)
    until(lambda: pod.place.links.link("wg0") is None, "its link is gone")
    held = pod.side.held()
    assert pod.seen_as(INTERNET6, timeout=0.3) is None
    assert pod.side.held() > held
    pod.side.converge(desired)
    pod.handshake(desired)
    assert pod.seen_as(INTERNET6) == SECONDARIES6[1]
    assert world.internet.sources6() - before == set(SECONDARIES6)
    # Only when it is let go the ordinary way is its own again.
    pod.side.detach({"wg0": desired.active.name}, [desired.active.listen_port])
    assert pod.seen_as(INTERNET6) == NODE6


@boxed
def test_a_planned_move_keeps_connections_of_ipv6_where_they_are() -> None:
    world = World(gateways=2, ipv6=True)
    pod = world.pod("pod-a")
    pair, _ = serve(world, pod)
    first = attach(pod, pair, world.gateways[0])
    connection = pod.connect(INTERNET6)
    assert connection.recv(100).decode().strip() == SECONDARIES6[0]
    second = pod.desired(pair.public, str(world.gateways[1].primary), listen=20001).active
    assert second is not None
    second = dataclasses.replace(second, name="egwsecond", link="wg1")
    joining = dataclasses.replace(first, standby=second)
    pod.side.converge(joining)
    until(
        lambda: any(
            p.last_handshake
            for s in [pod.side.status(joining, standby=True)]
            if s
            for p in s.peers.values()
        ),
        "handshake of the second tunnel",
    )
    moved = dataclasses.replace(first, active=second, standby=first.active)
    pod.side.converge(moved)
    assert pod.side.converge(moved) == []
    assert pod.seen_as(INTERNET6) == SECONDARIES6[1]
    connection.sendall(b"still here")
    assert connection.recv(100) == b"still here"
    connection.close()
    # To and fro under traffic: at no moment is there no route, so that nothing is held back.
    sender = subprocess.Popen(
        ["nsenter", f"--net=/run/netns/{pod.place.name}", sys.executable, "-c", _SENDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert sender.stdout is not None
    sender.stdout.readline()
    for _ in range(15):
        for state in (joining, moved):
            pod.side.converge(state)
    errors, _ = sender.communicate()
    assert (errors, pod.side.held()) == ("0\n", 0), (errors, pod.side.held())


_SENDER = f"""
import select, socket, sys
udp, errors = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), 0
print("up", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for _ in range(50):
        try:
            udp.sendto(b"x", ("{INTERNET6}", 7))
        except OSError:
            errors += 1
print(errors)
"""


@boxed
def test_neighbours_find_each_other_and_full_size_packets_pass() -> None:
    world = World(ipv6=True)
    pod = world.pod("pod-a")
    pair, _ = serve(world, pod)
    attach(pod, pair, world.gateways[0])
    # A neighbour with a global address asks, and is answered, though its address is the
    # gateway's: the kernel's own talk of the link is no traffic.
    world.worker.links.add_address("v-pod-a", ipaddress.ip_interface("2001:db8:244:1::1/128"))
    for place in (pod.place, world.worker):
        subprocess.run(
            ["nsenter", f"--net=/run/netns/{place.name}", "ip", "-6", "neigh", "flush", "all"],
            check=True,
        )
    ping = ["ping", "-6", "-c", "1", "-W", "60", "-I", "2001:db8:244:1::1", str(pod.address6)]
    subprocess.run(["nsenter", "--net=/run/netns/w1", *ping], check=True, capture_output=True)
    # By hand it is held like anything else.
    raw = pod.place.netns.run(
        lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    )
    with raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
        held = pod.side.held()
        solicitation = bytes([135, 0, 0, 0, 0, 0, 0, 0]) + IPv6Address(INTERNET6).packed
        with contextlib.suppress(PermissionError):
            raw.sendto(solicitation, (INTERNET6, 0))
        assert pod.side.held() == held + 1
    # The Internet sends segments of 1,500 bytes at first: it must hear that they are too big.
    payload = os.urandom(200_000)
    with pod.connect(INTERNET6) as connection:
        connection.recv(100)
        connection.settimeout(60)
        heard = b""
        for start in range(0, len(payload), 50_000):
            connection.sendall(payload[start : start + 50_000])
            while len(heard) < start + 50_000:
                heard += connection.recv(65536)
    assert heard == payload
    with pod.place.netns.run(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as udp:
        udp.settimeout(60)
        udp.sendto(b"x" * 1392, (INTERNET6, 7))  # 1,440 with its headers
        assert udp.recv(100).decode() == SECONDARIES6[0]


@boxed
def test_a_gateway_node_keeps_the_route_that_its_router_advertised() -> None:
    world = World(ipv6=True)
    gateway = world.gateways[0]
    gateway.sysctl("net/ipv6/conf/eth0/accept_ra", "1")
    wanted = configuration(keys.generate(), SECONDARIES[0], secondary6=SECONDARIES6[0])
    desired = dataclasses.replace(gateway.desired(wanted), surroundings=gateway.side.surroundings())
    gateway.side.converge(desired)
    assert read_sysctl(gateway.netns, "net/ipv6/conf/all/forwarding") == "1"
    assert read_sysctl(gateway.netns, "net/ipv6/conf/eth0/accept_ra") == "2"
    assert read_sysctl(gateway.netns, "net/ipv6/conf/gateway0/accept_ra") == "0"


@boxed
def test_ipv6_reaches_neither_the_gateway_node_nor_its_network_nor_other_pods() -> None:
    world = World(ipv6=True)
    gateway = world.gateways[0]
    pods = [world.pod("pod-a"), world.pod("pod-b")]
    pair, (wanted,) = serve(world, *pods)
    desired = dataclasses.replace(
        gateway.desired(wanted),
        surroundings=gateway.side.surroundings(),
        refused=(ipaddress.ip_network("2001:db8:244::/48"),),
    )
    gateway.side.converge(desired)
    for index, pod in enumerate(pods):
        everything = dataclasses.replace(
            pod.desired(pair.public, str(gateway.primary), listen=20000 + index), excluded=()
        )
        pod.side.converge(everything)
        pod.handshake(everything)
    assert pods[0].seen_as(INTERNET6) == SECONDARIES6[0]
    gateway.links.add_address("lo", ipaddress.ip_interface("2001:db8:99::99/128"))
    listening = [
        place.netns.run(lambda: socket.create_server(("", 8080), family=socket.AF_INET6))
        for place in (pods[1].place, gateway)
    ]
    own = ("fd65:6777:7061:6972::1", "2001:db8:99::99", SECONDARIES6[0], "2001:db8:1:1::77")
    for target in (str(pods[1].address6), *own):
        try:
            pods[0].connect(target, 8080, timeout=0.3).close()
            raise AssertionError(f"{target} was reached through the gateway")
        except OSError:
            pass
    until(lambda: gateway.side.counters()["refused"] >= 4, "they were refused there")
    for server in listening:
        server.close()


@boxed
def test_ipv6_comes_and_goes_with_the_configurations_address() -> None:
    world = World(ipv6=True)
    gateway = world.gateways[0]
    pod = world.pod("pod-a")
    pair, (wanted,) = serve(world, pod)
    attach(pod, pair, gateway)
    with pod.connect(INTERNET) as four:
        four.recv(100)
        assert pod.seen_as(INTERNET6) == SECONDARIES6[0]
        # As cloud-init or DHCPv6 do: the node takes the address for itself, and gives it back.
        gateway.links.add_address("eth0", ipaddress.ip_interface(f"{SECONDARIES6[0]}/128"))
        done = gateway.side.converge(gateway.desired(wanted)).done
        assert [type(step.action).__name__ for step in done] == ["RemoveAddress"]
        assert pod.seen_as(INTERNET6) == SECONDARIES6[0]
        for six, expected in ((None, None), (SECONDARIES6[1], SECONDARIES6[1])):
            if six:
                world.route_secondary6(six, gateway)
            changed = dataclasses.replace(wanted, secondary6=IPv6Address(six) if six else None)
            gateway.side.converge(gateway.desired(changed))
            assert gateway.side.converge(gateway.desired(changed)).done == ()
            assert pod.seen_as(INTERNET6, timeout=0.5 if six is None else 60) == expected
        four.sendall(b"untouched")
        assert four.recv(100) == b"untouched"
    gateway.side.remove()
    assert gateway.links.link("gateway0") is None
