"""nftables of a gateway node: one table in the gateway's namespace, one in the node's. Text only.

Sizes grow with configurations, never with pods. In the gateway's namespace: a conntrack zone per
configuration (by interface outbound, by secondary address inbound), source translation by map,
and behind it a filter that lets only that secondary address leave: packets of flows that this
gateway does not know (an RST after a failover) skip translation and must not get out. IPv6 goes the
same way where a configuration has an IPv6 address, and is refused and counted where it has none.
In the node's namespace translated packets are not tracked at all, so no masquerade rule of the
node, by whatever program, can touch them.

Every packet of every pod walks through the gateway's chains. The dearest thing that a rule does is
to look up the name of a link: each chain does so once or twice, and what few packets need (answers,
destinations near by) is in chains of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Final

from egress_gateway.datapath.addresses import (
    ECHO_ADDRESS,
    ECHO_ADDRESS6,
    IPNetwork,
    collapse,
)
from egress_gateway.datapath.gateway.served import (
    ANYBODY,
    PORTS,
    Family,
    ServedConfiguration,
    TunnelSources,
    of_family,
)

GATEWAY_TABLE: Final = "egress_gateway"
GATEWAY_SETS: Final = (
    "zone_out",
    "mark_out",
    "answered",
    "carries6",
    *(
        f"{name}{family}"
        for family in (4, 6)
        for name in (
            "zone_in",
            "mark_in",
            "snat",
            "leaving",
            "secondaries",
            "refused",
            "local",
            "permitted",
        )
    ),
)
NODE_TABLE: Final = "egress_gateway_gateway"
NODE_SETS: Final = (
    "secondaries4",
    "secondaries6",
    "frontends4",
    "uplinks",
    "inbound",
    "servers4",
    "tunnels4",
    "listening",
)
_NARROW: Final = "icmp type destination-unreachable icmp code frag-needed"
_TUNNELS: Final = f"@th,136,8 17 @th,224,16 {PORTS[0]}-{PORTS[1]}"
"""That a tunnel's packet (UDP, from a server port) is too large for the path: the packet filter of
the pods' nodes (datapath/pod/sources.py) says why nobody is to hear it. Nor is one to be heard
whose packet seems to have options (its first octet is not 0x45), for then its port is elsewhere:
no node sends such packets."""
HANDSHAKES: Final = "handshakes"
FULL_PODS: Final = {4: "full4", 6: "full6"}
"""Pods (interface and address) that have all the connections that they may have."""
FULL_INTERFACES: Final = "full"
"""Configurations that have their share of the connection table, by their interfaces."""
_BEGINNING: Final = {4: "beginning4", 6: "beginning6"}
HASTY_PODS: Final = {4: "hasty4", 6: "hasty6"}
"""Pods that began connections faster than they may, for the agent to tell of."""
DYNAMIC_SETS: Final = (
    HANDSHAKES,
    *FULL_PODS.values(),
    FULL_INTERFACES,
    *_BEGINNING.values(),
    *HASTY_PODS.values(),
)
"""Sets that packets fill: what is in them is no part of what was applied."""
STRAY: Final = "stray"
REFUSED: Final = "refused"
FORGED_SOURCE: Final = "forged_source"
FORGED_DESTINATION: Final = "forged_destination"
OVER_LIMIT: Final = "over_limit"
OVER_RATE: Final = "over_rate"
GATEWAY_COUNTERS: Final = (STRAY, REFUSED, OVER_LIMIT, OVER_RATE)
FORGED: Final = (FORGED_SOURCE, FORGED_DESTINATION)
FOREIGN_TUNNEL: Final = "foreign_tunnel"
HANDSHAKE_RATE: Final = "handshake_rate"
NODE_COUNTERS: Final = (*FORGED, FOREIGN_TUNNEL, HANDSHAKE_RATE)
NODE_LINK: Final = "gateway0"
"""The node's end of the pair that joins it to the gateway's namespace."""
INSIDE_LINK: Final = "host0"
REACH_MARK: Final = 0x6567_0000
"""Mark of the gateway's own questions to the Internet; see ``reach``."""
SOURCE_PORTS: Final = "1024-65535"
"""Of TCP connections, at random, whatever port the pod has. Left to itself the kernel keeps the
pod's port where it can, so that a port which has just become free (its connection ended here, its
pod went) is soon used again towards the same server, which may remember it for minutes (TIME_WAIT,
or an end it never heard of) and refuse the new connection. UDP keeps its port where it can: nobody
remembers it, and peers that find each other by it (STUN) need it to stay."""

_FAMILIES: Final[tuple[Family, ...]] = (4, 6)
_IP: Final[dict[Family, str]] = {4: "ip", 6: "ip6"}


def gateway_ruleset(
    configurations: Iterable[ServedConfiguration],
    *,
    refused: Iterable[IPNetwork],
    local: Iterable[IPNetwork] = (),
    rate: int = 0,
) -> str:
    """The table of the gateway's namespace. ``refused``: no configuration reaches it;
    ``local``: only one that names it as a destination does. ``rate``: connections that a pod may
    begin in a second, with twice as many at once; 0: any number.

    Pods in ``FULL_PODS`` and configurations in ``FULL_INTERFACES`` begin none: the agent counts
    connections and fills these sets. A count in the kernel (``ct count``) walks all connections of
    a pod for each that begins: at 16,000 some 10 ms of a processor, an attack of its own."""
    ordered = sorted(configurations, key=lambda c: c.port)
    by_name = _by_name(ordered)
    answered = _elements(
        f"{port:#x}"
        for c in ordered
        for port in [s.port for s in c.servers[: 2 if c.second_answers else 1]]
    )
    marks = _elements(f'"{s.interface}" : {s.port:#x}' for c in ordered for s in c.servers)
    sets = "\n".join(_translation(family, ordered, refused, local) for family in _FAMILIES)
    carries = _elements(n for n, c in by_name if c.secondary6)
    return f"""\
table inet {GATEWAY_TABLE} {{
  counter {STRAY} {{ }}
  counter {REFUSED} {{ }}
  counter {OVER_LIMIT} {{ }}
  counter {OVER_RATE} {{ }}
  set {FULL_INTERFACES} {{ type ifname; size 4096; flags timeout; }}
{_counted(4)}
{_counted(6)}
  map zone_out {{ typeof iifname : ct zone;{_elements(f"{n} : {c.in_zone}" for n, c in by_name)} }}
  map mark_out {{ typeof iifname : ct mark;{marks} }}
  set answered {{ typeof ct mark;{answered} }}
  set carries6 {{ type ifname;{carries} }}
{sets}
  chain zones {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{INSIDE_LINK}" goto arriving
    ct zone set iifname map @zone_out
  }}
  chain arriving {{
    ct zone set ip daddr map @zone_in4
    meta mark set ip daddr map @mark_in4
    ct zone set ip6 daddr map @zone_in6
    meta mark set ip6 daddr map @mark_in6
  }}
  chain answers {{
    type filter hook prerouting priority mangle; policy accept;
    ct mark set iifname map @mark_out
    iifname "{INSIDE_LINK}" ct mark @answered meta mark set ct mark
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    iifname "{INSIDE_LINK}" {_NEIGHBOURS} accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    iifname "{INSIDE_LINK}" oifname "wg-*" ct state established,related accept
    meta nfproto ipv6 iifname != @carries6 counter name "{REFUSED}" drop
    iifname "wg-*" oifname "{INSIDE_LINK}" meta nfproto ipv4 goto out4
    iifname "wg-*" oifname "{INSIDE_LINK}" meta nfproto ipv6 goto out6
  }}
{_beginning(4, rate)}
{_beginning(6, rate)}
  chain out4 {{
    {_UNCONFIRMED} jump beginning_out4
    ip daddr {ECHO_ADDRESS} icmp type echo-request accept
{_permissions("ip", 4)}
  }}
  chain out6 {{
    {_UNCONFIRMED} jump beginning_out6
    ip6 daddr {ECHO_ADDRESS6} {_ECHO6} accept
{_permissions("ip6", 6)}
  }}
  chain translate {{
    type nat hook postrouting priority srcnat; policy accept;
{_snat("ip", 4)}
{_snat("ip6", 6)}
  }}
  chain leaving {{
    type filter hook postrouting priority 200; policy accept;
    oifname != "{INSIDE_LINK}" accept
    iifname . ip saddr @leaving4 accept
    iifname . ip6 saddr @leaving6 accept
    iifname "wg-*" counter name "{STRAY}" drop
    icmp type destination-unreachable ip saddr @secondaries4 accept
    icmpv6 type {{ destination-unreachable, packet-too-big }} ip6 saddr @secondaries6 accept
    meta mark {REACH_MARK:#x} ip saddr @secondaries4 accept
    meta mark {REACH_MARK:#x} ip6 saddr @secondaries6 accept
    {_NEIGHBOURS} accept
    ip6 daddr ff02::/16 drop
    counter name "{STRAY}" drop
  }}
}}
"""


_NEIGHBOURS: Final = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255"
"""Of the pair of links themselves: what was forwarded has another hop limit (RFC 4861, 7.1)."""
_ECHO6: Final = "icmpv6 type echo-request"


_UNCONFIRMED: Final = "ct status & confirmed == 0"
"""The first packet of a connection and no other. Of UDP without replies all packets are ``new``."""


def _counted(family: Family) -> str:
    kind = f"type ifname . ipv{family}_addr; size 65535; flags"
    return f"""\
  set {FULL_PODS[family]} {{ {kind} timeout; }}
  set {_BEGINNING[family]} {{ {kind} dynamic,timeout; timeout 10s; }}
  set {HASTY_PODS[family]} {{ {kind} dynamic,timeout; timeout 60s; }}"""


def _beginning(family: Family, rate: int) -> str:
    pod = f"iifname . {_IP[family]} saddr"
    limit = f"limit rate over {rate}/second burst {2 * rate} packets"
    rated = f"update @{_BEGINNING[family]} {{ {pod} {limit} }} goto hasty_out{family}"
    # Two rules: one whose set is full ends there, and would let the packet pass.
    return f"""\
  chain hasty_out{family} {{
    add @{HASTY_PODS[family]} {{ {pod} }}
    {_drop(OVER_RATE)}
  }}
  chain beginning_out{family} {{
    {pod} @{FULL_PODS[family]} {_drop(OVER_LIMIT)}
    iifname @{FULL_INTERFACES} {_drop(OVER_LIMIT)}
    {rated if rate else ""}
  }}"""


def _translation(
    family: Family,
    ordered: Iterable[ServedConfiguration],
    refused: Iterable[IPNetwork],
    local: Iterable[IPNetwork],
) -> str:
    """Maps and sets of one family: zones and marks inbound, addresses outbound, refusals."""
    ip, kind = _IP[family], f"ipv{family}_addr"
    found = [(name, c, c.address(family)) for name, c in _by_name(ordered)]
    here = [(name, c, address) for name, c, address in found if address]
    addresses = [(c, address) for c in ordered if (address := c.address(family))]
    around = of_family(family, local)
    permitted = (f"{n} . {d}" for n, c, _ in here for d in c.permitted(around, family))
    return f"""\
  map zone_in{family} {{ typeof {ip} daddr : ct zone;{
        _elements(f"{a} : {c.in_zone}" for c, a in addresses)
    } }}
  map mark_in{family} {{ typeof {ip} daddr : meta mark;{
        _elements(f"{a} : {c.port}" for c, a in addresses)
    } }}
  map snat{family} {{ type ifname : {kind};{_elements(f"{n} : {a}" for n, _, a in here)} }}
  set leaving{family} {{ type ifname . {kind};{_elements(f"{n} . {a}" for n, _, a in here)} }}
  set secondaries{family} {{ type {kind};{_elements(str(a) for _, a in addresses)} }}
  set refused{family} {{ type {kind}; flags interval;{_networks(family, refused)} }}
  set local{family} {{ type {kind}; flags interval;{_networks(family, around)} }}
  set permitted{family} {{ typeof iifname . {ip} daddr; flags interval;{_elements(permitted)} }}"""


def _by_name(ordered: Iterable[ServedConfiguration]) -> list[tuple[str, ServedConfiguration]]:
    """Every interface's name, quoted, and whose it is."""
    return [(f'"{server.interface}"', c) for c in ordered for server in c.servers]


def _permissions(ip: str, family: Family) -> str:
    return f"""\
    {ip} daddr @refused{family} counter name "{REFUSED}" drop
    {ip} daddr != @local{family} accept
    iifname . {ip} daddr @permitted{family} accept
    counter name "{REFUSED}" drop"""


def _snat(ip: str, family: Family) -> str:
    to = f"snat {ip} to iifname map @snat{family}"
    return f"""\
    oifname "{INSIDE_LINK}" meta nfproto ipv{family} meta l4proto tcp {to} : {
        SOURCE_PORTS
    } fully-random
    oifname "{INSIDE_LINK}" meta nfproto ipv{family} {to}"""


def node_ruleset(
    configurations: Iterable[ServedConfiguration],
    *,
    primary: IPv4Address,
    uplinks: Iterable[str] = (),
    tunnels: TunnelSources = ANYBODY,
) -> str:
    """The table of the node's namespace. The load balancer's address (floating IP) becomes the
    primary one, so that replies come from where they are expected, whatever the back end. What
    leaves from a server port keeps it, whatever the node masquerades: a pod would follow the
    gateway to another port, and be lost when connection tracking forgets it.
    ``uplinks``: what pods send leaves by one of these links, not by one towards the node's own
    pods or containers, and replies come by one of them; none: by any.

    Nothing else on the node can send from a secondary address, and only neighbours of an uplink can
    send to one. This holds for pods on the node, and for processes of the node unless they use
    addresses of the node. Only ``tunnels`` can send to WireGuard."""
    ordered = sorted(configurations, key=lambda c: c.port)
    frontends = sorted({str(c.frontend) for c in ordered if c.frontend and c.frontend.version == 4})
    secondaries6 = _elements(str(c.secondary6) for c in ordered if c.secondary6)
    ports = _elements(str(server.port) for c in ordered for server in c.servers)
    links = [f'"{name}"' for name in sorted(uplinks)]
    elsewhere = f'iifname "{NODE_LINK}" oifname != @uplinks counter drop' if links else ""
    inbound = [*links, f'"{NODE_LINK}"'] if links else []
    return f"""\
table inet {NODE_TABLE} {{
  set secondaries4 {{ type ipv4_addr;{_elements(str(c.secondary) for c in ordered)} }}
  set secondaries6 {{ type ipv6_addr;{secondaries6} }}
  set frontends4 {{ type ipv4_addr;{_elements(frontends)} }}
  set uplinks {{ type ifname;{_elements(links)} }}
  set inbound {{ type ifname;{_elements(inbound)} }}
  set servers4 {{ type ipv4_addr;{_elements(dict.fromkeys([str(primary), *frontends]))} }}
  set tunnels4 {{ type ipv4_addr; flags interval;{_networks(4, tunnels.networks)} }}
  set listening {{ type inet_service;{ports} }}
  set {HANDSHAKES} {{ type ipv4_addr; size 8192; flags dynamic,timeout; timeout 10s; }}
  counter {FOREIGN_TUNNEL} {{ }}
  counter {HANDSHAKE_RATE} {{ }}
  counter {FORGED_SOURCE} {{ }}
  counter {FORGED_DESTINATION} {{ }}
  chain untracked {{
    type filter hook prerouting priority raw; policy accept;
    udp dport {PORTS[0]}-{PORTS[1]} ip daddr @servers4 goto tunnels
    {_elsewhere(tunnels)}
    ip daddr @servers4 {_NARROW} @th,64,8 != 0x45 drop
    ip daddr @servers4 {_NARROW} {_TUNNELS} drop
    ip saddr @secondaries4 iifname != "{NODE_LINK}" {_drop(FORGED_SOURCE)}
    ip6 saddr @secondaries6 iifname != "{NODE_LINK}" {_drop(FORGED_SOURCE)}
{_arrivals(bool(links))}
    iifname "{NODE_LINK}" notrack
    ip daddr @secondaries4 notrack
    ip6 daddr @secondaries6 notrack
  }}
  chain tunnels {{
{_tunnels(tunnels)}
  }}
  chain output {{
    type filter hook output priority raw; policy accept;
    ip saddr @secondaries4 {_drop(FORGED_SOURCE)}
    ip6 saddr @secondaries6 {_drop(FORGED_SOURCE)}
    ip daddr @secondaries4 fib saddr type != local {_drop(FORGED_DESTINATION)}
    ip6 daddr @secondaries6 fib saddr type != local {_drop(FORGED_DESTINATION)}
  }}
  chain balanced {{
    type nat hook prerouting priority dstnat - 10; policy accept;
    ip daddr @frontends4 udp dport {PORTS[0]}-{PORTS[1]} dnat ip to {primary}
    ip daddr {primary} udp dport @listening dnat ip to {primary}
  }}
  chain straight {{
    type nat hook output priority -110; policy accept;
    udp sport @listening fib saddr type local dnat ip to ip daddr : udp dport
  }}
  chain whole {{
    type filter hook postrouting priority filter - 10; policy accept;
    udp sport {PORTS[0]}-{PORTS[1]} fib saddr type local ip id set meta random ip frag-off set 0
  }}
  chain kept {{
    type nat hook postrouting priority srcnat - 10; policy accept;
    udp sport {PORTS[0]}-{PORTS[1]} fib saddr type local snat ip to ip saddr : udp sport
  }}
  chain input {{
    type filter hook input priority filter - 10; policy accept;
    iifname "{NODE_LINK}" ip daddr {ECHO_ADDRESS} icmp type echo-request accept
    iifname "{NODE_LINK}" ip6 daddr {ECHO_ADDRESS6} {_ECHO6} accept
    iifname "{NODE_LINK}" {_NEIGHBOURS} accept
    iifname "{NODE_LINK}" counter drop
  }}
  chain forward {{
    type filter hook forward priority filter - 10; policy accept;
    iifname "{NODE_LINK}" ip saddr != @secondaries4 counter drop
    iifname "{NODE_LINK}" ip6 saddr != @secondaries6 counter drop
    {elsewhere}
  }}
}}
"""


def _tunnels(sources: TunnelSources) -> str:
    """The fast path is one look into a set and one at the message's type: of WireGuard's messages
    (whitepaper, 5.4) all but those of type 4, the data, wait in one queue. Those of type 1 cost the
    server curve arithmetic; too many of any kind, and it asks everybody for cookies."""
    rules = []
    if sources.networks:
        rules.append(f"    ip saddr != @tunnels4 {_drop(FOREIGN_TUNNEL)}")
    if rate := sources.handshakes:
        limit = f"limit rate over {rate}/second burst {max(1, rate // 2)} packets"
        rules.append(
            f"    @th,64,8 1-3 update @{HANDSHAKES} {{ ip saddr {limit} }} {_drop(HANDSHAKE_RATE)}"
        )
    return "\n".join(rules)


def _elsewhere(sources: TunnelSources) -> str:
    """Tunnels end at ``servers4``, but WireGuard's sockets hear whatever address the node has: IPv6
    ones, loopback, that of its pods' bridge, which pods of other nodes reach."""
    if not sources.networks:
        return ""
    return f"udp dport @listening fib daddr type local {_drop(FOREIGN_TUNNEL)}"


def _drop(counter: str) -> str:
    return f'counter name "{counter}" drop'


def _arrivals(known: bool) -> str:
    """Only uplinks bring replies, where the uplinks are known."""
    rules = (
        f"    {ip} daddr @secondaries{family} iifname != @inbound {_drop(FORGED_DESTINATION)}"
        for family, ip in _IP.items()
    )
    return "\n".join(rules) if known else ""


def _elements(elements: Iterable[str]) -> str:
    joined = ", ".join(elements)
    return f" elements = {{ {joined} }}" if joined else ""


def _networks(family: Family, networks: Iterable[IPNetwork]) -> str:
    return _elements(str(n) for n in collapse(of_family(family, networks)))
