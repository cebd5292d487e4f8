"""Actor: an annotated pod without any capability, that opens connections without end.

Ports of its configuration's address, and the gateway's connection table, are its neighbours' too.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
from collections.abc import Iterator

from egress_gateway.datapath.gateway.ruleset import GATEWAY_TABLE
from egress_gateway.datapath.linux import connections, conntrack, netns
from egress_gateway.datapath.linux.echo import checksum
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.nft import Nftables
from egress_gateway.kube.resources import EVENTS
from tests.datapath.box import boxed
from tests.datapath.gateway.test_gateway_agent import SECONDARY, Story, agent, attach, begin
from tests.datapath.topology import INTERNET, Pod, World, until

LIMIT, RATE = 1000, 500
INSIDE = "/run/netns/ns-static-egress-gateway"


def storm(pod: Pod, ports: range) -> None:
    """One datagram from each port; each is a connection."""

    def send() -> None:
        for port in ports:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
                made.bind(("", port))
                with contextlib.suppress(OSError):
                    made.sendto(b"x", (INTERNET, 7))

    pod.place.netns.run(send)


def counted(pod: Pod) -> int:
    with NetNS.open(INSIDE) as inside:
        found = connections.survey(inside).sources
    return sum(number for (_, address), number in found.items() if address == pod.address)


def dropped(name: str) -> int:
    with NetNS.open(INSIDE) as inside:
        return Nftables(inside).counter("inet", GATEWAY_TABLE, name) or 0


@contextlib.contextmanager
def scene(**settings: object) -> Iterator[tuple[World, Story, Pod, Pod]]:
    """A greedy pod and its neighbour, of one configuration."""
    world, gateway, story = begin()
    greedy, neighbour = world.pod("greedy"), world.pod("neighbour")
    story.secret()
    story.listed()
    with agent(gateway, story.api, ports_interval=0.2, **settings):
        for number, pod in enumerate((greedy, neighbour)):
            story.pod(pod)
            seen = attach(story, pod, listen=20000 + number)
            until(lambda seen=seen: seen() == SECONDARY, "served", seconds=60)  # type: ignore[misc]
        yield world, story, greedy, neighbour


def told(story: Story, name: str, what: str = "") -> bool:
    found = story.api.call(story.api.client.list(EVENTS, "default")).items
    return any(
        e.reason == "EgressConnectionLimit" and e.involved_object.name == name and what in e.message
        for e in found
    )


@boxed
def test_a_pod_that_opens_connections_without_end_is_held_at_its_limit() -> None:
    # So low that a storm is faster on any machine.
    limits = {"connections_per_pod": LIMIT, "connection_rate": RATE // 5}
    with scene(**limits) as (_, story, greedy, neighbour):
        kept = greedy.connect(INTERNET)
        kept.recv(100)
        for start in range(1024, 60000, 5000):
            storm(greedy, range(start, start + 5000))
            assert neighbour.seen_as() == SECONDARY, "its neighbour notices nothing"

        # The agent looks from time to time: it may come to know of the storm when it is over. Only
        # a port that has no connection yet opens a new one.
        fresh = itertools.cycle(range(1024, 60000, 1000))

        before = 0

        def refused() -> bool:
            nonlocal before
            start, earlier = next(fresh), dropped("over_limit")
            storm(greedy, range(start, start + 1000))
            before = counted(greedy)  # those of half a minute ago are over by themselves
            return dropped("over_limit") > earlier and before >= LIMIT

        until(refused, "the kernel refuses more", seconds=120)
        assert dropped("over_rate") > 0, "and what came faster than it may"
        storm(greedy, range(30000, 35000))
        # However late the agent looked first: from then on there are hardly more.
        assert counted(greedy) <= max(before, LIMIT + 5 * RATE)
        until(lambda: told(story, "greedy"), "the pod's owner is told", seconds=60)
        assert not told(story, "neighbour")
        kept.sendall(b"those that it has go on\n")
        assert kept.recv(100) == b"those that it has go on\n"
        with NetNS.open(INSIDE) as inside:
            conntrack.forget_sources(inside, [greedy.address])
        until(lambda: greedy.seen_as(timeout=0.5) == SECONDARY, "it may again", seconds=120)


@boxed
def test_the_owner_of_a_pod_that_is_too_fast_is_told() -> None:
    with scene(connections_per_pod=0, connection_rate=RATE) as (_, story, greedy, _):

        def refused() -> bool:
            storm(greedy, range(1024, 6024))
            return dropped("over_rate") > 0

        until(refused, "the kernel refuses what is too fast", seconds=60)
        until(lambda: told(story, "greedy", "faster than it may"), "its owner is told", seconds=60)
        assert not told(story, "neighbour")


@boxed
def test_datagrams_that_nobody_answers_are_no_new_connections() -> None:
    """A pod that sends logs or statistics over UDP sends as fast as it likes."""
    limits = {"connections_per_pod": LIMIT, "connection_rate": 10}
    with scene(**limits) as (_, _, sender, _):
        with sender.place.netns.run(
            lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ) as made:
            for _ in range(5000):
                made.sendto(b"x", (INTERNET, 9))
        assert sender.seen_as() == SECONDARY
        assert (dropped("over_rate"), dropped("over_limit")) == (0, 0)


@boxed
def test_a_configuration_has_its_share_of_the_table() -> None:
    with scene(connections_per_pod=0, connection_share=1, connection_rate=0) as scenery:
        _, story, greedy, _ = scenery
        with NetNS.open(INSIDE) as inside:
            _, table = connections.table(inside)
        share = table // 100

        def full() -> bool:
            for start in range(1024, 1024 + share + 200, 1000):  # half a minute later they are over
                storm(greedy, range(start, start + 1000))
            return refused(greedy)

        until(full, "the kernel refuses more", seconds=120)
        until(lambda: _problem(story), "the configuration is told", seconds=60)


def refused(pod: Pod) -> bool:
    """Whether a new connection of the pod is counted as one too many."""
    return pod.seen_as(timeout=0.3) is None and dropped("over_limit") > 0


def _problem(story: Story) -> bool:
    problems = story.status().get("problems", [])
    return any("share of the connection table" in one["message"] for one in problems)


@boxed
def test_idle_connections_are_remembered_for_little_more_than_two_hours() -> None:
    with scene(), NetNS.open(INSIDE) as inside:
        key = "net/netfilter/nf_conntrack_tcp_timeout_established"
        until(lambda: netns.read_sysctl(inside, key) == "7500", "RFC 5382, REQ-5")


@boxed
def test_connections_of_other_protocols_count_like_any_other() -> None:
    """Echo requests by identifier, for a pod that may write them."""
    with scene(connections_per_pod=LIMIT, connection_rate=RATE) as (_, _, greedy, neighbour):

        def pings() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
                for identifier in range(60000):
                    head = struct.pack("!BBHHH", 8, 0, 0, identifier, 1)
                    sealed = struct.pack("!BBHHH", 8, 0, checksum(head), identifier, 1)
                    with contextlib.suppress(OSError):
                        raw.sendto(sealed, (INTERNET, 0))

        greedy.place.netns.run(pings)
        until(lambda: dropped("over_rate") > 0, "what comes too fast is refused")
        assert neighbour.seen_as() == SECONDARY
        assert counted(greedy) <= LIMIT + 20 * RATE
