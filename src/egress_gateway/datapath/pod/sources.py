"""On the node: outer UDP to a pod's listen port is taken from that pod's gateway alone.

All gateways of a configuration share one key. So a living gateway that the pod has left can start a
handshake and take the pod back. A new listen port at every move, and this filter, make that
impossible.

Packets from such a port keep it: a rule maps the port to itself before the node's masquerade rules
run. At a port that these choose, the gateway's packets would come in only while connection tracking
remembers it, and be lost after minutes of silence. Likewise both ends' addresses stay as they
are, whatever Services say of them: a tenant can name any address and port in ``externalIPs``
(CVE-2020-8554), and would have all tunnels to a gateway led to a pod of his.

The filter also notes which ports get cookies: a gateway under load answers an initiation with one
(WireGuard's paper, 5.3), and WireGuard does not report it. A new tunnel would lose the cookie. Only
a cookie that comes from where the gateway is counts: a pod of the node may forge its address, and a
lost gateway would seem busy.

No pod reaches the WireGuard ports of these gateways. Where pods are masqueraded as their node, one
pod's flood would use up what a gateway takes from the node, and keep its other pods from the
gateway. Tunnels' own packets have an address of the node before anything masquerades. Packets are
judged where all of them leave: what kube-proxy directs to a gateway by IPVS is not forwarded.

Nobody tells the node that the path to a gateway is narrow. wireguard-go hands the kernel many
packets at once (udp(7), UDP_SEGMENT), which refuses them all if one exceeds what it has heard of
the path: bulk would stand still, for ten minutes after one forged ICMP error. As with the kernel's
WireGuard, routers cut tunnels' IPv4 packets instead. The kernel gives the packets of one batch the
numbers of another's (its Identification, RFC 791): numbers by chance keep their fragments apart.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from egress_gateway.api import names
from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.nft import Nftables

TABLE: Final = "egress_gateway_node"
FOREIGN_TUNNEL: Final = "foreign_tunnel"
"""Counter of packets from pods to gateways' WireGuard ports."""
_SERVER_PORTS: Final = f"{names.PORT_FIRST}-{names.PORT_LAST}"
_DROPPED: Final = f'fib saddr type != local counter name "{FOREIGN_TUNNEL}" drop'
_COUNTER: Final = f"counter {FOREIGN_TUNNEL} {{{{ packets {{}} bytes {{}} }}}}"
_NOTHING_COUNTED: Final = _COUNTER.format(0, 0)
_NARROW: Final = "icmp type destination-unreachable icmp code frag-needed"
"""Behind its eight octets is the packet that was too large (RFC 792). Connection tracking is not
asked for it: the kernel also believes what that does not know, as what names an idle tunnel, or
says that it was a fragment, or has options."""
_COOKIES: Final = "cookies"
_NOTED: Final = f"fib saddr . iif oif exists update @{_COOKIES} {{ udp dport }}"
_COOKIES_KEPT: Final = 0.02
"""Seconds for which an answer serves all that ask: hundreds of pods ask at once when a gateway is
lost."""
_RULESET: Final = f"""\
table inet {TABLE} {{
  set ports {{ type inet_service; }}
  set sources4 {{ type inet_service . ipv4_addr; }}
  set sources6 {{ type inet_service . ipv6_addr; }}
  set servers4 {{ type inet_proto . ipv4_addr; }}
  set servers6 {{ type inet_proto . ipv6_addr; }}
  set narrow {{ typeof @th,224,16 . @th,192,32; }}
  {_NOTHING_COUNTED}
  set {_COOKIES} {{ type inet_service; flags dynamic,timeout; timeout 8s; size 65535; }}
  chain sources {{
    type filter hook input priority -10; policy accept;
    udp dport . ip saddr @sources4 accept
    udp dport . ip6 saddr @sources6 accept
    udp dport @ports counter drop
  }}
  chain noted {{
    type filter hook prerouting priority -10; policy accept;
    udp length 72 @th,64,8 3 udp dport . ip saddr @sources4 {_NOTED}
    udp length 72 @th,64,8 3 udp dport . ip6 saddr @sources6 {_NOTED}
    {_NARROW} goto narrow
  }}
  chain narrow {{
    @th,224,16 . @th,192,32 @narrow drop
    @th,64,8 != 0x45 fib daddr type local drop
  }}
  chain strangers {{
    type filter hook postrouting priority -10; policy accept;
    udp sport @ports fib saddr type local ip id set meta random ip frag-off set 0
    udp dport {_SERVER_PORTS} meta l4proto . ip daddr @servers4 {_DROPPED}
    udp dport {_SERVER_PORTS} meta l4proto . ip6 daddr @servers6 {_DROPPED}
  }}
  chain arriving {{
    type nat hook prerouting priority dstnat - 10; policy accept;
    udp dport . ip saddr @sources4 dnat ip to ip daddr : udp dport
    udp dport . ip6 saddr @sources6 dnat ip6 to ip6 daddr : udp dport
  }}
  chain straight {{
    type nat hook output priority -110; policy accept;
    udp sport @ports fib saddr type local dnat ip to ip daddr : udp dport
    udp sport @ports fib saddr type local dnat ip6 to ip6 daddr : udp dport
  }}
  chain kept {{
    type nat hook postrouting priority srcnat - 10; policy accept;
    udp sport @ports fib saddr type local snat ip to ip saddr : udp sport
    udp sport @ports fib saddr type local snat ip6 to ip6 saddr : udp sport
  }}
}}
"""
_RULES: Final = 17


class SourceFilter:
    """The node's filter. Thread-safe. Call ``sync`` once before use, and
    regularly to repair."""

    def __init__(self, node: NetNS | None = None) -> None:
        self._nft = Nftables(node or NetNS.current())
        self._lock = threading.Lock()
        self._guard = threading.Lock()
        self._asked: dict[int, IPAddress] = {}
        self._allowed: dict[int, IPAddress] = {}
        self._stale: dict[int, IPAddress] = {}
        self._installed = False
        self._cookies: tuple[float, frozenset[int]] = (float("-inf"), frozenset())

    def cookies(self) -> frozenset[int]:
        """Ports that got a cookie in the last seconds: the gateway is there, and under load."""
        with self._guard:
            now = time.monotonic()
            if now - self._cookies[0] > _COOKIES_KEPT:
                self._cookies = (
                    now,
                    frozenset(map(int, self._nft.elements("inet", TABLE, _COOKIES))),
                )
            return self._cookies[1]

    def allow(self, port: int, source: IPAddress) -> None:
        """From now on ``port`` takes packets from ``source`` only. Whoever has to wait for
        somebody else's change goes along with the next one."""
        with self._guard:
            self._asked[port] = source
        with self._lock:
            with self._guard:
                asked, self._asked = self._asked | {port: source}, {}
            if self._installed:
                asked = {p: s for p, s in asked.items() if self._allowed.get(p) != s}
            if asked:
                self._allow(asked)

    def _allow(self, asked: Mapping[int, IPAddress]) -> None:
        lines = [] if self._installed else [_RULESET]
        for known in (self._stale, self._allowed):
            others = {p: known[p] for p, s in asked.items() if known.get(p, s) != s}
            lines += _sources("delete", others)
        lines += _elements("add", asked)
        self._nft.apply("\n".join(lines))
        self._installed = True
        for port in asked:
            self._stale.pop(port, None)
        self._allowed |= asked

    def strangers(self) -> int:
        """Packets of pods to gateways' WireGuard ports that were dropped since the table is there;
        0 if there is none."""
        return self._nft.counter("inet", TABLE, FOREIGN_TUNNEL) or 0

    def forget(self, port: int) -> None:
        """The port is no longer anyone's. The kernel hears of it at the next ``sync``: a
        deletion makes it wait for a grace period (16 ms), and a forgotten port does no harm."""
        with self._lock:
            source = self._allowed.pop(port, None)
            if source is not None:
                self._stale[port] = source

    def sync(self, wanted: Mapping[int, IPAddress] | None = None) -> bool:
        """Makes the kernel hold exactly ``wanted`` (default: what was allowed and not
        forgotten). Returns whether something had to be changed. With no port left, no table
        is left behind either."""
        with self._lock:
            if wanted is not None:
                self._allowed = dict(wanted)
            listing = self._nft.table("inet", TABLE)
            if not self._allowed:
                return self._uninstall(present=listing is not None)
            if listing is not None and _is_exact(listing, self._allowed):
                self._stale, self._installed = {}, True
                return False
            remove = [f"add table inet {TABLE}", f"delete table inet {TABLE}"]
            kept = _RULESET.replace(_NOTHING_COUNTED, _counted(listing or ()))
            self._nft.apply("\n".join([*remove, kept, *_elements("add", self._allowed)]))
            self._stale, self._installed = {}, True
            return True

    def _uninstall(self, *, present: bool) -> bool:
        if present:
            self._nft.apply(f"add table inet {TABLE}\ndelete table inet {TABLE}")
        self._stale, self._installed = {}, False
        return present

    def allowed(self) -> dict[int, IPAddress]:
        """By listen port, the only address that is heard there."""
        with self._lock:
            return dict(self._allowed)


def _elements(verb: str, pairs: Mapping[int, IPAddress]) -> list[str]:
    if not pairs:
        return []
    lines = [_line(verb, "ports", map(str, pairs)), *_sources(verb, pairs)]
    for version in (4, 6):
        if servers := {f"udp . {a}" for a in pairs.values() if a.version == version}:
            lines.append(_line(verb, f"servers{version}", sorted(servers)))
    return lines


def _sources(verb: str, pairs: Mapping[int, IPAddress]) -> list[str]:
    lines = []
    for version in (4, 6):
        keys = [f"{p} . {a}" for p, a in pairs.items() if a.version == version]
        if keys:
            lines.append(_line(verb, f"sources{version}", keys))
    if keys := [f"{p} . {int(a)}" for p, a in pairs.items() if a.version == 4]:
        lines.append(_line(verb, "narrow", keys))
    return lines


def _line(verb: str, name: str, keys: Iterable[str]) -> str:
    return f"{verb} element inet {TABLE} {name} {{ {', '.join(keys)} }}"


def _counted(listing: Iterable[Mapping[str, Any]]) -> str:
    """The counter as the table had it, which is made anew whenever a pod has gone."""
    for had in (item["counter"] for item in listing if "counter" in item):
        if had["name"] == FOREIGN_TUNNEL:
            return _COUNTER.format(had["packets"], had["bytes"])
    return _NOTHING_COUNTED


def _is_exact(listing: list[dict[str, Any]], wanted: Mapping[int, IPAddress]) -> bool:
    """What cannot be read is not: another version's table, which is made anew. Earlier versions
    fail at elements of sets other than ``ports`` that are not pairs."""
    try:
        narrow = {(p, int(a)) for p, a in wanted.items() if a.version == 4}
        held = (_RULES, set(wanted), dict(wanted), set(wanted.values()), narrow)
        return _held(listing) == held
    except (KeyError, TypeError, ValueError):
        return False


def _held(
    listing: list[dict[str, Any]],
) -> tuple[int, set[int], dict[int, IPAddress], set[IPAddress], set[tuple[int, int]]]:
    """How many rules there are, the ports, their sources, the servers, and both of them once more,
    as ICMP errors say them."""
    found = [item["set"] for item in listing if "set" in item]
    sets = {declared["name"]: declared.get("elem", []) for declared in found}

    def pairs(name: str) -> list[tuple[Any, IPAddress]]:
        elements = [e["concat"] for e in (*sets[f"{name}4"], *sets[f"{name}6"])]
        return [(first, ipaddress.ip_address(address)) for first, address in elements]

    rules = sum("rule" in item for item in listing)
    servers = {address for _, address in pairs("servers")}
    narrow = {(port, server) for port, server in (e["concat"] for e in sets["narrow"])}
    return rules, set(sets["ports"]), dict(pairs("sources")), servers, narrow
