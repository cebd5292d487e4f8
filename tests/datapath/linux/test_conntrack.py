"""Forgetting the connections of some addresses, and of no others, in both families."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.linux import conntrack
from egress_gateway.datapath.linux.netns import NetNS
from tests.datapath.box import boxed
from tests.datapath.topology import INTERNET, INTERNET6, NODE6, World, until

_NODE = "10.1.0.4"


def origins(netns: NetNS) -> set[IPAddress]:
    """Who began the connections that the namespace knows."""
    sources = (line.split("src=")[1].split()[0] for line in entries(netns))
    return {ipaddress.ip_address(source) for source in sources}


def entries(netns: NetNS) -> list[str]:
    """The kernel's table of connections."""
    return netns.run(lambda: Path("/proc/thread-self/net/nf_conntrack").read_text()).splitlines()


def over(netns: NetNS) -> bool:
    """Whether nobody says another word: a late one of a connection that was forgotten would be
    taken for a new connection."""
    return all("TIME_WAIT" in line for line in entries(netns) if " tcp " in line)


@boxed
def test_only_the_connections_of_the_address_are_forgotten() -> None:
    world = World(gateways=0, ipv6=True)
    pods = [world.pod(f"pod-{name}") for name in "abc"]
    node = world.worker.netns

    def connect() -> set[IPAddress]:
        for pod in pods:
            assert (pod.seen_as(INTERNET), pod.seen_as(INTERNET6)) == (_NODE, NODE6)
        until(lambda: over(node), "both ends have closed")
        return origins(node)

    everybody = connect()
    for pod in pods:
        for address in (pod.address, pod.address6):
            assert address is not None
            assert {f.remote for f in conntrack.datagrams_from(node, [address])} == set()
            conntrack.forget_sources(node, [address])
            assert origins(node) == everybody - {address}
            connect()
    both = [a for pod in pods[:2] for a in (pod.address, pod.address6) if a is not None]
    conntrack.forget_sources(node, both)
    assert origins(node) == everybody - set(both)


@boxed
def test_what_was_translated_to_an_address_is_forgotten_and_nothing_else() -> None:
    world = World(gateways=0, ipv6=True)
    pod = world.pod("pod-a")
    node = world.worker.netns
    for address, family in ((NODE6, 6), (_NODE, 4)):
        assert (pod.seen_as(INTERNET), pod.seen_as(INTERNET6)) == (_NODE, NODE6)
        until(lambda: over(node), "both ends have closed")
        everybody = origins(node)
        conntrack.forget_translated(node, ipaddress.ip_address("203.0.113.7"))
        conntrack.forget_translated(node, ipaddress.ip_address("2001:db8:7::7"))
        assert origins(node) == everybody
        conntrack.forget_translated(node, ipaddress.ip_address(address))
        assert {a.version for a in origins(node)} == {4, 6} - {family}
