"""Actor: an annotated pod with NET_RAW, which container runtimes grant by default.

It writes frames to its ``eth0`` below everything that its namespace holds (AF_PACKET, with and
without the queueing discipline). What they carry must not leave by the node, and no forged source
may pass the node's end of the link; whoever comes in is answered all the same. And the rules must
not outlive the pod, though its agent is dead.
"""

from __future__ import annotations

import dataclasses
import fcntl
import ipaddress
import socket
import struct
import subprocess
from collections.abc import Iterator
from unittest import mock

import pytest

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux.echo import checksum
from egress_gateway.datapath.linux.link import Links, Route
from egress_gateway.datapath.linux.nft import Nftables
from egress_gateway.datapath.pod.linkguard import (
    FORGED,
    LEAVING,
    TABLE,
    HostEnd,
    LinkGuard,
    host_end,
)
from egress_gateway.datapath.pod.model import PodDesired
from tests.attacks.packets.test_pod_on_a_gateway_node import datagram, throw
from tests.datapath.box import boxed
from tests.datapath.gateway.test_isolation import seen, watch
from tests.datapath.test_ipv6 import NODE, SECONDARIES, SECONDARIES6, attach, serve
from tests.datapath.topology import (
    EXCLUDED_HOST,
    INTERNET,
    INTERNET6,
    PODS_GATEWAY,
    ROUTER,
    Place,
    Pod,
    World,
    until,
)

_PACKET_QDISC_BYPASS = 20
_SIOCGIFHWADDR = 0x8927
_STRANGER = "203.0.113.77"
_STRANGER6 = "2001:db8:7777::7"


class Scene:
    """An attached pod; nothing of its agent is alive between two calls."""

    def __init__(self, *, held: bool = False, **route_mode: object) -> None:
        self.world = World(ipv6=True)
        self.pod: Pod = self.world.pod("victim")
        pair, _ = serve(self.world, self.pod)
        self.desired: PodDesired = attach(self.pod, pair, self.world.gateways[0])
        changes = {"active": None, **route_mode} if held else route_mode
        self.desired = dataclasses.replace(self.desired, **changes)  # type: ignore[arg-type]
        self.pod.side.converge(self.desired)
        self.guard = self.world.guard

    def dropped(self, reason: str) -> int:
        return int(self.guard.counters()[reason])


def link_address(where: Place, link: str) -> bytes:
    """Of its Ethernet."""

    def ask() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            answer = fcntl.ioctl(asked, _SIOCGIFHWADDR, struct.pack("16s16x", link.encode()))
        return bytes(answer[18:24])

    return where.netns.run(ask)


def frame(
    scene: Scene,
    packet: bytes,
    *,
    bypass: bool = False,
    pod: Pod | None = None,
    tags: tuple[int, ...] = (),
    to: bytes | None = None,
) -> None:
    """The packet on the pod's ``eth0``, by the link's own socket. ``tags``: VLANs' (IEEE 802.1Q),
    the outermost first. ``to``: another link than the node's."""
    place = (pod or scene.pod).place
    to = to or link_address(scene.world.worker, f"v-{place.name}")
    kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    if kind == 0x0800:
        packet = packet[:10] + checksum(packet[:20]).to_bytes(2) + packet[12:]
    for tag in reversed(tags):
        packet, kind = struct.pack("!HH", tag, kind) + packet, 0x8100

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as raw:
            if bypass:
                raw.setsockopt(263, _PACKET_QDISC_BYPASS, 1)  # SOL_PACKET
            raw.sendto(packet, ("eth0", kind, 0, 1, to))

    place.netns.run(send)


def packet(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    """Any protocol, whole or nonsense."""
    a, b = ipaddress.ip_address(source), ipaddress.ip_address(target)
    if a.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255)
        return head + a.packed + b.packed + payload
    size = 20 + len(payload)
    head = struct.pack("!BBHHHBBH", 0x45, 0, size, 1, 0, 64, protocol, 0)
    return head + a.packed + b.packed + payload


def tcp(source: str, target: str, flags: int) -> bytes:
    """A segment whose checksum is wrong: connection tracking calls it invalid."""
    return packet(source, target, 6, struct.pack("!HHIIBBHHH", 5000, 80, 1, 1, 80, flags, 99, 1, 0))


def icmp6(source: str, target: str, kind: int) -> bytes:
    """A message whose checksum is right (RFC 4443, 2.3): connection tracking asks it first."""
    body = bytes([kind, 0]) + bytes(30)
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    right = checksum(ends + struct.pack("!II", len(body), 58) + body)
    return packet(source, target, 58, body[:2] + right.to_bytes(2) + body[4:])


def own(scene: Scene, version: int) -> tuple[str, str]:
    """The pod's address, and an Internet host."""
    if version == 4:
        return str(scene.pod.address), INTERNET
    return str(scene.pod.address6), INTERNET6


def into_tunnel(scene: Scene, whole: bytes) -> None:
    """A packet that is written to the tunnel itself: no route of the pod has a say."""
    kind = 0x0800 if whole[0] >> 4 == 4 else 0x86DD
    if kind == 0x0800:
        whole = whole[:10] + checksum(whole[:20]).to_bytes(2) + whole[12:]

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as raw:
            raw.sendto(whole, ("wg0", kind))

    scene.pod.place.netns.run(send)


def shapes(source: str, target: str) -> Iterator[bytes]:
    yield datagram(source, target, 5000, 9)
    yield from (tcp(source, target, flags) for flags in (0x02, 0x10, 0x12, 0x04, 0x01, 0x29, 0))
    yield packet(source, target, 253, b"experiment")
    yield packet(source, target, 1, b"\x08\x00\xf7\xff" + bytes(4))
    yield packet(source, target, 47, bytes(8))
    if ":" in source:
        # Connection tracking looks at no neighbour or listener discovery, whatever its target.
        yield from (icmp6(source, target, kind) for kind in (*range(128, 138), 143))
        yield packet(source, target, 58, b"\x80\x00" + bytes(6))


def hears(scene: Scene) -> set[str]:
    """Whom the Internet hears, beside the gateways."""
    heard = scene.world.internet.sources() | scene.world.internet.sources6()
    return heard - {*SECONDARIES, *SECONDARIES6}


def nothing_leaves(scene: Scene) -> None:
    already = hears(scene)
    for version in (4, 6):
        source, target = own(scene, version)
        for bypass in (False, True):
            for shape in shapes(source, target):
                before = scene.dropped(LEAVING)
                frame(scene, shape, bypass=bypass)
                until(lambda n=before: scene.dropped(LEAVING) == n + 1, f"dropped: {shape!r}")  # type: ignore[misc]
    assert hears(scene) == already, "nothing left by the node"


@boxed
def test_no_frame_leaves_for_a_destination_of_the_gateway() -> None:
    scene = Scene()
    nothing_leaves(scene)
    assert scene.pod.seen_as() == SECONDARIES[0]
    assert scene.pod.seen_as(INTERNET6) == SECONDARIES6[0]
    assert scene.pod.seen_as(EXCLUDED_HOST) is not None, "what is direct is none of its business"


@boxed
def test_no_frame_leaves_while_the_pod_is_held_back() -> None:
    nothing_leaves(Scene(held=True))


@boxed
def test_with_azure_networking_no_frame_leaves_for_an_excluded_network() -> None:
    excluded = (ipaddress.ip_network(f"{INTERNET}/32"), ipaddress.ip_network(f"{INTERNET6}/128"))
    scene = Scene(default_route=False, excluded=excluded)
    nothing_leaves(scene)
    assert scene.pod.seen_as(EXCLUDED_HOST) is not None, "the rest is direct"


@boxed
def test_no_source_passes_that_is_not_the_pods_own() -> None:
    scene = Scene()
    neighbour = scene.world.pod("neighbour")
    forged = {
        4: (str(neighbour.address), NODE, SECONDARIES[0], _STRANGER, INTERNET, "127.0.0.1"),
        6: (str(neighbour.address6), SECONDARIES6[0], _STRANGER6, INTERNET6),
    }
    direct = {4: EXCLUDED_HOST, 6: "2001:db8:eeee::10"}
    already = hears(scene)
    for version in (4, 6):
        address, internet = own(scene, version)
        for source in forged[version]:
            for target in (internet, direct[version], address):
                before = scene.dropped(FORGED)
                frame(scene, datagram(source, target, 5000, 9))
                until(lambda n=before: scene.dropped(FORGED) == n + 1, f"{source} to {target}")  # type: ignore[misc]
    assert hears(scene) == already


@boxed
def test_an_inbound_connection_that_the_pod_makes_up_gets_no_reply_out() -> None:
    """Forged in its own name, its reply would be one."""
    scene = Scene()
    already = hears(scene)
    for version in (4, 6):
        address, internet = own(scene, version)
        before = scene.dropped(LEAVING)
        frame(scene, datagram(internet, address, 9, 5000))
        frame(scene, datagram(address, internet, 5000, 9))
        until(lambda n=before: scene.dropped(LEAVING) == n + 1, "the reply is none")  # type: ignore[misc]
    assert hears(scene) == already


def comes_in(scene: Scene, version: int) -> None:
    """A server in the pod answers the Internet, a datagram and a stream."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address, _ = own(scene, version)

    def bound(kind: socket.SocketKind) -> socket.socket:
        made = socket.socket(family, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("", 8080))
        if kind == socket.SOCK_STREAM:
            made.listen()
        return made

    place, outside = scene.pod.place.netns, scene.world.internet.netns
    with place.run(lambda: bound(socket.SOCK_DGRAM)) as server:
        with outside.run(lambda: socket.socket(family, socket.SOCK_DGRAM)) as client:
            client.settimeout(60)
            client.sendto(b"in", (address, 8080))
            heard, peer = server.recvfrom(100)
            server.sendto(heard, peer)
            assert client.recv(100) == b"in"
    with place.run(lambda: bound(socket.SOCK_STREAM)) as listening:
        made = outside.run(lambda: socket.create_connection((address, 8080), timeout=60))
        accepted, _ = listening.accept()
        with made, accepted:
            accepted.sendall(b"greeting")
            assert made.recv(100) == b"greeting"


@boxed
def test_whoever_comes_in_is_answered_though_the_pod_is_held_back() -> None:
    scene = Scene(held=True)
    before = scene.guard.counters()
    for version in (4, 6):
        comes_in(scene, version)
    assert scene.guard.counters() == before


@boxed
def test_a_pod_without_the_annotation_is_left_alone() -> None:
    scene = Scene()
    other = scene.world.pod("other")
    assert other.seen_as() == NODE
    frame(scene, datagram(str(other.address), INTERNET, 5000, 9), pod=other)
    until(lambda: NODE in hears(scene), "it leaves as it always did")
    assert (scene.dropped(FORGED), scene.dropped(LEAVING)) == (0, 0)


@boxed
def test_a_pod_that_is_detached_leaves_by_its_link_again() -> None:
    scene = Scene()
    scene.pod.side.detach({}, [20000])
    assert scene.pod.seen_as() == NODE


def replaced(scene: Scene, *, name: str, address: str, index: int | None) -> Place:
    """The pod ends and its link with it, while no agent looks; another pod's link comes."""
    worker, old = scene.world.worker, scene.pod.place
    worker.links.delete(f"v-{old.name}")
    old.netns.close()
    place = Place(f"{name}-2")
    link = f"v-{name}"
    if index is None:
        worker.links.add_veth(link, "eth0", place.netns)
    else:
        add = ["ip", "-n", "w1", "link", "add", link, "index", str(index), "type", "veth"]
        subprocess.run([*add, "peer", "name", "eth0", "netns", place.name], check=True)
    worker.links.add_address(link, ipaddress.ip_interface(f"{PODS_GATEWAY}/32"))
    worker.links.set_up(link)
    place.links.set_up("eth0")
    place.links.add_address("eth0", ipaddress.ip_interface(f"{address}/32"))
    default = Route(
        destination=ipaddress.ip_network("0.0.0.0/0"),
        gateway=PODS_GATEWAY,
        device="eth0",
        onlink=True,
    )
    place.links.replace_routes([default])
    worker.links.replace_routes([Route(destination=ipaddress.ip_network(address), device=link)])
    return place


def reaches(place: Place) -> str:
    with place.netns.run(lambda: socket.create_connection((INTERNET, 80), timeout=60)) as made:
        return made.recv(100).decode().strip()


def outlives(name: str, address: str, *, same_index: bool) -> None:
    scene = Scene()
    end = host_end("eth0", scene.pod.place.netns, scene.world.worker.netns)
    assert end is not None
    place = replaced(scene, name=name, address=address, index=end.index if same_index else None)
    assert reaches(place) == NODE
    LinkGuard(scene.world.worker.netns).sync([])
    assert Nftables(scene.world.worker.netns).table("inet", TABLE) is None, "tidied by the next"
    assert reaches(place) == NODE


@boxed
def test_the_next_pod_of_the_address_is_free_though_the_agent_is_dead() -> None:
    outlives("other", "10.244.1.2", same_index=False)


@boxed
def test_the_next_pod_of_the_address_and_the_links_name_is_free() -> None:
    """Some CNIs name a link after its pod, and a StatefulSet's pods have one name."""
    outlives("victim", "10.244.1.2", same_index=False)


@boxed
def test_the_next_pod_of_the_address_and_the_links_index_is_free() -> None:
    """A link that is made in a pod's namespace and moved keeps its index."""
    outlives("other", "10.244.1.2", same_index=True)


@boxed
def test_the_next_pod_of_the_links_name_and_index_is_free() -> None:
    outlives("victim", "10.244.1.9", same_index=True)


def is_held(*, anew: bool) -> None:
    scene = Scene()
    worker = scene.world.worker.netns
    end = host_end("eth0", scene.pod.place.netns, worker)
    assert end is not None
    split = dataclasses.replace(
        scene.desired, excluded=(ipaddress.ip_network("192.0.2.0/24"),)
    ).split
    replaced(scene, name="other", address=str(scene.pod.address), index=end.index)
    guard = LinkGuard(worker) if anew else scene.guard
    guard.hold(HostEnd(end.index, "v-other"), scene.desired.addresses, split)
    assert guard.sync([scene.pod.address]) is False


@boxed
def test_the_next_pod_of_the_address_and_the_links_index_is_held() -> None:
    is_held(anew=False)


@boxed
def test_so_it_is_by_an_agent_that_was_away_meanwhile() -> None:
    is_held(anew=True)


@boxed
def test_an_agent_that_starts_anew_leaves_no_gap_and_knows_what_is_there() -> None:
    scene = Scene()
    scene.guard = scene.world.guard = LinkGuard(scene.world.worker.netns)
    address, internet = own(scene, 4)
    already = hears(scene)
    frame(scene, datagram(address, internet, 5000, 9))
    assert scene.guard.sync([scene.pod.address]) is False, "nothing is amiss"
    until(lambda: scene.dropped(LEAVING) == 1, "held meanwhile")
    assert hears(scene) == already
    end = host_end("eth0", scene.pod.place.netns, scene.world.worker.netns)
    assert end is not None
    scene.guard.hold(end, scene.desired.addresses, scene.desired.split)
    assert scene.guard.sync([scene.pod.address]) is False
    nothing_leaves(scene)


@boxed
def test_an_agent_of_another_version_leaves_no_gap_either() -> None:
    """Nor does one that makes the table anew for another pod, before it looks at this one."""
    scene = Scene()
    nft = Nftables(scene.world.worker.netns)
    for another in (
        f"add rule inet {TABLE} leaving accept",
        f"add chain inet {TABLE} later\nadd rule inet {TABLE} later accept",
        f"flush chain inet {TABLE} arrived",
        f"add set inet {TABLE} later {{ type iface_index . mark; elements = {{ 1 . 1 }}; }}",
    ):
        scene.guard = scene.world.guard = LinkGuard(scene.world.worker.netns)
        nft.apply(another)
        other = HostEnd(scene.world.worker.links.links()["eth0"].index, "eth0")
        scene.guard.hold(other, [], scene.desired.split)
        scene.guard.release(other)
        nothing_leaves(scene)
        scene.guard.sync([scene.pod.address])
        nothing_leaves(scene)
    before = scene.guard.counters()
    for version in (4, 6):
        comes_in(scene, version)
    assert scene.guard.counters() == before
    scene.pod.side.converge(scene.desired)
    assert scene.guard.sync([scene.pod.address]) is False
    nothing_leaves(scene)


@boxed
def test_what_somebody_damages_is_repaired() -> None:
    scene = Scene()
    nft = Nftables(scene.world.worker.netns)
    for damage in (
        f"delete table inet {TABLE}",
        f"flush chain inet {TABLE} leaving",
        f"flush set inet {TABLE} links",
        f"flush map inet {TABLE} pods4",
        f"flush map inet {TABLE} behind6",
        f"flush set inet {TABLE} own6",
        "flush ruleset",
        # A later version's, before a rollback.
        f"add chain inet {TABLE} later\nadd rule inet {TABLE} later accept",
    ):
        nft.apply(damage)
        assert scene.guard.sync([scene.pod.address]) is True, damage
        assert scene.guard.sync([scene.pod.address]) is False, damage
    nothing_leaves(scene)


@boxed
def test_a_change_beside_a_damage_is_made_whole() -> None:
    scene = Scene()
    Nftables(scene.world.worker.netns).apply("flush ruleset")
    excluded = (ipaddress.ip_network("192.0.2.0/24"),)
    scene.desired = dataclasses.replace(scene.desired, excluded=excluded)
    scene.pod.side.converge(scene.desired)
    nothing_leaves(scene)
    Nftables(scene.world.worker.netns).apply("flush ruleset")
    scene.pod.side.detach({}, [20000])
    assert Nftables(scene.world.worker.netns).table("inet", TABLE) is None


@boxed
def test_a_kernel_that_cannot_hold_links_lets_pods_start_and_says_so() -> None:
    scene = Scene()
    scene.pod.side.detach({}, [20000])

    refused = DatapathError("no fib expression")
    with mock.patch.object(scene.guard, "hold", side_effect=refused):
        pair, _ = serve(scene.world, scene.pod)
        attach(scene.pod, pair, scene.world.gateways[0])
    assert scene.pod.seen_as() == SECONDARIES[0]
    assert len(scene.guard.unguarded) == 1


def change_exclusions(scene: Scene, third: int) -> None:
    excluded = (ipaddress.ip_network(f"192.0.{third}.0/24"),)
    scene.desired = dataclasses.replace(scene.desired, excluded=excluded)
    scene.pod.side.converge(scene.desired)


def chains(scene: Scene) -> int:
    listing = Nftables(scene.world.worker.netns).table("inet", TABLE) or []
    return sum("chain" in item for item in listing)


@boxed
def test_exclusions_that_change_without_end_leave_nothing_behind() -> None:
    """Whoever may edit a configuration edits the rules of every node of its pods."""
    scene = Scene()
    before = chains(scene)
    for third in range(40):
        change_exclusions(scene, third)
        assert scene.guard.sync([scene.pod.address]) is False, "what is tidied was no damage"
        assert chains(scene) == before
    nothing_leaves(scene)
    # What it said first is said again.
    change_exclusions(scene, 0)
    nothing_leaves(scene)


@boxed
def test_many_changes_between_two_looks_leave_nothing_behind() -> None:
    scene = Scene()
    before = chains(scene)
    for third in range(5):
        change_exclusions(scene, third)
    scene.guard.sync([scene.pod.address])
    assert chains(scene) == before
    nothing_leaves(scene)


@boxed
def test_what_an_earlier_agent_left_is_tidied_and_what_it_holds_is_kept() -> None:
    scene = Scene()
    before = chains(scene)
    for third in range(3):
        change_exclusions(scene, third)
    scene.guard = scene.world.guard = LinkGuard(scene.world.worker.netns)
    assert scene.guard.sync([scene.pod.address]) is False
    assert chains(scene) == before
    nothing_leaves(scene)


@boxed
def test_a_pod_with_net_admin_cannot_point_at_its_neighbours_link() -> None:
    """It makes a link of the same index that claims to lead there."""
    scene = Scene()
    worker = scene.world.worker.netns
    liar = Place("liar")
    with Links(worker) as links:
        target = links.links()["v-victim"]
    add = ["ip", "-n", "liar", "link", "add", "eth0", "index", str(target.peer), "type", "veth"]
    peer = ["peer", "name", "x", "index", str(target.index)]
    subprocess.run([*add, *peer], check=True)
    assert host_end("eth0", liar.netns, worker) is None
    subprocess.run(["ip", "-n", "liar", "link", "del", "eth0"], check=True)
    far = Place("far")
    subprocess.run([*add, *peer, "netns", far.name], check=True)
    assert host_end("eth0", liar.netns, worker) is None
    assert host_end("eth0", scene.pod.place.netns, worker) is not None


@boxed
def test_a_port_of_a_bridge_is_held_like_a_link_of_its_own() -> None:
    scene = Scene()
    scene.pod.side.detach({}, [20000])
    worker, nft = scene.world.worker, Nftables(scene.world.worker.netns)
    bridged(scene)
    scene.pod.side.converge(scene.desired)
    if scene.guard.unguarded:
        pytest.skip("no nftables for bridges in this kernel")
    assert nft.table("bridge", TABLE) is not None
    nothing_leaves(scene)
    before = scene.guard.counters()
    for version in (4, 6):
        comes_in(scene, version)
    assert scene.guard.counters() == before
    for source in ("10.244.1.77", _STRANGER):
        count = scene.dropped(FORGED)
        frame(scene, datagram(source, EXCLUDED_HOST, 5000, 9))
        until(lambda n=count: scene.dropped(FORGED) == n + 1, source)  # type: ignore[misc]
    assert LinkGuard(worker.netns).sync([scene.pod.address]) is False
    for family in ("inet", "bridge"):
        nft.apply(f"add rule {family} {TABLE} leaving accept")
    scene.guard = scene.world.guard = LinkGuard(worker.netns)
    scene.guard.release(HostEnd(1, "lo"))  # any first look at what another version has left
    nothing_leaves(scene)
    scene.pod.side.detach({}, [20000])
    assert scene.pod.seen_as() == NODE


def bridged(scene: Scene) -> None:
    """As the CNI plugin ``bridge`` does it: the node's address on the bridge."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", "-n", "w1", *words], check=True)

    ip("link", "add", "cni0", "type", "bridge")
    ip("link", "set", "v-victim", "master", "cni0")
    ip("addr", "flush", "dev", "v-victim")
    ip("link", "set", "cni0", "up")
    ip("addr", "add", f"{PODS_GATEWAY}/32", "dev", "cni0")
    ip("-6", "addr", "add", "fe80::1/64", "dev", "cni0", "nodad")
    ip("route", "replace", f"{scene.pod.address}/32", "dev", "cni0")
    ip("-6", "route", "replace", f"{scene.pod.address6}/128", "via", "fe80::2", "dev", "cni0")


@boxed
def test_a_bridge_carries_nothing_to_a_router_beyond_its_uplink() -> None:
    """The uplink is a port too (VXLAN, say), and no packet that crosses the bridge is IP's."""
    scene = Scene()
    scene.pod.side.detach({}, [20000])
    bridged(scene)
    router, worker = scene.world.router, scene.world.worker
    worker.sysctl("net/bridge/bridge-nf-call-iptables", "0")
    worker.sysctl("net/bridge/bridge-nf-call-ip6tables", "0")
    for where, remote in (([], "10.1.0.4"), (["-n", "w1"], str(ROUTER))):
        vxlan = f"type vxlan id 9 dstport 4789 remote {remote}"
        subprocess.run(["ip", *where, "link", "add", "uplink", *vxlan.split()], check=True)
        subprocess.run(["ip", *where, "link", "set", "uplink", "up"], check=True)
    subprocess.run(["ip", "-n", "w1", "link", "set", "uplink", "master", "cni0"], check=True)
    pod, beyond = link_address(scene.pod.place, "eth0"), link_address(router, "uplink")
    frame(scene, datagram(_STRANGER, INTERNET, 5000, 9), to=beyond)
    until(lambda: _STRANGER in hears(scene), "it leaves where nobody looks")
    scene.pod.side.converge(scene.desired)
    if scene.guard.unguarded:
        pytest.skip("no nftables for bridges in this kernel")
    already = hears(scene)
    for version in (4, 6):
        source, target = own(scene, version)
        for shape in shapes(source, target):
            before = scene.dropped(LEAVING)
            frame(scene, shape, to=beyond)
            until(lambda n=before: scene.dropped(LEAVING) == n + 1, f"dropped: {shape!r}")  # type: ignore[misc]
    assert hears(scene) == already, "nothing left by the uplink"
    for version in (4, 6):
        source, target = own(scene, version)
        near = ["neigh", "replace", source, "lladdr", pod.hex(":"), "dev", "uplink"]
        for change in (["route", "replace", source, "dev", "uplink"], near):
            subprocess.run(["ip", *change], check=True)
        throw(router.netns, datagram(target, source, 9, 5000), source)

        def answered(source: str = source, target: str = target) -> bool:
            frame(scene, datagram(source, target, 5000, 9), to=beyond)
            return source in hears(scene)

        until(answered, "whoever comes in across the bridge is answered")


@boxed
def test_tags_of_vlans_hide_no_packet() -> None:
    """The kernel takes a tag of VLAN 0 off, and looks at what is below."""
    scene = Scene()
    for on_a_bridge in (False, True):
        if on_a_bridge:
            scene.pod.side.detach({}, [20000])
            bridged(scene)
            scene.pod.side.converge(scene.desired)
            if scene.guard.unguarded:
                return  # no nftables for bridges in this kernel
        already = hears(scene)
        for version in (4, 6):
            source, target = own(scene, version)
            for tags in ((0,), (5,), (0, 0), (5, 0), (0, 5)):
                for shape in shapes(source, target):
                    frame(scene, shape, tags=tags)
        # What came before it has arrived where it could.
        before = scene.dropped(FORGED)
        frame(scene, datagram(_STRANGER, INTERNET, 5000, 9))
        until(lambda n=before: scene.dropped(FORGED) > n, "all frames are seen")  # type: ignore[misc]
        assert hears(scene) == already, "nothing left by the node"


@boxed
def test_the_gateway_itself_carries_nothing_to_metadata_and_platform_services() -> None:
    """Pods keep such packets on their own link; one that writes them into its tunnel gets no
    further than the gateway's filter."""
    scene = Scene()
    side = scene.world.gateways[0].side
    special = {
        4: (
            "169.254.169.254",
            "169.254.169.253",
            "169.254.10.11",
            "168.63.129.16",
        ),
        6: ("fd65:6777:7061:6972::9",),
    }
    for target in (*special[4][:1], special[4][3]):
        scene.world.internet.links.add_address("lo", ipaddress.ip_interface(f"{target}/32"))
        there = Route(destination=ipaddress.ip_network(target), device="v-internet")
        scene.world.router.links.replace_routes([there])
    already = hears(scene)
    watch(scene.world.internet)
    for version, targets in special.items():
        source, _ = own(scene, version)
        for target in targets:
            for whole in (
                datagram(source, target, 5000, 80),
                tcp(source, target, 0x02),
                packet(source, target, 253, b"any"),
            ):
                before = side.counters().get("refused", 0)
                into_tunnel(scene, whole)
                until(
                    lambda n=before: side.counters().get("refused", 0) == n + 1,  # type: ignore[misc]
                    f"refused: {target}",
                )
    for target in special[4]:
        assert seen(scene.world.internet, target) == {}
    assert hears(scene) == already
    assert scene.pod.seen_as() == SECONDARIES[0], "its tunnel is the one that works"
