"""The pod's nftables table: the hold, and the marks of connections that came in. Text, no I/O.

The hold sits in postrouting at the very end, after every routing decision and translation (service
meshes translate inside pods), and looks only at where a packet is about to leave and where to. It
asks conntrack's mark, never the packet's: a container with NET_RAW may set the latter. Neighbour
discovery passes when the kernel speaks: its packets have a socket that belongs to no user.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from egress_gateway.api import names
from egress_gateway.datapath.addresses import ALWAYS_REFUSED, IPNetwork, collapse, within
from egress_gateway.datapath.linux.nft import amend
from egress_gateway.datapath.linux.sockets import UDP
from egress_gateway.datapath.pod.origins import Origins

TABLE: Final = "egress_gateway"
COUNTER: Final = "held"
MARK: Final = 0x1000_0000
"""Bit of the packet's and the connection's mark: came in by an ordinary link, goes back so.
Other bits are left alone, for those who share the namespace."""
LINKS: Final = names.TUNNEL_LINKS
"""The two tunnels that a pod can have. Mostly there is one; the second is there while a planned
move lets connections finish where they began."""
LEGS: Final = 0x0300_0000
LEG: Final = {"wg0": 0x0100_0000, "wg1": 0x0200_0000}
"""Bits of the connection's mark: the tunnel that its last packet left by."""
WITHIN_KINDS: Final = ("tun", "wireguard")
"""Kinds of links that lead to a program or an encapsulation inside the pod, whose own packets meet
the hold in their turn. Only who has NET_ADMIN makes such links (see the hold's limit)."""
NESTED_KIND: Final = "bridge"
"""Kind of link that leads to containers or virtual machines inside the pod (Docker, KubeVirt). What
they send on meets the hold in its turn. Somebody may make a port of ``eth0``, so nothing but
networks of ``NESTED`` counts as inside."""
NESTED: Final[tuple[IPNetwork, ...]] = tuple(
    ipaddress.ip_network(n)
    for n in ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
"""Private networks (RFC 1918, 6598, 4193)."""
SEEDED: Final = ("inbound4", "inbound6", "opened4", "opened6", "unclear_ports", "unclear_protocols")
"""Sets that hold what is known of connections older than the table (see ``origins``); re-applying
leaves them as they are."""

_UNCLEAR_PROTOCOLS: Final = "0, 2-5, 7-16, 18-57, 59-255"
"""All but ICMP, TCP, UDP and ICMPv6."""
_EVERYTHING: Final[tuple[IPNetwork, ...]] = (
    ipaddress.IPv4Network("0.0.0.0/0"),
    ipaddress.IPv6Network("::/0"),
)


_IP: Final[Mapping[int, str]] = {4: "ip", 6: "ip6"}


@dataclass(frozen=True, slots=True)
class Split:
    """Who carries which destination: ``direct`` wins over ``tunneled`` where both match."""

    direct: tuple[IPNetwork, ...]
    tunneled: tuple[IPNetwork, ...]


@functools.lru_cache(maxsize=1024)
def split(
    *,
    default_route: bool,
    excluded: tuple[IPNetwork, ...],
    exceptions: tuple[IPNetwork, ...],
) -> Split:
    """The meaning of ``defaultRoute``, ``excludeCidrs`` and the node's exceptions. What gateways
    refuse is always direct: the node's own DNS (169.254.10.11 with AKS's LocalDNS) must work, and
    so must neighbour discovery."""
    always = [*exceptions, *ALWAYS_REFUSED]
    direct = collapse([*always, *excluded] if default_route else always)
    wanted = _EVERYTHING if default_route else collapse(excluded)
    # Routes prefer the longer prefix, and know one route per prefix: what lies inside a direct
    # network must not be among the tunnelled ones at all.
    tunneled = (n for n in wanted if not any(within(n, d) for d in direct))
    return Split(direct, tuple(tunneled))


@functools.lru_cache(maxsize=1024)
def render(destinations: Split, *, kept: str | None = None, leaves: bool = True) -> str:
    """The table. Connections that left by the tunnel ``kept`` are routed to it again, wherever
    the others go; without ``leaves`` what comes in by it is taken, and nothing leaves by it."""
    ours = ", ".join(f'"{link}"' for link in ("lo", *LINKS))
    within = ", ".join(f'"{kind}"' for kind in WITHIN_KINDS)
    legs = "\n".join(f'    oifname "{link}" goto by_{link}' for link in LINKS)
    stay = _stay(kept) if kept and leaves else ""
    taken = _taken(kept) if kept and not leaves else ""
    return f"""\
table inet {TABLE} {{
  counter {COUNTER} {{ }}
{_networks("direct", destinations.direct)}
{_networks("tunneled", destinations.tunneled)}
  set inbound4 {{ type ipv4_addr . inet_service . inet_service; }}
  set inbound6 {{ type ipv6_addr . inet_service . inet_service; }}
  set opened4 {{ type inet_proto . ipv4_addr . inet_service . inet_service; }}
  set opened6 {{ type inet_proto . ipv6_addr . inet_service . inet_service; }}
  set unclear_ports {{ type inet_service; }}
  set unclear_protocols {{ type inet_proto; flags interval; }}
  chain arriving {{
    type filter hook prerouting priority mangle; policy accept;
    iifname != {{ {ours} }} ct direction original ct mark & {MARK:#x} == 0 jump begun
    ct mark & {MARK:#x} == {MARK:#x} meta mark set meta mark | {MARK:#x}
{stay}{taken}  }}
  chain begun {{
    fib daddr type != local return
    meta l4proto tcp goto begun_tcp
    meta l4proto . ip saddr . th sport . th dport @opened4 return
    meta l4proto . ip6 saddr . th sport . th dport @opened6 return
    udp dport @unclear_ports return
    meta l4proto @unclear_protocols return
    ct mark set ct mark | {MARK:#x}
  }}
  chain begun_tcp {{
    ct state new tcp flags & (fin | syn | rst | ack) == syn ct mark set ct mark | {MARK:#x} return
    ip saddr . tcp sport . ct reply proto-src @inbound4 ct mark set ct mark | {MARK:#x}
    ip6 saddr . tcp sport . ct reply proto-src @inbound6 ct mark set ct mark | {MARK:#x}
  }}
  chain routing {{
    type route hook output priority mangle; policy accept;
    ct mark & {MARK | LEGS:#x} == 0 jump seeded
    ct mark & {MARK:#x} == {MARK:#x} meta mark set meta mark | {MARK:#x}
{stay}  }}
  chain seeded {{
    ip daddr . tcp dport . tcp sport @inbound4 ct mark set ct mark | {MARK:#x}
    ip6 daddr . tcp dport . tcp sport @inbound6 ct mark set ct mark | {MARK:#x}
  }}
{_notes()}
  chain neighbours {{
    meta skuid 0-4294967295 return
    ip6 hoplimit 255 accept
  }}
  chain hold {{
    type filter hook postrouting priority 300; policy accept;
    oifname "lo" accept
{legs}
    ct mark & {MARK:#x} == {MARK:#x} accept
    meta oifkind {{ {within} }} accept
    meta oifkind "{NESTED_KIND}" ip daddr {{ {_listed(4, NESTED)} }} accept
    meta oifkind "{NESTED_KIND}" ip6 daddr {{ {_listed(6, NESTED)} }} accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} jump neighbours
    ip daddr @direct4 accept
    ip6 daddr @direct6 accept
{_held(4, destinations)}
{_held(6, destinations)}
  }}
}}
"""


def _held(family: Literal[4, 6], destinations: Split) -> str:
    """Where everything is the gateway's that is not direct, nothing that the kernel finds or does
    not find in a set lets a packet go."""
    everything = any(n.version == family and n.prefixlen == 0 for n in destinations.tunneled)
    which = f"{_IP[family]} daddr @tunneled{family}"
    which = f"meta nfproto ipv{family}" if everything else which
    return f'    {which} counter name "{COUNTER}" drop'


def _stay(link: str) -> str:
    leg = LEG[link]
    return f"    ct mark & {LEGS:#x} == {leg:#x} meta mark set meta mark | {leg:#x}\n"


def _taken(link: str) -> str:
    """Its routes are found by the mark, so that a strict reverse path check (rp_filter) passes."""
    return f'    iifname "{link}" meta mark set meta mark | {LEG[link]:#x}\n'


def _notes() -> str:
    """Every connection's mark says which tunnel it uses, long before a move needs to know."""
    others = 0xFFFF_FFFF & ~LEGS
    return "\n".join(
        f"  chain by_{link} {{\n    ct mark & {LEGS:#x} == {leg:#x} accept\n"
        f"    ct mark set ct mark & {others:#x} | {leg:#x} accept\n  }}"
        for link, leg in LEG.items()
    )


def replacement(ruleset: str, origins: Origins, listing: Sequence[Mapping[str, Any]] | None) -> str:
    """``ruleset`` as a transaction. The table that is there (None: none is) keeps its counter and
    what is known of older connections."""
    sets = [f"{kind}{family}" for kind in ("direct", "tunneled") for family in (4, 6)]
    base = ruleset if listing is None else amend(TABLE, sets, ruleset, listing)
    return "\n".join([base, seeds(origins)]) + "\n"


def amendment(before: Origins, after: Origins) -> str:
    """From ``before`` to ``after``, which says more."""
    more = Origins(
        accepted=after.accepted - before.accepted,
        opened=after.opened - before.opened,
        ports=after.ports - before.ports,
        older=after.older and not before.older,
    )
    refuted = seeds(Origins(accepted=before.accepted - after.accepted)).replace("add ", "delete ")
    return "\n".join([refuted, seeds(more)])


def seeds(origins: Origins) -> str:
    """Elements of the table's sets for connections that are older than the table."""
    elements: dict[str, list[str]] = {}
    for flow in origins.accepted:
        key = f"{flow.remote} . {flow.remote_port} . {flow.local_port}"
        elements.setdefault(f"inbound{flow.remote.version}", []).append(key)
    for flow in (flow for flow in origins.opened if flow.protocol == UDP):
        key = f"udp . {flow.remote} . {flow.remote_port} . {flow.local_port}"
        elements.setdefault(f"opened{flow.remote.version}", []).append(key)
    if origins.ports:
        elements["unclear_ports"] = [str(port) for port in sorted(origins.ports)]
    if origins.older:
        elements["unclear_protocols"] = [_UNCLEAR_PROTOCOLS]
    return "\n".join(
        f"add element inet {TABLE} {name} {{ {', '.join(keys)} }}"
        for name, keys in elements.items()
    )


def _listed(family: Literal[4, 6], networks: Iterable[IPNetwork]) -> str:
    return ", ".join(str(network) for network in networks if network.version == family)


def _networks(name: str, networks: Iterable[IPNetwork]) -> str:
    kept = list(networks)
    families: tuple[Literal[4, 6], ...] = (4, 6)
    return "\n".join(
        f"  set {name}{version} {{ type ipv{version}_addr; flags interval;"
        f"{_elements(_listed(version, kept))} }}"
        for version in families
    )


def _elements(joined: str) -> str:
    return f" elements = {{ {joined} }}" if joined else ""
