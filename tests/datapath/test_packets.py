"""The data path's promises, with real packets through real tunnels."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import signal
import socket
import struct
import subprocess

from egress_gateway.api import keys
from egress_gateway.datapath.addresses import IPNetwork
from egress_gateway.datapath.gateway.served import ServedConfiguration
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.pod.actions import CreateTunnel
from egress_gateway.datapath.pod.model import PodDesired
from tests.datapath.box import boxed
from tests.datapath.topology import (
    EXCLUDED_HOST,
    FRONTEND,
    INTERNET,
    PORT,
    Gateway,
    Pod,
    World,
    configuration,
    network,
    running,
    until,
)

SECONDARIES = ("10.1.1.101", "10.1.1.102")
NODE = "10.1.0.4"


def serve(world: World, *pods: Pod) -> tuple[keys.KeyPair, list[ServedConfiguration]]:
    """All gateways of the world serve ``pods`` with one configuration."""
    pair = keys.generate()
    made = []
    for gateway, secondary in zip(world.gateways, SECONDARIES, strict=False):
        world.route_secondary(secondary, gateway)
        wanted = configuration(pair, secondary)
        result = gateway.side.converge(gateway.desired(wanted))
        assert result.problems == {}
        gateway.side.sync_peers(wanted, peers_of(*pods))
        made.append(wanted)
    return pair, made


def served(*, gateways: int = 1) -> tuple[World, Pod, keys.KeyPair]:
    """A world whose gateways serve pod-a with one configuration."""
    world = World(gateways=gateways)
    pod = world.pod("pod-a")
    return world, pod, serve(world, pod)[0]


def peers_of(*pods: Pod) -> dict[str, list[IPNetwork]]:
    return {p.pair.public: [ipaddress.IPv4Network(p.address)] for p in pods}


def attach(pod: Pod, pair: keys.KeyPair, gateway: Gateway, listen: int = 20000) -> PodDesired:
    desired = pod.desired(pair.public, str(gateway.primary), listen=listen)
    pod.side.converge(desired)
    pod.handshake(desired)
    return desired


@boxed
def test_without_a_gateway_packets_are_held_counted_and_seen_by_nobody() -> None:
    world = World(gateways=0)
    pod = world.pod("pod-a")
    assert pod.seen_as() == NODE, "before the attach the pod leaves as the node"
    before = world.internet.sources()
    pod.side.converge(pod.desired("", None))
    assert pod.seen_as(timeout=0.5) is None
    assert pod.side.held() >= 1
    # Not by choosing the link, not with a mark of one's own (NET_RAW suffices for one).
    with pod.place.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        udp.setsockopt(socket.SOL_SOCKET, 36, 0x1000_0000)  # SO_MARK
        held = pod.side.held()
        with contextlib.suppress(PermissionError):  # how the kernel reports the drop
            udp.sendto(b"x", ("198.51.100.99", 7))
        assert pod.side.held() == held + 1
    assert world.internet.sources() == before
    assert pod.seen_as(EXCLUDED_HOST) == NODE, "excluded destinations keep the ordinary path"


@boxed
def test_a_pod_leaves_from_its_configurations_address() -> None:
    world, pod, pair = served()
    attach(pod, pair, world.gateways[0])
    assert pod.seen_as() == SECONDARIES[0]
    assert pod.seen_as(EXCLUDED_HOST) == NODE
    assert pod.side.held() == 0
    assert world.internet.sources() == {SECONDARIES[0], NODE}


@boxed
def test_two_configurations_keep_their_addresses_apart() -> None:
    world = World()
    gateway = world.gateways[0]
    pods = [world.pod("pod-a"), world.pod("pod-b")]
    pairs = [keys.generate(), keys.generate()]
    wanted = [
        configuration(pair, secondary, port=port)
        for pair, secondary, port in zip(pairs, SECONDARIES, (6000, 6001), strict=True)
    ]
    gateway.side.converge(gateway.desired(*wanted))
    for index, pod in enumerate(pods):
        world.route_secondary(SECONDARIES[index], gateway)
        gateway.side.sync_peers(wanted[index], peers_of(pod))
        desired = pod.desired(
            pairs[index].public, str(gateway.primary), port=6000 + index, listen=20000 + index
        )
        pod.side.converge(desired)
        pod.handshake(desired)
    assert [pod.seen_as() for pod in pods] == list(SECONDARIES)


@boxed
def test_the_nodes_masquerade_of_everything_leaves_translated_packets_alone() -> None:
    world = World()
    world.gateways[0].nft(
        "table ip agent { chain post { type nat hook postrouting priority srcnat;\n"
        'oifname "eth0" masquerade\n}\n}'
    )
    pod = world.pod("pod-a")
    pair, _ = serve(world, pod)
    attach(pod, pair, world.gateways[0])
    assert pod.seen_as() == SECONDARIES[0]


@boxed
def test_a_moved_pod_leaves_from_the_other_gateway_and_is_never_taken_back() -> None:
    world = World(gateways=2)
    pod = world.pod("pod-a")
    pair, made = serve(world, pod)
    first = attach(pod, pair, world.gateways[0])
    assert pod.seen_as() == SECONDARIES[0]
    second = attach(pod, pair, world.gateways[1], listen=20001)
    assert pod.seen_as() == SECONDARIES[1]
    status = pod.side.status(second)
    assert status is not None
    assert status.listen_port == 20001 != first.active.listen_port  # type: ignore[union-attr]
    # The gateway that was left initiates by itself as soon as it has something to send: here
    # at once, because its peer gets a keepalive and an endpoint.
    from egress_gateway.datapath.wireguard.model import Config, Endpoint, Interface, Peer

    left = world.gateways[0]
    for port in (20000, 20001):
        peer = Peer(
            public_key=pod.pair.public,
            allowed_ips=(ipaddress.IPv4Network(pod.address),),
            endpoint=Endpoint(ipaddress.ip_address(NODE), port),
            keepalive=1,
            fresh=True,
        )
        with NetNS.open(f"/run/netns/egress-{left.name}") as inside:
            interface = Interface(made[0].interface, inside, made[0].interface)
            left.backend().configure(interface, Config(peers=(peer,)))

        def tried(port: int = port) -> bool:
            return _dropped(world) > 0 or port == 20000

        until(tried, "the left gateway's initiation reaches the filter")
    assert pod.seen_as() == SECONDARIES[1]


@boxed
def test_a_move_without_a_look_leads_elsewhere_and_a_broken_pod_gets_a_whole_pass() -> None:
    world, pod, pair = served(gateways=2)
    attach(pod, pair, world.gateways[0])
    there = pod.desired(pair.public, str(world.gateways[1].primary), listen=20001)
    moved = [type(a).__name__ for a in pod.side.move(there)]
    assert moved == ["AllowSource", "ConfigureTunnel", "ForgetSource"]
    pod.handshake(there)
    assert pod.seen_as() == SECONDARIES[1]
    assert pod.side.converge(there) == [], "a look afterwards finds nothing amiss"
    assert there.active is not None
    from egress_gateway.datapath.wireguard.model import Interface

    with NetNS.open(there.netns) as inside:
        world.worker.backend().delete(Interface(there.active.name, inside, there.active.link))
    assert pod.seen_as(timeout=0.5) is None
    back = pod.desired(pair.public, str(world.gateways[0].primary), listen=20002)
    assert "CreateTunnel" in [type(a).__name__ for a in pod.side.move(back)]
    pod.handshake(back)
    assert pod.seen_as() == SECONDARIES[0]


@boxed
def test_ports_that_are_opened_together_are_each_heard_from_their_gateway_alone() -> None:
    import threading
    from unittest import mock

    from egress_gateway.datapath.linux.nft import Nftables
    from egress_gateway.datapath.pod.sources import SourceFilter

    world = World(gateways=1)
    sources = SourceFilter(world.worker.netns)
    sources.allow(20000, ipaddress.ip_address("10.1.1.4"))
    before = Nftables(world.worker.netns).generation()
    wanted = {20000: "10.1.1.5"} | {20000 + i: f"10.1.1.{4 + i % 2}" for i in range(1, 200)}
    threads = [
        threading.Thread(target=sources.allow, args=(port, ipaddress.ip_address(address)))
        for port, address in wanted.items()
    ]
    all_ask, apply = threading.Event(), Nftables.apply

    def held(self: Nftables, ruleset: str) -> None:
        all_ask.wait(60)
        apply(self, ruleset)

    with mock.patch.object(Nftables, "apply", held):
        for thread in threads:
            thread.start()
        all_ask.set()
        for thread in threads:
            thread.join()
    changes = Nftables(world.worker.netns).generation() - before
    assert 0 < changes < len(wanted), "those that wait go along with the next"
    exact = {port: ipaddress.ip_address(address) for port, address in wanted.items()}
    assert sources.allowed() == exact
    assert sources.sync() is False, "the kernel has exactly these"
    sources.forget(20007)
    sources.allow(20300, ipaddress.ip_address("10.1.1.4"))
    assert 20007 not in sources.allowed(), "what was forgotten does not come back"


@boxed
def test_what_pods_sent_to_gateways_ports_stays_counted_when_a_pod_goes() -> None:
    from egress_gateway.datapath.pod.sources import SourceFilter

    world = World(gateways=1)
    gateway, rogue = world.gateways[0].primary, world.pod("rogue").place.netns
    sources = SourceFilter(world.worker.netns)
    sources.sync({20000: gateway, 20001: gateway})
    with rogue.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sending:
        sending.sendto(b"x", (str(gateway), PORT))
    until(lambda: sources.strangers() == 1, "the node drops it")
    sources.forget(20001)
    assert sources.sync() is True, "the table is made anew"
    assert sources.strangers() == 1


def _dropped(world: World) -> int:
    from egress_gateway.datapath.linux.nft import Nftables

    listing = Nftables(world.worker.netns).table("inet", "egress_gateway_node") or []
    rules = [item["rule"]["expr"] for item in listing if "rule" in item]
    counters = [e["counter"] for expr in rules for e in expr if "counter" in e]
    # One that has a name stands there by its name, and counts something else.
    return sum(counter["packets"] for counter in counters if isinstance(counter, dict))


@boxed
def test_closing_packets_of_unknown_flows_do_not_leave() -> None:
    world, pod, pair = served(gateways=2)
    attach(pod, pair, world.gateways[0])
    connection = pod.connect(INTERNET)
    assert connection.recv(100).decode().strip() == SECONDARIES[0]
    attach(pod, pair, world.gateways[1], listen=20001)
    before = world.gateways[1].side.counters()["stray"]
    # An RST of a flow that the second gateway has never heard of.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    until(
        lambda: world.gateways[1].side.counters()["stray"] > before, "the stray packet is counted"
    )
    assert world.internet.sources() == {SECONDARIES[0]}


@boxed
def test_a_restarted_gateway_agent_adopts_what_runs() -> None:
    world = World()
    gateway = world.gateways[0]
    pod = world.pod("pod-a")
    pair, (wanted,) = serve(world, pod)
    attach(pod, pair, gateway)
    connection = pod.connect(INTERNET)
    connection.recv(100)
    again = gateway.new_side()
    result = again.converge(gateway.desired(wanted))
    kinds = {type(step.action).__name__ for step in result.done}
    assert kinds == {"ApplyFilter"}, "filters are written anew, nothing else is touched"
    assert again.sync_peers(wanted, peers_of(pod)) is False
    assert again.converge(gateway.desired(wanted)).done == ()
    connection.sendall(b"still here\n")
    assert connection.recv(100) == b"still here\n"


@boxed
def test_a_restarted_node_agent_adopts_what_runs() -> None:
    world, pod, pair = served()
    desired = attach(pod, pair, world.gateways[0])
    connection = pod.connect(INTERNET)
    connection.recv(100)
    from egress_gateway.datapath.pod.side import PodSide
    from egress_gateway.datapath.pod.sources import SourceFilter

    sources = SourceFilter(world.worker.netns)
    sources.sync({20000: world.gateways[0].primary})
    side = PodSide(
        desired.netns,
        backend=world.worker.backend(),
        sources=sources,
        node=world.worker.netns,
    )
    assert [type(a).__name__ for a in side.converge(desired)] == ["ApplyFilter"]
    assert side.converge(desired) == []
    connection.sendall(b"still here\n")
    assert connection.recv(100) == b"still here\n"


@boxed
def test_peers_reach_neither_each_other_nor_the_gateways_services() -> None:
    world = World()
    gateway = world.gateways[0]
    pods = [world.pod("pod-a"), world.pod("pod-b")]
    pair, _ = serve(world, *pods)
    (wanted,) = [configuration(pair, SECONDARIES[0])]
    gateway.side.converge(
        dataclasses.replace(gateway.desired(wanted), refused=(network("10.244.0.0/16"),))
    )
    for index, pod in enumerate(pods):
        # Without exclusions and exceptions everything is sent to the gateway.
        desired = dataclasses.replace(
            pod.desired(pair.public, str(gateway.primary), listen=20000 + index), excluded=()
        )
        pod.side.converge(desired)
        pod.handshake(desired)
    assert pods[0].seen_as() == SECONDARIES[0]
    listening = [
        place.netns.run(lambda: socket.create_server(("", 8080)))
        for place in (pods[1].place, gateway)
    ]
    # An address of the gateway node that nobody told us about.
    gateway.links.add_address("lo", ipaddress.ip_interface("203.0.113.77/32"))
    own = (str(gateway.primary), "169.254.103.1", "203.0.113.77", SECONDARIES[0])
    for target in (str(pods[1].address), *own):
        try:
            pods[0].connect(target, 8080, timeout=0.3).close()
            raise AssertionError(f"{target} was reached through the gateway")
        except OSError:
            pass
    until(lambda: gateway.side.counters()["refused"] > 0, "they were refused there")
    for server in listening:
        server.close()


@boxed
def test_a_pod_cannot_send_from_another_pods_address() -> None:
    world = World()
    pods = [world.pod("pod-a"), world.pod("pod-b")]
    pair, _ = serve(world, *pods)
    for index, pod in enumerate(pods):
        attach(pod, pair, world.gateways[0], listen=20000 + index)
    thief = pods[0].place
    thief.links.add_address("eth0", ipaddress.ip_interface("10.244.1.3/32"))
    udp = thief.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with udp:
        udp.bind(("10.244.1.3", 0))
        udp.settimeout(0.3)
        udp.sendto(b"x", (INTERNET, 7))
        try:
            raise AssertionError(f"answered: {udp.recv(100)!r}")
        except TimeoutError:
            pass


@boxed
def test_connections_that_come_in_are_answered_the_way_they_came() -> None:
    world, pod, pair = served()
    pod.place.sysctl("net/ipv4/conf/all/rp_filter", "1")
    pod.place.sysctl("net/ipv4/conf/eth0/rp_filter", "1")
    with pod.place.netns.run(lambda: socket.create_server(("", 8080))) as server:
        old = world.internet.netns.run(
            lambda: socket.create_connection((str(pod.address), 8080), timeout=60)
        )
        inside, _ = server.accept()
        attach(pod, pair, world.gateways[0])
        # A connection from before the attach, on which the pod speaks first.
        inside.sendall(b"pod first")
        assert old.recv(100) == b"pod first"
        new = world.internet.netns.run(
            lambda: socket.create_connection((str(pod.address), 8080), timeout=60)
        )
        accepted, peer = server.accept()
        assert peer[0] == INTERNET, "the client's own address is seen"
        accepted.sendall(b"hello")
        assert new.recv(100) == b"hello"
        for one in (old, inside, new, accepted):
            one.close()
    assert pod.seen_as() == SECONDARIES[0]
    assert pod.side.held() == 0


@boxed
def test_a_killed_tunnel_is_held_and_then_made_again() -> None:
    world, pod, pair = served()
    desired = attach(pod, pair, world.gateways[0])
    assert desired.active is not None
    if world.worker.backend().kind == "kernel":
        pod.place.links.delete("wg0")  # no process to kill: what is left of it is the same
    else:
        (process,) = running(desired.active.name)
        os.kill(process, signal.SIGKILL)
    until(lambda: pod.side.status(desired) is None, "the tunnel is gone")
    until(lambda: pod.place.links.link("wg0") is None, "its link is gone")
    assert pod.seen_as(timeout=0.3) is None
    assert pod.side.held() > 0
    done = pod.side.converge(desired)
    assert any(isinstance(action, CreateTunnel) for action in done)
    pod.handshake(desired)
    assert pod.seen_as() == SECONDARIES[0]
    assert world.internet.sources() == {SECONDARIES[0]}


@boxed
def test_a_damaged_pod_is_repaired_by_the_next_pass() -> None:
    world, pod, pair = served()
    desired = attach(pod, pair, world.gateways[0])
    damages = (
        "nft flush chain inet egress_gateway hold",
        "nft delete table inet egress_gateway",
        "ip rule del pref 32765",
        "ip route flush table 25959",
        "ip link set wg0 down",
        "ip link set wg0 mtu 1300",
        "ip link del wg0",
    )
    for damage in damages:
        command = ["nsenter", f"--net=/run/netns/{pod.place.name}", *damage.split()]
        subprocess.run(command, check=True)
        until(lambda: bool(pod.side.converge(desired)), f"repair after {damage!r}")
        assert pod.side.converge(desired) == [], damage
        pod.handshake(desired)
        assert pod.seen_as() == SECONDARIES[0], damage


@boxed
def test_a_damaged_gateway_is_repaired_by_the_next_pass() -> None:
    world = World()
    gateway = world.gateways[0]
    pod = world.pod("pod-a")
    pair, (wanted,) = serve(world, pod)
    desired = attach(pod, pair, gateway)
    inside = "egress-gw1"
    damages = (
        (inside, "nft delete table inet egress_gateway"),
        (inside, "nft flush chain inet egress_gateway leaving"),
        ("gw1", "nft delete table inet egress_gateway_gateway"),
        (inside, "ip rule del pref 1000"),
        (inside, "ip route flush table 6000"),
        (inside, "ip route del default"),
        ("gw1", f"ip route del {SECONDARIES[0]}"),
        (inside, "ip link set wg-6000 down"),
        ("gw1", "ip link del gateway0"),
        (inside, "ip link del wg-6000"),
    )
    for where, damage in damages:
        command = ["nsenter", f"--net=/run/netns/{where}", *damage.split()]
        subprocess.run(command, check=True)
        done: list[object] = []

        def repaired() -> bool:
            # A tunnel's process that has lost its link takes a moment to end.
            result = gateway.side.converge(gateway.desired(wanted))
            done.extend(result.done)  # noqa: B023
            return bool(done) and not result.problems  # noqa: B023

        until(repaired, f"repair after {damage!r}")
        assert gateway.side.converge(gateway.desired(wanted)).done == (), damage
        gateway.side.sync_peers(wanted, peers_of(pod))
        pod.side.handshake_again(desired)
        pod.handshake(desired)
        assert pod.seen_as() == SECONDARIES[0], damage
    assert gateway.side.serving() == {6000}


@boxed
def test_a_secondary_that_the_node_took_for_itself_is_taken_back() -> None:
    """As cloud-init does at boot: before the node's own address, in one subnet with it."""
    world = World()
    gateway = world.gateways[0]
    pod = world.pod("pod-a")
    pair, (wanted,) = serve(world, pod)
    gateway.links.add_address("eth0", ipaddress.ip_interface(f"{SECONDARIES[0]}/24"))
    gateway.links.add_address("eth0", ipaddress.ip_interface("10.1.1.77/24"))
    attach(pod, pair, gateway)
    assert pod.seen_as() == SECONDARIES[0], "answers take the shortcut, whose address it is"
    done = gateway.side.converge(gateway.desired(wanted)).done
    assert [type(step.action).__name__ for step in done] == ["RemoveAddress"]
    assert pod.seen_as() == SECONDARIES[0]
    own = {str(address.ip) for _, address in gateway.links.every_address()}
    assert {"10.1.1.77", str(gateway.primary)} <= own
    assert gateway.side.converge(gateway.desired(wanted)).done == ()


@boxed
def test_the_load_balancers_address_is_answered_from_itself() -> None:
    world, pod, pair = served()
    gateway = world.gateways[0]
    world.route_secondary(FRONTEND, gateway)  # floating IP: the packet keeps its destination
    desired = pod.desired(pair.public, FRONTEND)
    pod.side.converge(desired)
    pod.handshake(desired)
    assert pod.seen_as() == SECONDARIES[0]
    status = pod.side.status(desired)
    assert status is not None
    assert [str(p.endpoint) for p in status.peers.values()] == [f"{FRONTEND}:6000"]


@boxed
def test_a_taken_port_costs_its_own_configuration_only() -> None:
    world = World()
    gateway = world.gateways[0]
    squatter = gateway.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    squatter.bind(("0.0.0.0", 6000))
    wanted = [
        configuration(keys.generate(), secondary, port=port)
        for secondary, port in zip(SECONDARIES, (6000, 6001), strict=True)
    ]
    result = gateway.side.converge(gateway.desired(*wanted))
    assert list(result.problems) == [6000]
    assert "6000" in result.problems[6000]
    assert "taken" in result.problems[6000]
    squatter.close()
    until(
        lambda: not gateway.side.converge(gateway.desired(*wanted)).problems,
        "the port is used once it is free",
    )
    assert gateway.side.serving() == {6000, 6001}


@boxed
def test_when_the_configuration_goes_nothing_is_left() -> None:
    world = World()
    gateway = world.gateways[0]
    pod = world.pod("pod-a")
    links_before = set(gateway.links.links())
    pair, _ = serve(world, pod)
    desired = attach(pod, pair, gateway)
    assert desired.active is not None
    pod.side.detach({"wg0": desired.active.name}, [desired.active.listen_port])
    assert pod.seen_as() == NODE
    assert set(pod.place.links.links()) == {"lo", "eth0"}
    gateway.side.converge(gateway.desired())
    assert gateway.side.serving() == set()
    gateway.side.remove()
    assert set(gateway.links.links()) == links_before
    assert gateway.tunnels() == []
    assert world.worker.tunnels() == []


@boxed
def test_ipv6_is_held_or_refused_never_passed_by() -> None:
    world = World()
    pod = world.pod("pod-a")
    for links, name, address in (
        (pod.place.links, "eth0", "2001:db8:1::2/64"),
        (world.worker.links, "v-pod-a", "2001:db8:1::1/64"),
    ):
        links.add_address(name, ipaddress.ip_interface(address))
    world.worker.nft(
        "table ip6 seen { counter passed { }\n"
        "chain in { type filter hook prerouting priority raw;\n"
        "ip6 daddr 2001:db8:ffff::/48 counter name passed\n}\n}"
    )
    default = "nsenter --net=/run/netns/pod-a ip -6 route add default via 2001:db8:1::1"
    subprocess.run(default.split(), check=True)
    pair, _ = serve(world, pod)
    desired = attach(pod, pair, world.gateways[0])
    desired = dataclasses.replace(
        desired, addresses=(pod.address, ipaddress.ip_address("2001:db8:1::2"))
    )
    pod.side.converge(desired)
    for bind in (False, True):
        udp = pod.place.netns.run(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        with udp:
            if bind:
                udp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
            try:
                udp.sendto(b"x", ("2001:db8:ffff::1", 7))
                raise AssertionError("the datagram was sent")
            except OSError:
                pass
    from egress_gateway.datapath.linux.nft import Nftables

    assert Nftables(world.worker.netns).counter("ip6", "seen", "passed") == 0


@boxed
def test_with_azure_networking_only_excluded_networks_take_the_tunnel() -> None:
    world, pod, pair = served()
    desired = dataclasses.replace(
        pod.desired(pair.public, str(world.gateways[0].primary)),
        default_route=False,
        excluded=(network("172.16.0.0/12"),),
        exceptions=(network("10.0.0.0/8"),),
    )
    pod.side.converge(desired)
    pod.handshake(desired)
    assert pod.seen_as() == NODE
    assert pod.seen_as(EXCLUDED_HOST) == SECONDARIES[0]
    pod.side.converge(dataclasses.replace(desired, active=None))
    assert pod.seen_as(EXCLUDED_HOST, timeout=0.3) is None
    assert pod.seen_as() == NODE
