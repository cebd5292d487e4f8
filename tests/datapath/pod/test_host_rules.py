"""What other programs of a node do with its packets does not touch ours, translated or tunnelled.

kube-proxy, ip-masq-agent and firewalls come with iptables (legacy), iptables (nft) or nftables;
each of them is here with all its rules at once, on the worker and on the gateway.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable

import pytest

from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.wireguard.model import Interface
from tests.datapath.box import boxed
from tests.datapath.pod import hostrules
from tests.datapath.test_packets import NODE, SECONDARIES, attach, serve
from tests.datapath.topology import EXCLUDED_HOST, INTERNET, Gateway, Place, Pod, World


@boxed
def beside_iptables_legacy() -> None:
    _beside("iptables-legacy")


@boxed
def beside_iptables_nft() -> None:
    _beside("iptables-nft")


@boxed
def beside_nftables() -> None:
    _beside("nftables")


@pytest.mark.root
@pytest.mark.parametrize(
    ("host", "story"),
    [
        ("iptables-legacy", beside_iptables_legacy),
        ("iptables-nft", beside_iptables_nft),
        ("nftables", beside_nftables),
    ],
)
def test_the_nodes_own_rules_touch_neither_translated_nor_tunnelled_packets(
    host: str, story: Callable[[], None]
) -> None:
    hostrules.require(host)
    story()


def _beside(host: str) -> None:
    world = World()
    gateway = world.gateways[0]
    for machine in (world.worker, gateway):
        hostrules.HOSTS[host](machine)
        for link in ("all", "default", "eth0"):
            machine.sysctl(f"net/ipv4/conf/{link}/rp_filter", "1")
    pod = world.pod("pod-a")
    pair, (wanted,) = serve(world, pod)
    desired = attach(pod, pair, gateway)
    assert pod.seen_as() == SECONDARIES[0]
    assert pod.seen_as(EXCLUDED_HOST) == NODE, "what is excluded is the node's to masquerade"
    with pod.place.netns.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as udp:
        udp.settimeout(60)
        udp.sendto(b"x", (INTERNET, 7))
        assert udp.recv(100).decode() == SECONDARIES[0]
    _the_other_side_speaks_first(world, pod)
    status = pod.side.status(desired)
    assert status is not None
    assert [str(p.endpoint) for p in status.peers.values()] == [f"{gateway.primary}:6000"]
    assert _endpoints(gateway, wanted.interface) == [f"{NODE}:20000"]
    assert world.internet.sources() == {SECONDARIES[0], NODE}


def _the_other_side_speaks_first(world: World, pod: Pod) -> None:
    """After minutes of silence, when the nodes' connection tracking has forgotten the tunnel."""
    with (
        world.internet.netns.run(lambda: socket.create_server(("", 8081))) as server,
        pod.connect(INTERNET, 8081) as connection,
    ):
        accepted, _ = server.accept()
        with accepted:
            for place in (world.worker, world.gateways[0]):
                _forget(place)
            accepted.sendall(b"the other side speaks first")
            assert connection.recv(100) == b"the other side speaks first"


def _forget(place: Place) -> None:
    command = ["nsenter", f"--net=/run/netns/{place.name}", "conntrack", "-F"]
    subprocess.run(command, check=True, capture_output=True)


def _endpoints(gateway: Gateway, name: str) -> list[str]:
    with NetNS.open(f"/run/netns/egress-{gateway.name}") as inside:
        device = gateway.backend().status(Interface(name, inside, name))
    assert device is not None
    return [str(peer.endpoint) for peer in device.peers.values()]
