"""On the node: what comes out of an attached pod's link, whatever wrote it.

The hold in the pod sees what its IP stack sends. A raw frame (AF_PACKET, which NET_RAW allows)
passes it by, so the node's end of the link asks the same once more, where the pod has no hand:

- a source that is neither the pod's nor routed to its link is dropped, before connection tracking
  hears of it. Otherwise a pod could make up an inbound connection, and then answer it;
- what goes to a destination of the gateway's passes only as a reply of a connection that the node's
  connection tracking saw coming in;
- no other pod of the node makes up such a connection: whoever sends to the attached pod has no
  source beyond the gateway, unless his link leads there;
- nor does one speak in its name to a destination of the gateway's, whose answers would be such
  connections. A bridge does not tell whose port an address is behind: there, the answers are
  dropped at the attached pod's port, since the pod itself began none that they could be for.

A rule must not outlive its pod, even when no agent is there to remove it. So each names the link's
index, its name and the pod's address, and holds where all three agree. Neither alone would do:
kernels bind chains of the ``netdev`` family to the next link of the same name (from 6.16 on), some
CNIs name a link after its pod, and a link that was made in a pod's namespace keeps its small index
when it is moved.

Ports of a bridge are looked at by the bridge's own hook, which marks what is the gateway's:
connection tracking comes after it. What the bridge itself carries to another port (its uplink, say)
is never tracked: that passes only to whoever has sent to the pod across the bridge. eBPF that takes
packets from the link without the node's stack passes all of this by, and so do links that are no
veth.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import logging
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from egress_gateway.datapath.addresses import IPAddress, IPNetwork
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux.link import Links
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.nft import Nftables
from egress_gateway.datapath.pod.ruleset import Split

log = logging.getLogger(__name__)

TABLE: Final = "egress_gateway_links"
FORGED: Final = "forged_source"
LEAVING: Final = "around_gateway"
MARK: Final = 0x1000
"""Bit of a packet's mark that tells a later hook, which takes it off: from a bridge's hook to the
one of IP, that the packet leaves for a destination of the gateway; from there to the end (of a
bridge's hook, where it goes to a bridge), that no route leads back to where it came from, or that
it is an answer (on a bridge, whose hook sees addresses that are translated back). ICMP errors are
none: routers on the way to a direct destination have addresses of any kind. Others use 0xffff0000
(Calico's IptablesMarkMask; Cilium, a pod's identity), 0xf00 (Cilium), 0x2000 (CNI's portmap),
0x4000 and 0x8000 (Kubernetes)."""
_OTHERS: Final = 0xFFFF_FFFF & ~MARK

_DESTINATIONS: Final = "to_"
"""How names of chains begin that tell destinations apart; the rest is of what they say."""

Family = Literal["inet", "bridge"]
_FAMILIES: Final[tuple[Family, ...]] = ("inet", "bridge")

_SETS: Final = """\
  set links { type iface_index . ifname; }
  set own4 { type iface_index . ifname . ipv4_addr; }
  set own6 { type iface_index . ifname . ipv6_addr; }
  map pods4 { type iface_index . ifname . ipv4_addr : verdict; }
  map pods6 { type iface_index . ifname . ipv6_addr : verdict; }
  map behind4 { type iface_index . ipv4_addr : verdict; }
  map behind6 { type iface_index . ipv6_addr : verdict; }
"""
# Who has sent to which pod across a bridge. The kernel could track such connections, but then would
# do so for all bridges, and before others' rules that say what not to track (NodeLocal DNSCache).
_INBOUND: Final = """\
  set inbound4 { type ipv4_addr . ipv4_addr; flags dynamic, timeout; timeout 2h; size 65536; }
  set inbound6 { type ipv6_addr . ipv6_addr; flags dynamic, timeout; timeout 2h; size 65536; }
"""
# Link-local sources go no further than the link; "::" asks whether an address is free (RFC 4862).
_LOCAL: Final = """\
    ip6 saddr fe80::/10 return
    ip6 saddr :: ip6 daddr ff02::/16 return
"""
_LIKE_PODS: Final = 'meta iifkind { "veth", "bridge" }'
"""Links that pods have; others may bring anything, whatever routes they have."""
_ON_BRIDGES: Final = '{ "bridge", "vlan" }'
"""Kinds of links by which IP comes from a bridge and goes to one."""
_IS_MARKED: Final = f"meta mark & {MARK:#x} == {MARK:#x}"
_UNMARK: Final = f"meta mark set meta mark & {_OTHERS:#x}"
_BASE: Final[Mapping[Family, str]] = {
    # Linux never tracks neighbour discovery and multicast listener discovery (MLD), whatever such
    # packets carry and wherever they go (nf_conntrack_proto_icmpv6.c). A node that tracks nothing
    # of a pod cannot tell replies, and lets the rest pass.
    "inet": f"""\
table inet {TABLE} {{
  counter {FORGED} {{ }}
  counter {LEAVING} {{ }}
{_SETS}  chain sources {{
    type filter hook prerouting priority raw - 10; policy accept;
    iif . iifname @links jump source
  }}
  chain source {{
    iif . iifname . ip saddr @own4 return
    iif . iifname . ip6 saddr @own6 return
{_LOCAL}    fib saddr . iif oif exists return
    counter name {FORGED} drop
  }}
  chain destinations {{
    type filter hook prerouting priority mangle + 10; policy accept;
    iif . iifname . ip saddr vmap @pods4
    iif . iifname . ip6 saddr vmap @pods6
    {_IS_MARKED} meta iifkind {_ON_BRIDGES} {_UNMARK} goto leaving
    ct state new {_LIKE_PODS} fib saddr . iif oif missing goto strangers
  }}
  chain strangers {{
    meta mark set meta mark | {MARK:#x}
    fib saddr oif . ip saddr vmap @behind4
    fib saddr oif . ip6 saddr vmap @behind6
  }}
  chain arriving {{
    type filter hook postrouting priority filter - 10; policy accept;
    ct state established ct direction reply meta oifkind {_ON_BRIDGES} \
meta mark set meta mark | {MARK:#x}
    {_IS_MARKED} jump arrived
  }}
  chain arrived {{
    meta oifkind {_ON_BRIDGES} return
    {_UNMARK}
    oif . oifname . ip daddr vmap @pods4
    oif . oifname . ip6 daddr vmap @pods6
  }}
  chain leaving {{
    meta l4proto != ipv6-icmp ct state untracked return
    ct direction reply return
    counter name {LEAVING} drop
  }}
}}
""",
    "bridge": f"""\
table bridge {TABLE} {{
  counter {FORGED} {{ }}
  counter {LEAVING} {{ }}
{_SETS}{_INBOUND}  chain sources {{
    type filter hook prerouting priority -310; policy accept;
    iif . iifname @links jump source
  }}
  chain source {{
    iif . iifname . ip saddr @own4 goto pods
    iif . iifname . ip6 saddr @own6 goto pods
    iif . iifname . arp saddr ip @own4 return
{_LOCAL}    counter name {FORGED} drop
  }}
  chain pods {{
    iif . iifname . ip saddr vmap @pods4
    iif . iifname . ip6 saddr vmap @pods6
  }}
  chain arriving {{
    type filter hook forward priority filter; policy accept;
    iif . iifname @links {_IS_MARKED} goto carried
    iif . iifname != @links {_LIKE_PODS} jump arrived
    oif . oifname . ip daddr @own4 update @inbound4 {{ ip saddr . ip daddr }}
    oif . oifname . ip6 daddr @own6 update @inbound6 {{ ip6 saddr . ip6 daddr }}
  }}
  chain carried {{
    ip daddr . ip saddr @inbound4 return
    ip6 daddr . ip6 saddr @inbound6 return
    counter name {LEAVING} drop
  }}
  chain routed {{
    type filter hook output priority filter; policy accept;
    {_IS_MARKED} {_UNMARK} jump arrived
  }}
  chain arrived {{
    oif . oifname . ip daddr vmap @pods4
    oif . oifname . ip6 daddr vmap @pods6
  }}
  chain leaving {{
    meta mark set meta mark | {MARK:#x}
  }}
}}
""",  # noqa: S608 (no SQL)
}


class HostEnd(msgspec.Struct, frozen=True):
    """The node's end of a pod's link. ``bridged``: it is a port of a bridge."""

    index: int
    name: str
    bridged: bool = False

    @property
    def families(self) -> tuple[Family, ...]:
        """Of the tables that look at it; the first has its elements."""
        return ("bridge", "inet") if self.bridged else ("inet",)


class _Rule(msgspec.Struct, frozen=True):
    """The entry of a link: its pod's addresses, and the chain of its destinations."""

    addresses: frozenset[IPAddress]
    chain: str


class LinkGuard:
    """The rules of a node. Thread-safe. Call ``sync`` regularly to repair them."""

    def __init__(self, node: NetNS | None = None) -> None:
        self._node = node or NetNS.current()
        self._nft = Nftables(self._node)
        self._lock = threading.Lock()
        self._rules: dict[HostEnd, _Rule] = {}
        self._found: dict[HostEnd, _Rule] | None = None
        """What an earlier agent has left, until its pod is looked at; None: not looked for yet."""
        self._splits: dict[str, Split] = {}
        self._made: set[tuple[Family, str]] = set()
        """Tables, and chains in them."""
        self.unguarded: set[Path] = set()
        """Namespaces of pods that raw frames may leave."""

    def holds(self, end: HostEnd, addresses: Collection[IPAddress], split: Split) -> bool:
        """Whether this object has made the link so."""
        with self._lock:
            return self._rules.get(end) == _Rule(frozenset(addresses), _name(split))

    def hold(self, end: HostEnd, addresses: Collection[IPAddress], split: Split) -> None:
        """What comes out of the link is held from now on. Raises ``DatapathError`` where the kernel
        cannot do it."""
        rule = _Rule(frozenset(addresses), _name(split))
        with self._lock:
            left = self._left()
            self._splits[rule.chain] = split
            lines = [_BASE[f] for f in end.families if (f, TABLE) not in self._made]
            family = end.families[0]
            if (family, rule.chain) not in self._made:
                lines.append(_chain(family, rule.chain, split))
            before = left.pop(end, None) or self._rules.get(end)
            self._rules[end] = rule
            try:
                lines += _elements("delete", end, before) if before else []
                self._nft.apply("\n".join([*lines, *_elements("add", end, rule)]))
            except DatapathError:
                self._make_anew(end)
            self._made |= {(f, TABLE) for f in end.families} | {(family, rule.chain)}

    def release(self, end: HostEnd) -> None:
        """What comes out of the link passes again."""
        with self._lock:
            known = self._left().pop(end, None) or self._rules.pop(end, None)
            self._rules.pop(end, None)
            if known is None:
                return
            try:
                self._nft.apply("\n".join(_elements("delete", end, known)))
            except DatapathError:
                self._make_anew(end)

    def _make_anew(self, end: HostEnd) -> None:
        """The table differs from what we believed. An index is one link's: what has another name is
        of one that is gone."""
        for rules in (self._rules, self._left()):
            for gone in [e for e in rules if e.index == end.index and e != end]:
                del rules[gone]
        try:
            for family in end.families:
                self._replace(family)
        except DatapathError:
            self._rules.pop(end, None)
            raise

    def note(self, pod: Path, *, found: bool, error: str = "") -> None:
        """Whether the node's end of the pod's link can be held, and what the kernel said."""
        if found:
            self.unguarded.discard(pod)
        elif pod not in self.unguarded:
            self.unguarded.add(pod)
            log.warning(
                "cannot hold the node's end of a pod's link: raw frames of the pod may leave "
                "around its gateway; drop NET_RAW there",
                extra={"netns": str(pod), "error": error or "it is no veth of the node's"},
            )

    def sync(self, attached: Collection[IPAddress]) -> bool:
        """Repairs damaged rules, and removes entries of links that are gone, and those that an
        earlier agent made for pods that are not ``attached``. Returns whether it changed
        something."""
        with self._lock:
            found = self._left()
            names = self._links()
            self.unguarded = {pod for pod in self.unguarded if pod.exists()}
            for end in [end for end in found if not found[end].addresses & {*attached}]:
                del found[end]
            for rules in (self._rules, found):
                for end in [end for end in rules if names.get(end.index) != end.name]:
                    del rules[end]
            used = {rule.chain for rule in (*self._rules.values(), *found.values())}
            self._splits = {name: split for name, split in self._splits.items() if name in used}
            return any([self._repair(family, names) for family in _FAMILIES])

    def counters(self) -> dict[str, int]:
        """Packets that were dropped, by reason."""
        found = dict.fromkeys((FORGED, LEAVING), 0)
        with self._lock:
            families = {family for family, _ in self._made}
        for family in families:
            for name in found:
                found[name] += self._nft.counter(family, TABLE, name) or 0
        return found

    def _links(self) -> dict[int, str]:
        with Links(self._node) as links:
            return {link.index: link.name for link in links.links().values()}

    def _left(self) -> dict[HostEnd, _Rule]:
        """What an earlier agent has left holds on until its pod is looked at."""
        if self._found is None:
            self._found, names = {}, self._links()
            tables = [(f, listing) for f in _FAMILIES if (listing := self._table(f)) is not None]
            for family, listing in tables:
                # A later version's may have any form: what we cannot read waits for its pod's pass.
                with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
                    self._splits |= _splits(listing)
                    rules = _rules(listing, family, names).items()
                    self._found |= {
                        end: rule
                        for end, rule in rules
                        if rule.chain in self._splits and names.get(end.index) == end.name
                    }
            for family, listing in tables:  # NB: one is needed for what the other says
                if _is_whole(listing, family, {}):
                    self._made.add((family, TABLE))
                else:
                    self._replace(family)
        return self._found

    def _table(self, family: Family) -> list[dict[str, Any]] | None:
        try:
            return self._nft.table(family, TABLE)
        except DatapathError:
            return None  # a kernel without this family has no such table

    def _repair(self, family: Family, names: Mapping[int, str]) -> bool:
        rules, chains = self._wanted(family)
        needed = any(family in end.families for end in (*self._rules, *self._left()))
        listing = self._table(family)
        if listing is None and not needed:
            return False
        whole = listing is not None and needed and _is_whole(listing, family, chains)
        if whole and _rules(listing or [], family, names) == rules:
            self._tidy(family, listing or [], chains)
            return False
        self._replace(family)
        return True

    def _wanted(self, family: Family) -> tuple[dict[HostEnd, _Rule], dict[str, Split]]:
        """Of links, and the chains that they lead to."""
        rules = {e: r for e, r in (self._left() | self._rules).items() if e.families[0] == family}
        return rules, {rule.chain: self._splits[rule.chain] for rule in rules.values()}

    def _tidy(self, family: Family, listing: list[dict[str, Any]], used: Collection[str]) -> None:
        """Deletes chains of destinations that no link leads to any more."""
        found = {item["chain"]["name"] for item in listing if "chain" in item}
        unused = sorted(name for name in found - {*used} if name.startswith(_DESTINATIONS))
        if unused:
            self._nft.apply("\n".join(f"delete chain {family} {TABLE} {n}" for n in unused))
            self._made -= {(family, name) for name in unused}

    def _replace(self, family: Family) -> None:
        """The whole table, in one step: what an earlier agent's holds is held by this one's."""
        rules, chains = self._wanted(family)
        needed = any(family in end.families for end in (*self._rules, *self._left()))
        lines = [f"add table {family} {TABLE}", f"delete table {family} {TABLE}"]
        lines += [_BASE[family]] if needed else []
        lines += [_chain(family, name, split) for name, split in chains.items()]
        lines += [line for end, rule in rules.items() for line in _elements("add", end, rule)]
        self._nft.apply("\n".join(lines))
        self._made = {(f, name) for f, name in self._made if f != family}
        self._made |= {(family, name) for name in (TABLE, *chains)} if needed else set()


def host_end(interface: str, pod: NetNS, node: NetNS) -> HostEnd | None:
    """The node's end of the pod's link; None if it is no veth, or leads elsewhere. A pod with
    NET_ADMIN can name any link as the other end of its own. So we ask the kernel whether that link
    is in the node's namespace, and whether its other end is the pod's."""
    with Links(pod) as inside, Links(node) as outside:
        link = inside.link(interface)
        if link is None or link.kind != "veth" or link.peer_netns != inside.namespace_id(node):
            return None
        end = outside.at(link.peer)
        if end is None or end.kind != "veth" or end.peer != link.index:
            return None
        if end.peer_netns != outside.namespace_id(pod):
            return None
        return HostEnd(end.index, end.name, end.bridged)


def _name(split: Split) -> str:
    """Of the chain; at most 128 characters (NFT_NAME_MAXLEN)."""
    return _DESTINATIONS + hashlib.sha256(repr(split).encode()).hexdigest()[:16]


def _steps(split: Split) -> list[str]:
    """First of what arrives at the pod, by its source. What leaves has no next link yet."""
    arrives = "oif . oifname @links"
    return [
        *_verdicts(split, f"{arrives} ", "saddr", f"counter name {FORGED} drop"),
        f"{arrives} return",
        *_verdicts(split, "", "daddr", "goto leaving"),
    ]


def _verdicts(split: Split, which: str, end: str, last: str) -> list[str]:
    return [
        f"{which}{ip} {end} {{ {', '.join(found)} }} {verdict}"
        for networks, verdict in ((split.direct, "return"), (split.tunneled, last))
        for version, ip in ((4, "ip"), (6, "ip6"))
        if (found := [str(n) for n in networks if n.version == version])
    ]


def _chain(family: Family, name: str, split: Split) -> str:
    """Flushed first, so that another agent's chain of this name is no trouble."""
    rules = [f"add rule {family} {TABLE} {name} {step}" for step in _steps(split)]
    chain = f"chain {family} {TABLE} {name}"
    return "\n".join([f"add {chain}", f"flush {chain}", *rules])


def _elements(verb: str, end: HostEnd, rule: _Rule) -> list[str]:
    link = f'{end.index} . "{end.name}"'
    where = f"{verb} element {end.families[0]} {TABLE}"
    lines = [f"{where} links {{ {link} }}"]
    for address in sorted(rule.addresses, key=str):
        key = f"{link} . {address}"
        lines.append(f"{where} own{address.version} {{ {key} }}")
        lines.append(f"{where} pods{address.version} {{ {key} : goto {rule.chain} }}")
        behind = f"{end.index} . {address}"
        lines.append(f"{where} behind{address.version} {{ {behind} : goto {rule.chain} }}")
    return lines


def _is_whole(listing: list[dict[str, Any]], family: Family, chains: Mapping[str, Split]) -> bool:
    """Whether sets and rules are those of this version, as far as numbers of them tell."""
    found: dict[str, int] = {}
    for item in listing:
        if "rule" in item:
            name = item["rule"]["chain"]
            found[name] = found.get(name, 0) + 1
    base = {name: n for name, n in found.items() if not name.startswith(_DESTINATIONS)}
    if base != _RULES[family]:
        return False
    return all(found.get(name, 0) == len(_steps(split)) for name, split in chains.items())


_COMMON: Final = {"sources": 1, "source": 6}
_RULES: Final[Mapping[Family, dict[str, int]]] = {
    "inet": _COMMON
    | {"destinations": 4, "strangers": 3, "arriving": 2, "arrived": 4, "leaving": 3},
    "bridge": _COMMON
    | {"pods": 2, "arriving": 4, "carried": 3, "routed": 1, "arrived": 2, "leaving": 1},
}


def _splits(listing: list[dict[str, Any]]) -> dict[str, Split]:
    """What chains of destinations say, by their names, whichever version wrote them."""
    found: dict[str, tuple[list[IPNetwork], list[IPNetwork]]] = {}
    for rule in (item["rule"] for item in listing if "rule" in item):
        if not rule["chain"].startswith(_DESTINATIONS):
            continue
        for step in rule["expr"]:
            match step:
                case {"match": {"left": {"payload": {"field": "daddr"}}, "right": right}}:
                    which = found.setdefault(rule["chain"], ([], []))["goto" in rule["expr"][-1]]
                    which.extend(_networks(right))
    return {name: Split(*map(tuple, networks)) for name, networks in found.items()}


def _networks(value: Any) -> Iterator[IPNetwork]:
    match value:
        case {"set": [*parts]}:
            for part in parts:
                yield from _networks(part)
        case {"prefix": {"addr": address, "len": length}}:
            yield ipaddress.ip_network(f"{address}/{length}")
        case {"range": [first, last]}:
            ends = ipaddress.ip_address(first), ipaddress.ip_address(last)
            yield from ipaddress.summarize_address_range(*ends)
        case str():
            yield ipaddress.ip_network(value)


def _rules(
    listing: list[dict[str, Any]], family: Family, names: Mapping[int, str]
) -> dict[HostEnd, _Rule]:
    """What a listing says of links, as far as its sets agree with one another. nft shows an index
    that is some link's as that link's name."""
    indices = {name: index for index, name in names.items()}
    bridged = family == "bridge"
    found: dict[str, dict[HostEnd, set[IPAddress]]] = {}
    chains: dict[HostEnd, str] = {}
    for declared in (item.get("set") or item.get("map", {}) for item in listing):
        kinds = declared.get("type", [])
        if kinds[:1] != ["iface_index"]:
            continue
        ends = found.setdefault(declared.get("name", "").rstrip("46"), {})
        for element in declared.get("elem", []):
            key, verdict = element if isinstance(element, list) else (element, {})
            link, *address = key["concat"]
            index = link if isinstance(link, int) else indices.get(link, 0)
            name = address.pop(0) if kinds[1] == "ifname" else names.get(index, "")
            end = HostEnd(index, name, bridged)
            ends.setdefault(end, set()).update(map(ipaddress.ip_address, address))
            if verdict:
                chains[end] = verdict["goto"]["target"]
    links, own, pods = (found.get(name, {}) for name in ("links", "own", "pods"))
    behind = found.get("behind", own)  # earlier versions had none
    return {
        end: _Rule(frozenset(own.get(end, ())), chains.get(end, ""))
        if end in links and own.get(end) == pods.get(end) == behind.get(end)
        else _Rule(frozenset(), "")
        for end in {*links, *own, *pods, *behind}
    }
