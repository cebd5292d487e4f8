"""Rules that are applied once more touch no element that stays, and lean on nothing that goes.

Packets that pass at the instant of a change meet old rules whose sets have the new content. One
packet of 18,000 was lost at each tenth restart of a gateway's agent by a verdict map without a
name, which goes with its rule; a set that is emptied and filled again is, on kernels before 6.17,
empty for an instant.
"""

from __future__ import annotations

import ipaddress

import pytest

from egress_gateway.datapath.gateway.ruleset import DYNAMIC_SETS, gateway_ruleset, node_ruleset
from egress_gateway.datapath.gateway.served import ServedConfiguration, TunnelSources
from egress_gateway.datapath.gateway.side import TABLES
from egress_gateway.datapath.linux import nft
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.nft import Nftables
from egress_gateway.datapath.pod.origins import NO_ORIGINS
from egress_gateway.datapath.pod.ruleset import TABLE, render, replacement, split
from tests.datapath.box import boxed

ONE = ServedConfiguration(
    name="one",
    port=6001,
    private_key=None,
    secondary=ipaddress.IPv4Address("10.1.1.101"),
    secondary6=ipaddress.IPv6Address("fd00::101"),
    frontend=ipaddress.IPv4Address("10.1.200.4"),
    destinations=(ipaddress.IPv4Network("10.7.0.0/16"), ipaddress.IPv4Network("10.7.9.1/32")),
)
OTHER = ServedConfiguration(
    name="other", port=6002, private_key=None, secondary=ipaddress.IPv4Address("10.1.1.102")
)
NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/24", "10.0.1.0/24", "10.0.2.7/32", "192.0.2.0/25", "2001:db8::/33")
)
REFUSED = (*NETWORKS, ipaddress.ip_network("2001:db8:8000::1/128"))


def gateway(*served: ServedConfiguration, rate: int = 100) -> str:
    local = [ipaddress.ip_network("10.7.0.0/8", strict=False)]
    return gateway_ruleset(served, refused=REFUSED, local=local, rate=rate)


def node(*served: ServedConfiguration) -> str:
    return node_ruleset(
        served,
        primary=ipaddress.IPv4Address("10.1.1.4"),
        uplinks=["eth0"],
        tunnels=TunnelSources(networks=NETWORKS, handshakes=10),
    )


def pod(*excluded: str, default_route: bool = True) -> str:
    networks = tuple(ipaddress.ip_network(text) for text in excluded)
    return render(split(default_route=default_route, excluded=networks, exceptions=NETWORKS))


def changed(transaction: str) -> list[str]:
    """What it takes away, but for rules."""
    return [
        line
        for line in transaction.splitlines()
        if line.startswith(("flush", "delete")) and not line.startswith("flush table")
    ]


@boxed
def test_what_stays_is_not_touched() -> None:
    rules = Nftables(NetNS.current())
    for (table, sets), text in (
        (TABLES["gateway"], gateway(ONE, OTHER)),
        (TABLES["node"], node(ONE, OTHER)),
    ):
        rules.apply(text)
        listing = rules.table("inet", table)
        again = nft.amend(table, sets, text, listing)
        assert changed(again) == []
        rules.apply(again)
        assert nft.fingerprint(rules.table("inet", table), without=DYNAMIC_SETS) == (
            nft.fingerprint(listing, without=DYNAMIC_SETS)
        )
    for text in (
        pod(),
        pod("203.0.113.0/24", "2001:db8:1::/48"),
        pod("203.0.113.0/24", "198.51.100.7/32", "2001:db8:1::/48", default_route=False),
    ):
        rules.apply(f"add table inet {TABLE}\ndelete table inet {TABLE}\n{text}")
        listing = rules.table("inet", TABLE)
        again = replacement(text, NO_ORIGINS, listing)
        assert changed(again) == []
        rules.apply(again)
        assert nft.fingerprint(rules.table("inet", TABLE)) == nft.fingerprint(listing)


@boxed
def test_what_differs_becomes_as_if_made_anew() -> None:
    rules = Nftables(NetNS.current())

    def made(table: str, text: str) -> str:
        rules.apply(f"add table inet {table}\ndelete table inet {table}\n{text}")
        return nft.fingerprint(rules.table("inet", table), without=DYNAMIC_SETS)

    def amended(table: str, sets: tuple[str, ...], before: str, after: str) -> str:
        made(table, before)
        rules.apply(nft.amend(table, sets, after, rules.table("inet", table)))
        return nft.fingerprint(rules.table("inet", table), without=DYNAMIC_SETS)

    for (table, sets), states in (
        (TABLES["gateway"], [gateway(), gateway(ONE), gateway(OTHER), gateway(ONE, OTHER, rate=0)]),
        (TABLES["node"], [node(), node(ONE), node(ONE, OTHER)]),
    ):
        for before in states:
            for after in states:
                assert amended(table, sets, before, after) == made(table, after)
    sets = ("direct4", "direct6", "tunneled4", "tunneled6")
    swaps = [
        pod(*excluded, default_route=False)
        for excluded in (
            ("203.0.113.0/24",),
            ("203.0.112.0/20", "198.51.100.7/32"),
            ("203.0.113.128/25", "2001:db8:1::/48"),
            ("0.0.0.0/0",),
        )
    ]
    states = [pod(), pod("203.0.113.0/24"), pod("203.0.0.0/16", "2001:db8:1::/48"), *swaps]
    for before in states:
        for after in states:
            assert amended(TABLE, sets, before, after) == made(TABLE, after)


@boxed
def test_what_somebody_did_to_a_table_is_undone() -> None:
    rules = Nftables(NetNS.current())
    table, sets = TABLES["gateway"]
    text = gateway(ONE, OTHER)
    for damage in (
        "add chain inet T extra { type filter hook forward priority -9; policy drop; }",
        "add chain inet T extra\nadd rule inet T extra drop",
        "add rule inet T forward drop\nadd rule inet T input accept",
        "add set inet T extra { type ipv4_addr; }\nadd rule inet T forward ip saddr @extra drop",
        "add counter inet T extra",
        "add element inet T refused4 { 203.0.113.5-203.0.113.9 }",
        "delete element inet T secondaries4 { 10.1.1.101 }",
        'add element inet T zone_out { "wg-6099" : 77 }',
        "flush map inet T snat4",
        "flush chain inet T forward",
        "add chain inet T forward { policy accept; }",
    ):
        rules.apply(f"add table inet {table}\ndelete table inet {table}\n{text}")
        whole = nft.fingerprint(rules.table("inet", table), without=DYNAMIC_SETS)
        rules.apply(damage.replace(" T ", f" {table} "))
        assert nft.fingerprint(rules.table("inet", table), without=DYNAMIC_SETS) != whole
        rules.apply(nft.amend(table, sets, text, rules.table("inet", table)))
        assert nft.fingerprint(rules.table("inet", table), without=DYNAMIC_SETS) == whole, damage


@boxed
def test_counters_go_on_when_a_configuration_comes() -> None:
    rules = Nftables(NetNS.current())
    table, sets = TABLES["gateway"]
    counted = "counter refused { packets 7 bytes 9 }"
    rules.apply(gateway(ONE).replace("counter refused { }", counted))
    rules.apply(nft.amend(table, sets, gateway(ONE, OTHER), rules.table("inet", table)))
    assert rules.counter("inet", table, "refused") == 7


@pytest.mark.parametrize(
    "text",
    [gateway(ONE, OTHER), node(ONE, OTHER), pod(), pod("203.0.113.0/24", default_route=False)],
    ids=["gateway", "node", "pod", "pod that tunnels little"],
)
def test_no_verdict_map_goes_with_its_rule(text: str) -> None:
    assert "vmap {" not in text


def test_the_hold_of_a_default_route_ends_in_drops_that_look_nothing_up() -> None:
    hold = pod("203.0.113.0/24").split("chain hold {")[1].split("}\n}")[0]
    *_, first, second = [line.strip() for line in hold.splitlines() if line.strip(" }")]
    assert first == 'meta nfproto ipv4 counter name "held" drop'
    assert second == 'meta nfproto ipv6 counter name "held" drop'
