"""On a gateway node: translated packets bypass the node's FORWARD rules.

Docker, and people who harden nodes, let FORWARD drop unknown packets, with iptables of either kind
or with nftables. An ``accept`` of ours ends only our own table. So our rules hand packets between
the pair of links and the uplink over at ingress, before the kernel evaluates any of those rules
(nft(8), ``fwd``). This is a shortcut and not a filter. A packet takes the ordinary path if its
destination is near (the node's own addresses, and networks with routes of their own), if its hop
limit is used up, or if the kernel has no ``fwd``.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from egress_gateway.datapath.addresses import (
    ECHO_ADDRESS,
    ECHO_ADDRESS6,
    IPAddress,
    IPNetwork,
    collapse,
)
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.gateway.ruleset import NODE_LINK, NODE_TABLE
from egress_gateway.datapath.gateway.served import Family
from egress_gateway.datapath.linux.link import MAIN, Route
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.nft import Nftables, fingerprint

log = logging.getLogger(__name__)

_GONE: Final = f"add table netdev {NODE_TABLE}\ndelete table netdev {NODE_TABLE}\n"
_WORDS: Final[dict[Family, tuple[str, str]]] = {4: ("ip", "ip ttl"), 6: ("ip6", "ip6 hoplimit")}


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """The one default route of a family: its link, and the router on it."""

    device: str
    router: IPAddress


def default_routes(routes: Iterable[Route]) -> dict[Family, DefaultRoute]:
    """By family; none where there is no default route with a router, or several. Pure."""
    found: dict[Family, DefaultRoute] = {}
    defaults = [r for r in routes if r.table == MAIN and r.destination.prefixlen == 0]
    for family in _WORDS:
        here = [r for r in defaults if r.destination.version == family]
        if len(here) == 1 and here[0].device and here[0].gateway:
            found[family] = DefaultRoute(here[0].device, here[0].gateway)
    return found


def ruleset(
    secondaries: Mapping[IPAddress, IPAddress],
    routes: Iterable[Route],
    own: Iterable[IPAddress],
) -> str | None:
    """The table; None if nothing can take the shortcut. Pure.

    ``secondaries``: each with the inner end of the pair that its packets go to; ``routes``: the
    node's main table; ``own``: the node's addresses.
    """
    known = [r for r in routes if r.device != NODE_LINK]
    near: list[IPNetwork] = [r.destination for r in known if r.destination.prefixlen > 0]
    for address in (*own, *secondaries, ECHO_ADDRESS, ECHO_ADDRESS6):
        near.append(ipaddress.ip_network(address))
    sets: list[str] = []
    out: list[str] = []
    back: dict[str, list[str]] = {}
    for family, way in default_routes(known).items():
        mine = {a: inner for a, inner in secondaries.items() if a.version == family}
        if not mine:
            continue
        ip, left = _WORDS[family]
        around = collapse(n for n in near if n.version == family)
        sets += [_set("secondaries", family, mine, ""), _set("near", family, around, " interval;")]
        out.append(
            f"    {ip} saddr @secondaries{family} {ip} daddr != @near{family} {left} > 1"
            f' fwd {ip} to {way.router} device "{way.device}"'
        )
        inner = next(iter(mine.values()))
        back.setdefault(way.device, []).append(
            f"    {ip} daddr @secondaries{family} {left} > 1"
            f' fwd {ip} to {inner} device "{NODE_LINK}"'
        )
    if not out:
        return None
    chains = [_chain("out", NODE_LINK, out)]
    chains += [_chain(f"back{i}", device, back[device]) for i, device in enumerate(sorted(back))]
    return "\n".join([f"table netdev {NODE_TABLE} {{", *sets, *chains, "}", ""])


def _set(name: str, family: Family, elements: Iterable[object], flags: str) -> str:
    joined = ", ".join(str(element) for element in elements)
    given = f" elements = {{ {joined} }}" if joined else ""
    kind = f"flags{flags}" if flags else ""
    return f"  set {name}{family} {{ type ipv{family}_addr; {kind}{given} }}"


def _chain(name: str, device: str, rules: Iterable[str]) -> str:
    hook = f'type filter hook ingress device "{device}" priority 0; policy accept;'
    return "\n".join([f"  chain {name} {{", f"    {hook}", *rules, "  }"])


class Shortcut:
    """The table in the node's namespace. Calls must take turns."""

    def __init__(self, node: NetNS) -> None:
        self._node = node
        self._nft = Nftables(node)
        # The text last applied and what the kernel made of it; and one that it refused.
        self._applied: tuple[str, str] | None = None
        self._refused: str | None = None

    def converge(self, wanted: str | None) -> bool:
        """Makes the table equal ``wanted``; returns whether it changed something. If the kernel
        refuses, logs it once; packets then take the ordinary path."""
        if wanted is None:
            return self.remove()
        try:
            return self._apply(wanted)
        except DatapathError as error:
            if wanted != self._refused:
                log.warning(
                    "packets of pods take the node's FORWARD rules: %s; load nft_fwd_netdev, or "
                    "see that these rules accept what comes from %s and goes there",
                    error,
                    NODE_LINK,
                )
            self._refused = wanted
            self.remove()  # of what was right before
            return False

    def remove(self) -> bool:
        """Takes the table away; returns whether there was one."""
        try:
            if self._nft.table("netdev", NODE_TABLE) is None:
                return False
        except DatapathError:
            return False  # a kernel that does not know such tables has none
        self._nft.apply(_GONE)
        self._applied = None
        return True

    def _apply(self, wanted: str) -> bool:
        listing = self._nft.table("netdev", NODE_TABLE)
        if self._applied == (wanted, fingerprint(listing)):
            return False
        self._nft.apply(_GONE + wanted)
        self._applied = (wanted, fingerprint(self._nft.table("netdev", NODE_TABLE)))
        return True
