"""Agents of two versions meet in the node's table, at an upgrade and when it is taken back."""

from __future__ import annotations

import ipaddress

from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.nft import Nftables
from egress_gateway.datapath.pod.sources import TABLE, SourceFilter
from tests.datapath.box import boxed

WANTED = {20000: ipaddress.ip_address("10.1.1.4"), 20001: ipaddress.ip_address("fd00::4")}


@boxed
def test_an_agent_makes_the_table_of_another_version_anew() -> None:
    nft = Nftables(NetNS.current())
    for strange in (
        "set servers4 { type ipv4_addr; elements = { 10.1.1.4 }; }",
        "set sources4 { type ipv4_addr; elements = { 10.1.1.4 }; }",
        "set ports { type inet_service; flags interval; elements = { 20000-20001 }; }",
    ):
        nft.apply(f"table inet {TABLE} {{ {strange}; }}")
        sources = SourceFilter()
        assert sources.sync(WANTED) is True
        assert sources.sync(WANTED) is False
        nft.apply(f"delete table inet {TABLE}")


@boxed
def test_an_agent_of_an_earlier_version_can_read_the_table() -> None:
    """It takes elements of any set but ``ports`` and ``cookies`` for pairs, and ends otherwise."""
    sources = SourceFilter()
    sources.sync(WANTED)
    listing = Nftables(NetNS.current()).table("inet", TABLE) or []
    sets = {item["set"]["name"]: item["set"].get("elem", []) for item in listing if "set" in item}
    del sets["cookies"]
    assert sorted(sets.pop("ports")) == sorted(WANTED)
    elements = [element for held in sets.values() for element in held]
    assert len(elements) == 2 * len(WANTED) + len(sets["narrow"])
    assert len(sets["narrow"]) == 1
    for element in elements:
        _, address = element["concat"]
        assert ipaddress.ip_address(address) in WANTED.values()
