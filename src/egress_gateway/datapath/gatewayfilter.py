"""nftables of a gateway node: one table in the gateway's namespace, one in the node's. Text only.

Sizes grow with configurations, never with pods. In the gateway's namespace: a conntrack zone per
configuration (by interface outbound, by secondary address inbound), source translation by map,
and behind it a filter that lets only that secondary address leave: packets of flows that this
gateway does not know (an RST after a failover) skip translation and must not get out.
In the node's namespace translated packets are not tracked at all, so no masquerade rule of the
node, by whatever program, can touch them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from egress_gateway.datapath.wireguard import IPAddress, IPNetwork

GATEWAY_TABLE: Final = "egress_gateway"
GATEWAY_SETS: Final = (
    "zone_out",
    "zone_in",
    "mark_in",
    "snat4",
    "leaving4",
    "secondaries4",
    "refused4",
    "local4",
    "permitted4",
)
NODE_TABLE: Final = "egress_gateway_gateway"
NODE_SETS: Final = ("secondaries4", "frontends4", "uplinks")
STRAY: Final = "stray"
REFUSED: Final = "refused"
NODE_LINK: Final = "gateway0"
"""The node's end of the pair that joins it to the gateway's namespace."""
INSIDE_LINK: Final = "host0"
ECHO_ADDRESS: Final = ipaddress.IPv4Address("169.254.103.1")
"""The node's end of the pair. It answers ICMP echo of pods, and nothing else: such a probe has gone
through the tunnel and the translation, both ways. Link-local: it never leaves the pair."""
REACH_MARK: Final = 0x6567_0000
"""Mark of the gateway's own questions to the Internet; see ``reach``."""
PORTS: Final = (6000, 6999)
"""WireGuard server ports; one per configuration of a pool, as the Go project has it."""
SOURCE_PORTS: Final = "1024-65535"
"""Of TCP connections, at random, whatever port the pod has. Left to itself the kernel keeps the
pod's port where it can, so that a port which has just become free (its connection ended here, its
pod went) is soon used again towards the same server, which may remember it for minutes (TIME_WAIT,
or an end it never heard of) and refuse the new connection. UDP keeps its port where it can: nobody
remembers it, and peers that find each other by it (STUN) need it to stay."""

ALWAYS_REFUSED: Final[tuple[IPNetwork, ...]] = (
    ipaddress.IPv4Network("169.254.0.0/16"),  # metadata service, node-local services
    ipaddress.IPv4Network("168.63.129.16/32"),  # Azure's platform address
    ipaddress.IPv4Network("127.0.0.0/8"),
    ipaddress.IPv4Network("224.0.0.0/4"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What a gateway node does for one StaticGatewayConfiguration.

    ``port`` is its WireGuard port and names everything of it; ``secondary`` the private address
    its pods' packets leave with; ``frontend`` the load balancer's address, if known; ``name``
    is for messages. ``private_key`` None: not known at the moment; an interface that is there
    goes on with the key it has, and none is made.
    """

    name: str
    port: int
    private_key: str | None = field(repr=False)
    secondary: IPv4Address
    frontend: IPAddress | None = None
    destinations: tuple[IPNetwork, ...] = ()
    """What it names as the gateway's (``excludeCidrs`` under ``azureNetworking``)."""

    @property
    def interface(self) -> str:
        return f"wg-{self.port}"

    def permitted(self, local: Iterable[IPNetwork]) -> list[IPv4Network]:
        """The destinations that lie inside the ``local`` networks. One that is merely wide,
        as 0.0.0.0/0 is, does not name them."""
        around = _four(local)
        named = (d for d in _four(self.destinations) if any(d.subnet_of(n) for n in around))
        return list(ipaddress.collapse_addresses(named))


def gateway_ruleset(
    configurations: Iterable[Configuration],
    *,
    refused: Iterable[IPNetwork],
    local: Iterable[IPNetwork] = (),
) -> str:
    """The table of the gateway's namespace. ``refused``: no configuration reaches it;
    ``local``: only one that names it as a destination does."""
    ordered = sorted(configurations, key=lambda c: c.port)
    local = _four(local)
    permitted = (f'"{c.interface}" . {n}' for c in ordered for n in c.permitted(local))
    by_name = [(f'"{c.interface}"', c) for c in ordered]
    zones = "typeof iifname : ct zone"
    return f"""\
table inet {GATEWAY_TABLE} {{
  counter {STRAY} {{ }}
  counter {REFUSED} {{ }}
  map zone_out {{ {zones};{_elements(f"{n} : {c.port}" for n, c in by_name)} }}
  map zone_in {{ typeof ip daddr : ct zone;{
        _elements(f"{c.secondary} : {c.port}" for c in ordered)
    } }}
  map mark_in {{ typeof ip daddr : meta mark;{
        _elements(f"{c.secondary} : {c.port}" for c in ordered)
    } }}
  map snat4 {{ type ifname : ipv4_addr;{_elements(f"{n} : {c.secondary}" for n, c in by_name)} }}
  set leaving4 {{ type ifname . ipv4_addr;{_elements(f"{n} . {c.secondary}" for n, c in by_name)} }}
  set secondaries4 {{ type ipv4_addr;{_elements(str(c.secondary) for c in ordered)} }}
  set refused4 {{ type ipv4_addr; flags interval;{_networks(refused)} }}
  set local4 {{ type ipv4_addr; flags interval;{_networks(local)} }}
  set permitted4 {{ typeof iifname . ip daddr; flags interval;{_elements(permitted)} }}
  chain zones {{
    type filter hook prerouting priority raw; policy accept;
    ct zone set iifname map @zone_out
    iifname "{INSIDE_LINK}" ct zone set ip daddr map @zone_in
    iifname "{INSIDE_LINK}" meta mark set ip daddr map @mark_in
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    iifname "{INSIDE_LINK}" oifname "wg-*" ct state established,related accept
    iifname "wg-*" oifname "{INSIDE_LINK}" ip daddr {ECHO_ADDRESS} icmp type echo-request accept
    iifname "wg-*" oifname "{INSIDE_LINK}" ip daddr @refused4 counter name "{REFUSED}" drop
    iifname . ip daddr @permitted4 oifname "{INSIDE_LINK}" accept
    iifname "wg-*" oifname "{INSIDE_LINK}" ip daddr @local4 counter name "{REFUSED}" drop
    iifname "wg-*" oifname "{INSIDE_LINK}" accept
  }}
  chain translate {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "{INSIDE_LINK}" meta l4proto tcp snat ip to iifname map @snat4 : {
        SOURCE_PORTS
    } fully-random
    oifname "{INSIDE_LINK}" snat ip to iifname map @snat4
  }}
  chain leaving {{
    type filter hook postrouting priority 200; policy accept;
    oifname != "{INSIDE_LINK}" accept
    iifname . ip saddr @leaving4 accept
    icmp type destination-unreachable ip saddr @secondaries4 accept
    meta mark {REACH_MARK:#x} ip saddr @secondaries4 accept
    counter name "{STRAY}" drop
  }}
}}
"""


def node_ruleset(
    configurations: Iterable[Configuration],
    *,
    primary: IPv4Address,
    uplinks: Iterable[str] = (),
) -> str:
    """The table of the node's namespace. The load balancer's address (floating IP) becomes the
    primary one, so that replies come from where they are expected, whatever the back end.
    ``uplinks``: what pods send leaves by one of these links, not by one towards the node's own
    pods or containers; none: by any."""
    ordered = sorted(configurations, key=lambda c: c.port)
    frontends = sorted({str(c.frontend) for c in ordered if c.frontend and c.frontend.version == 4})
    links = [f'"{name}"' for name in sorted(uplinks)]
    elsewhere = f'iifname "{NODE_LINK}" oifname != @uplinks counter drop' if links else ""
    return f"""\
table inet {NODE_TABLE} {{
  set secondaries4 {{ type ipv4_addr;{_elements(str(c.secondary) for c in ordered)} }}
  set frontends4 {{ type ipv4_addr;{_elements(frontends)} }}
  set uplinks {{ type ifname;{_elements(links)} }}
  chain untracked {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{NODE_LINK}" notrack
    ip daddr @secondaries4 notrack
  }}
  chain balanced {{
    type nat hook prerouting priority dstnat - 10; policy accept;
    ip daddr @frontends4 udp dport {PORTS[0]}-{PORTS[1]} dnat ip to {primary}
  }}
  chain input {{
    type filter hook input priority filter - 10; policy accept;
    iifname "{NODE_LINK}" ip daddr {ECHO_ADDRESS} icmp type echo-request accept
    iifname "{NODE_LINK}" counter drop
  }}
  chain forward {{
    type filter hook forward priority filter - 10; policy accept;
    iifname "{NODE_LINK}" ip saddr != @secondaries4 counter drop
    {elsewhere}
  }}
}}
"""


def _elements(elements: Iterable[str]) -> str:
    joined = ", ".join(elements)
    return f" elements = {{ {joined} }}" if joined else ""


def _networks(networks: Iterable[IPNetwork]) -> str:
    return _elements(str(n) for n in ipaddress.collapse_addresses(_four(networks)))


def _four(networks: Iterable[IPNetwork]) -> list[IPv4Network]:
    return [n for n in networks if isinstance(n, IPv4Network)]
