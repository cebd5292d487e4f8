"""What others route in a pod by rules and routes of their own goes on as if we were not there, and
the hold is as strong as without them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import ipaddress
import os
import select
import socket
import struct
import subprocess
import threading

from egress_gateway.datapath.linux.link import Links, RoutingRule
from egress_gateway.datapath.pod.model import PodDesired
from egress_gateway.datapath.pod.plan import EARLIER_RULES, ROUTES
from tests.datapath.box import boxed
from tests.datapath.pod.test_live_attach import attached, sources
from tests.datapath.test_ipv6 import SECONDARIES6
from tests.datapath.test_packets import NODE, SECONDARIES, attach, serve, served
from tests.datapath.topology import (
    INTERNET,
    INTERNET6,
    PODS_GATEWAY,
    ROUTER6,
    Place,
    Pod,
    World,
    until,
)

_APP, _PROXY = 8080, 15006
_TRANSPARENT = 19  # IP_TRANSPARENT
_MESH = f"""\
table inet mesh {{
  chain in {{
    type filter hook prerouting priority mangle; policy accept;
    meta mark & 0xfff == 0x539 ct mark set ct mark & 0xfffff000 | 0x111
    iifname "eth0" tcp dport {_APP} meta mark set meta mark & 0xfffff000 | 0x111 tproxy to :{_PROXY}
    ct mark & 0xfff == 0x111 meta mark set meta mark & 0xfffff000 | 0x111
  }}
  chain out {{
    type route hook output priority mangle; policy accept;
    ct mark & 0xfff == 0x111 meta mark & 0xfff != 0x539 meta mark set meta mark & 0xfffff000 | 0x111
  }}
}}
"""


def run(pod: Place, *commands: str) -> None:
    for command in commands:
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{pod.name}", *command.split()],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"


def tun(pod: Pod, name: str = "tun0") -> int:
    """A link of a VPN's; what is sent into it can be read."""

    def make() -> int:
        opened = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(opened, 0x400454CA, struct.pack("16sH", name.encode(), 0x1001))  # TUNSETIFF
        return opened

    opened = pod.place.netns.run(make)
    run(pod.place, f"ip addr add 100.64.0.2/32 dev {name}", f"ip link set {name} up")
    return opened


def datagram(pod: Pod, to: str, *, mark: int = 0, link: str = "") -> None:
    with pod.place.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as udp:
        if mark:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        if link:
            udp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
        with contextlib.suppress(PermissionError):  # how the kernel reports a drop
            udp.sendto(b"x", (to, 9))


def arrives(opened: int, pod: Pod, to: str) -> bool:
    """Whether what the pod sends to an address comes out of the VPN's link."""
    with contextlib.suppress(BlockingIOError):
        while True:
            os.read(opened, 2048)
    datagram(pod, to)
    wanted = socket.inet_aton(to)
    while select.select([opened], [], [], 60)[0]:
        packet = os.read(opened, 2048)
        if packet[16:20] == wanted:
            return True
    return False


def world_with_pod() -> tuple[World, Pod, PodDesired]:
    world, pod, pair = served()
    return world, pod, attach(pod, pair, world.gateways[0])


def _transparent() -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_IP, _TRANSPARENT, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


def _proxy(pod: Pod, listening: socket.socket) -> None:
    """Hands each connection to the application, with the client's own address."""
    while True:
        client, peer = listening.accept()
        app = pod.place.netns.run(_transparent)
        app.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x539)
        app.bind((peer[0], 0))
        app.settimeout(60)
        with contextlib.suppress(OSError), client, app:
            app.connect((str(pod.address), _APP))
            client.sendall(app.recv(100))


@boxed
def test_a_meshs_transparent_proxy_answers_clients_of_everywhere() -> None:
    """As Istio ambient has it: a table of its own delivers marked packets inside the pod."""
    world, pod, desired = world_with_pod()
    run(
        pod.place,
        "ip rule add fwmark 0x111/0xfff pref 32764 lookup 100",
        "ip route add local 0.0.0.0/0 dev lo table 100",
    )
    pod.place.nft(_MESH)
    app = pod.place.netns.run(lambda: socket.create_server((str(pod.address), _APP)))

    def serve_app() -> None:
        while True:
            connection, peer = app.accept()
            connection.sendall(peer[0].encode())
            connection.close()

    proxy = pod.place.netns.run(_transparent)
    proxy.bind(("", _PROXY))
    proxy.listen()
    for work in (serve_app, functools.partial(_proxy, pod, proxy)):
        threading.Thread(target=work, daemon=True).start()

    def asked() -> str:
        connection = world.internet.netns.run(
            lambda: socket.create_connection((str(pod.address), _APP), 60)
        )
        with connection:
            return connection.recv(100).decode()

    assert asked() == INTERNET
    assert pod.seen_as() == SECONDARIES[0]
    pod.side.converge(dataclasses.replace(desired, active=None))
    assert asked() == INTERNET
    assert pod.seen_as(timeout=0.3) is None


@boxed
def test_specific_routes_of_the_main_table_lead_into_a_vpn() -> None:
    world, pod, desired = world_with_pod()
    vpn = tun(pod)
    run(pod.place, "ip route add 192.0.2.0/24 dev tun0", "ip route add blackhole 198.51.100.64/26")
    pod.side.converge(desired)
    assert arrives(vpn, pod, "192.0.2.7")
    held = pod.side.held()
    with contextlib.suppress(OSError):
        pod.connect("198.51.100.70", timeout=0.3).close()
        raise AssertionError("a black hole let something through")
    assert pod.side.held() == held
    assert pod.seen_as() == SECONDARIES[0]
    pod.side.converge(dataclasses.replace(desired, active=None))
    assert arrives(vpn, pod, "192.0.2.7"), "it does not leave the pod"
    run(pod.place, "ip link del tun0")
    pod.side.converge(desired)
    assert pod.side.converge(desired) == []
    assert pod.seen_as() == SECONDARIES[0]
    assert world.internet.sources() == {SECONDARIES[0]}


@boxed
def test_rules_of_a_vpn_come_first_wherever_they_are() -> None:
    """As Tailscale and wg-quick have them."""
    world, pod, _ = world_with_pod()
    vpn = tun(pod)
    run(
        pod.place,
        "ip route add 100.64.0.0/10 dev tun0 table 52",
        "ip rule add pref 5270 lookup 52",
    )
    assert arrives(vpn, pod, "100.99.1.1")
    assert pod.seen_as() == SECONDARIES[0]
    # Everything into the VPN, but for what carries it.
    run(
        pod.place,
        "ip route add default dev tun0 table 51820",
        "ip rule add not fwmark 0xca6c table 51820",
        "ip rule add table main suppress_prefixlength 0",
    )
    assert arrives(vpn, pod, "203.0.113.9")
    assert arrives(vpn, pod, INTERNET)
    with pod.place.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as outer:
        outer.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0xCA6C)
        outer.settimeout(60)
        outer.sendto(b"x", (INTERNET, 7))
        assert outer.recv(100).decode() == SECONDARIES[0]
    assert world.internet.sources() == {SECONDARIES[0]}


@boxed
def test_a_vpn_takes_everything_but_its_own_server() -> None:
    """OpenVPN has two routes that are more specific than the default; others replace it."""
    world, pod, desired = world_with_pod()
    vpn = tun(pod)
    server = "203.0.113.9"
    run(
        pod.place,
        "ip route add 0.0.0.0/1 dev tun0",
        "ip route add 128.0.0.0/1 dev tun0",
        f"ip route add {server} via {PODS_GATEWAY} dev eth0 onlink",
    )
    for _ in range(2):
        pod.side.converge(desired)
        assert pod.side.converge(desired) == []
        assert arrives(vpn, pod, INTERNET)
        held = pod.side.held()
        datagram(pod, server)
        assert pod.side.held() == held
        run(pod.place, "ip route flush 0.0.0.0/1", "ip route flush 128.0.0.0/1")
        run(pod.place, "ip route replace default dev tun0")
    run(pod.place, "ip route flush all dev tun0")
    run(pod.place, f"ip route replace default via {PODS_GATEWAY} dev eth0 onlink")
    pod.side.converge(desired)
    assert pod.seen_as() == SECONDARIES[0]
    assert world.internet.sources() == {SECONDARIES[0]}


@boxed
def test_a_second_network_is_reached_and_the_hold_covers_it() -> None:
    world = World()
    pod = world.pod("pod-a")
    other = Place("other")
    pod.place.links.add_veth("net1", "eth0", other.netns)
    for place, link, address in (
        (pod.place, "net1", "10.99.0.2/24"),
        (other, "eth0", "10.99.0.1/24"),
    ):
        place.links.add_address(link, ipaddress.ip_interface(address))
        place.links.set_up(link)
    pair, _ = serve(world, pod)
    attach(pod, pair, world.gateways[0])  # 10.0.0.0/8 is excluded
    with other.netns.run(lambda: socket.create_server(("", 80))) as server:
        with pod.connect("10.99.0.1") as connection:
            _, peer = server.accept()
            assert peer[0] == "10.99.0.2"
            connection.close()
    with pod.place.netns.run(lambda: socket.create_server(("", _APP))) as server:
        client = other.netns.run(lambda: socket.create_connection(("10.99.0.2", _APP), 60))
        with client, server.accept()[0] as inside:
            inside.sendall(b"hello")
            assert client.recv(100) == b"hello"
    held = pod.side.held()
    datagram(pod, "203.0.113.9", link="net1")
    datagram(pod, "203.0.113.9", link="eth0")
    assert pod.side.held() == held + 2
    # A route by a link that leaves the pod does not lead past the gateway.
    run(pod.place, "ip route add 198.51.100.0/24 via 10.99.0.1 dev net1")
    desired = pod.desired(pair.public, str(world.gateways[0].primary))
    pod.side.converge(desired)
    assert pod.seen_as() == SECONDARIES[0]


@boxed
def test_routes_that_somebody_puts_into_our_table_go() -> None:
    """Whatever their maker, scope and metric: one alone would lead into the hold for good."""
    world = World(ipv6=True)
    pod = world.pod("pod-a")
    desired, attach = attached(world, pod)
    attach()
    run(
        pod.place,
        f"ip route add 198.51.100.0/24 via {PODS_GATEWAY} dev eth0 onlink table {ROUTES}",
        f"ip route add blackhole 198.51.100.0/25 table {ROUTES}",
        f"ip route append 198.51.100.0/24 dev eth0 table {ROUTES} metric 7 proto static",
        f"ip route add default dev eth0 table {ROUTES} metric 5",
        f"ip -6 route add {INTERNET6} via {ROUTER6} dev eth0 table {ROUTES}",
        f"ip -6 route add default via {ROUTER6} dev eth0 table {ROUTES} metric 1",
        f"ip route add unreachable default table {ROUTES} metric 2048",
        f"ip -6 route add unreachable default table {ROUTES} metric 2048",
    )
    until(lambda: pod.side.converge(desired) == [], "nothing is amiss any more")
    assert pod.seen_as() == SECONDARIES[0]
    assert pod.seen_as(INTERNET6) in SECONDARIES6
    assert sources(world) <= {SECONDARIES[0], *SECONDARIES6}


@boxed
def test_rules_of_an_earlier_version_go() -> None:
    world, pod, desired = world_with_pod()
    for rule in EARLIER_RULES:
        if rule.family == 4:
            pod.place.links.add_rule(rule)
    assert pod.side.converge(desired) != []
    assert pod.seen_as() == SECONDARIES[0]
    with Links(pod.place.netns) as links:
        assert not links.rules(4) & set(EARLIER_RULES)
        assert RoutingRule(family=4, priority=32766, table=254) in links.rules(4)
    assert desired.active is not None
    pod.side.detach({"wg0": desired.active.name}, [desired.active.listen_port])
    with Links(pod.place.netns) as links:
        assert {rule.priority for rule in links.rules(4)} == {0, 32766, 32767}
    assert pod.seen_as() == NODE
    until(lambda: world.internet.sources() == {SECONDARIES[0], NODE}, "both were seen")
