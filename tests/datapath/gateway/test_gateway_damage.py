"""Somebody damages a gateway's kernel: the agent hears of it and repairs it, without a clock.

``resync`` is an hour in all of these, so that only notices can lead to a repair.
"""

from __future__ import annotations

import dataclasses
import subprocess
import time

from egress_gateway.datapath.gateway.ruleset import GATEWAY_TABLE, NODE_TABLE
from egress_gateway.datapath.linux import netns
from egress_gateway.datapath.linux.link import LOCAL, MAIN, Links
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.nft import Nftables
from tests.datapath.box import boxed
from tests.datapath.gateway.test_gateway_agent import SECONDARY, agent, attach, begin
from tests.datapath.topology import ROUTER, Gateway, until

HOUR = 3600.0
INSIDE = "ns-static-egress-gateway"
NODE, GATEWAY = "gw1", INSIDE
HEARD = {SECONDARY, str(ROUTER)}
"""The router tells of what it could not deliver to a gateway without a link."""


def run(place: str, command: str) -> None:
    subprocess.run(["ip", "netns", "exec", place, "sh", "-ec", command], check=True)


def filtered(gateway: Gateway) -> bool:
    """Both filters are whole: one of them alone still lets no wrong address out."""
    with NetNS.open(f"/run/netns/{INSIDE}") as inside:
        found = (
            (Nftables(inside).table("inet", GATEWAY_TABLE), "translate"),
            (Nftables(gateway.netns).table("inet", NODE_TABLE), "forward"),
        )
    return all(
        any(item.get("rule", {}).get("chain") == chain for item in table or [])
        for table, chain in found
    )


def routing() -> object:
    """Links of the gateway's namespace, and all that leads packets there."""
    with NetNS.open(f"/run/netns/{INSIDE}") as inside, Links(inside) as links:
        return (
            set(links.links()),
            links.rules(4),
            links.other_rules(4),
            *(
                {dataclasses.replace(r, source=None) for r in links.routes(t, 4)}
                for t in (MAIN, LOCAL, 6000)
            ),
        )


DAMAGE = (
    (NODE, "nft flush ruleset"),  # what a firewall's reload does
    (GATEWAY, "nft flush ruleset"),
    (GATEWAY, "nft flush chain inet egress_gateway translate"),
    (NODE, "nft delete table inet egress_gateway_gateway"),
    (GATEWAY, "ip route flush table 6000"),
    (GATEWAY, "ip route flush table main"),
    (NODE, "ip route flush dev gateway0"),
    (GATEWAY, "ip rule flush"),
    (GATEWAY, "ip address flush dev host0"),
    (NODE, "ip address flush dev gateway0"),
    (GATEWAY, "ip link set host0 down"),
    (NODE, "ip link set gateway0 down"),
    (GATEWAY, "ip link set wg-6000 down"),
    (NODE, "sysctl -q -w net.ipv4.ip_forward=0"),
    (GATEWAY, "sysctl -q -w net.ipv4.ip_forward=0"),
    (GATEWAY, "sysctl -q -w net.ipv4.conf.wg-6000.forwarding=0"),
    (GATEWAY, "sysctl -q -w net.ipv4.conf.wg-6000.rp_filter=1"),
    (NODE, "ip link delete gateway0"),
    (GATEWAY, "ip link delete wg-6000"),
    (GATEWAY, "ip link set wg-6000 down; ip link set wg-6000 name other"),
    (GATEWAY, "ip link set wg-6000 down; ip link set wg-6000 name wg-7"),
    (GATEWAY, "ip route add blackhole 198.51.100.0/24"),
    (GATEWAY, "ip route add unreachable 198.51.100.0/24 table local"),
    (GATEWAY, "ip route replace blackhole default"),
    (GATEWAY, "ip route add 198.51.100.0/24 dev wg-6000"),
    (GATEWAY, "ip route add prohibit 10.0.0.0/8 table 6000"),
    (GATEWAY, "ip rule add blackhole priority 5"),
    (GATEWAY, "ip rule add from 10.0.0.0/8 priority 5 unreachable"),
    (GATEWAY, "ip rule add to 198.51.100.0/24 priority 5 unreachable"),
    (GATEWAY, "ip rule add iif wg-6000 priority 5 table 6000"),
    (GATEWAY, "ip rule add fwmark 6000 priority 5 prohibit"),
)


@boxed
def test_whatever_is_damaged_comes_back_without_a_clock() -> None:
    world, gateway, story = begin()
    pod = world.pod("pod-a")
    story.secret()
    story.pod(pod)
    with agent(gateway, story.api, resync=HOUR):
        story.listed()
        seen = attach(story, pod)
        until(lambda: seen() == SECONDARY, "served")
        intact = routing()
        for place, command in DAMAGE:
            began = time.monotonic()
            run(place, command)
            until(lambda: seen() == SECONDARY, f"served again after: {command}", seconds=60)
            print(f"{time.monotonic() - began:.2f} s: {place}: {command}")
            until(lambda: filtered(gateway), f"filters after: {command}", seconds=60)
            until(lambda: routing() == intact, f"routing after: {command}", seconds=60)
        # Without the namespace nothing is left; its name is all that anybody can take away.
        netns.delete(INSIDE)
        until(lambda: netns.exists(INSIDE), "the namespace is made again", seconds=60)
        until(lambda: seen() == SECONDARY, "served in the new namespace", seconds=60)
    assert world.internet.sources() <= HEARD


@boxed
def test_a_namespace_whose_connections_are_logged_comes_back_too() -> None:
    """The log's socket would keep the lost namespace, and its server's port."""
    world, gateway, story = begin()
    pod = world.pod("pod-a")
    story.secret()
    story.pod(pod)
    with agent(gateway, story.api, resync=HOUR):
        story.listed()
        story.logged()
        seen = attach(story, pod)
        until(lambda: seen() == SECONDARY, "served")
        netns.delete(INSIDE)
        until(lambda: netns.exists(INSIDE), "the namespace is made again", seconds=60)
        until(lambda: seen() == SECONDARY, "served in the new namespace", seconds=60)
    assert world.internet.sources() <= HEARD
