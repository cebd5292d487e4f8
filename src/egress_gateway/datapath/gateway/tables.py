"""Our nftables tables of a gateway node, and which text each of them is known to equal.

A large table takes long to list. So a table is listed only after somebody has changed the rules of
its namespace (nftables' generation), and once after each write, because the kernel words rules in
its own way.
"""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address
from typing import Any

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.gateway.ruleset import DYNAMIC_SETS
from egress_gateway.datapath.linux import nft
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.nft import Nftables, fingerprint

_Listing = list[dict[str, Any]] | None
_Generation = tuple[tuple[int, int], int]


class KeptTable:
    """The ``inet`` table ``name``, whose named sets and maps are ``sets``."""

    def __init__(self, name: str, sets: tuple[str, ...]) -> None:
        self._name = name
        self._sets = sets
        self._applied = ("", "")
        """The text last applied, and what the kernel made of it."""
        self._intact: tuple[str, _Generation] | None = None
        """The text that the table equals since this generation."""
        self._listed: tuple[_Generation | None, _Listing] = (None, None)
        """What ``apply`` need not list again."""
        self.secondaries: frozenset[IPAddress] = frozenset()
        """Addresses that the table translated to when it was last listed."""

    def text(self, namespace: NetNS, wanted: str) -> str | None:
        """The text that the table is known to equal, which is ``wanted`` or empty; None if there
        is no table."""
        rules = Nftables(namespace)
        # NB: asked first; what changes afterwards is seen next time.
        generation = _generation(namespace, rules)
        if self._intact == (wanted, generation):
            return wanted
        listing = self._list(rules)
        text, made = self._applied
        if text == wanted and fingerprint(listing, without=DYNAMIC_SETS) == made:
            self._intact = (text, generation)
            return text
        self._listed = (generation, listing)
        return None if listing is None else ""

    def apply(self, namespace: NetNS, ruleset: str, *, present: bool) -> None:
        """Makes the table equal ``ruleset``. ``present``: it is there already, and what does not
        change in it stays."""
        rules = Nftables(namespace)
        (seen, listing), self._listed = self._listed, (None, None)
        try:
            if present and seen != _generation(namespace, rules):
                listing = self._list(rules)
            rules.apply(nft.amend(self._name, self._sets, ruleset, listing) if present else ruleset)
        except DatapathError:
            if not present:
                raise
            rules.apply(f"delete table inet {self._name}\n{ruleset}")
        after = _generation(namespace, rules)
        self._applied = (ruleset, fingerprint(self._list(rules), without=DYNAMIC_SETS))
        self._intact = (ruleset, after)

    def zones(self, namespace: NetNS) -> dict[IPv4Address, int]:
        """The conntrack zone of each address, as the table has it now."""
        listing = Nftables(namespace).table("inet", self._name)
        declared = (item.get("map", {}) for item in listing or [])
        found: list[Any] = []
        for known in (m for m in declared if m.get("name") == "zone_in4"):
            found = known.get("elem", [])
        return {IPv4Address(address): int(zone) for address, zone in found}

    def _list(self, rules: Nftables) -> _Listing:
        listing = rules.table("inet", self._name)
        self.secondaries = _secondaries(listing)
        return listing


def _generation(namespace: NetNS, rules: Nftables) -> _Generation:
    return namespace.identity, rules.generation()


def _secondaries(listing: _Listing) -> frozenset[IPAddress]:
    """The secondary addresses that a filter found in place translates to."""
    sets = [item.get("set", {}) for item in listing or []]
    return frozenset(
        ipaddress.ip_address(element)
        for declared in sets
        if declared.get("name") in ("secondaries4", "secondaries6")
        for element in declared.get("elem", [])
    )
