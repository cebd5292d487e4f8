"""What a gateway node should look like, what it looks like, and the steps between. Pure.

A step belongs to the node or to one configuration, so that one that fails (its port is taken, say)
costs its own configuration and no other. Order: filters before anything that could carry a packet,
and in what goes, the filter's entries before the interface.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final, Literal

from egress_gateway.api import keys
from egress_gateway.datapath.addresses import (
    ALWAYS_REFUSED,
    ECHO_ADDRESS,
    ECHO_ADDRESS6,
    ECHO_NETWORK6,
    IPAddress,
    IPNetwork,
)
from egress_gateway.datapath.gateway.actions import (
    Action,
    AddAddress,
    AddRule,
    ApplyFilter,
    CheckPort,
    ConfigureTunnel,
    CreateNamespace,
    CreatePair,
    CreateTunnel,
    DeleteLink,
    DeleteOtherRule,
    DeleteRoutes,
    DeleteRule,
    DeleteTunnel,
    ForgetTranslated,
    IPInterface,
    MoveTunnel,
    RaiseLink,
    RemoveAddress,
    ReplaceRoutes,
    SetSysctl,
    Where,
)
from egress_gateway.datapath.gateway.ruleset import (
    INSIDE_LINK,
    NODE_LINK,
    gateway_ruleset,
    node_ruleset,
)
from egress_gateway.datapath.gateway.served import (
    ANYBODY,
    ServedConfiguration,
    TunnelSources,
    WireGuardServer,
)
from egress_gateway.datapath.linux.link import DEFAULT, LOCAL, MAIN, Link, Route, RoutingRule
from egress_gateway.datapath.wireguard.model import Config, Device
from egress_gateway.datapath.wireguard.mtu import OVERHEAD_V4

Family = Literal[4, 6]

NODE_ADDRESS: Final = ipaddress.IPv4Interface(f"{ECHO_ADDRESS}/30")
INSIDE_ADDRESS: Final = ipaddress.IPv4Interface("169.254.103.2/30")
"""The two ends of the pair. Link-local: they never leave it."""
NODE_ADDRESS6: Final = ipaddress.IPv6Interface(f"{ECHO_ADDRESS6}/126")
INSIDE_ADDRESS6: Final = ipaddress.IPv6Interface(f"{ECHO_ADDRESS6 + 1}/126")
_PAIR: Final[dict[Family, tuple[IPInterface, IPInterface]]] = {
    4: (NODE_ADDRESS, INSIDE_ADDRESS),
    6: (NODE_ADDRESS6, INSIDE_ADDRESS6),
}
_DEFAULT: Final[dict[Family, IPNetwork]] = {
    4: ipaddress.IPv4Network("0.0.0.0/0"),
    6: ipaddress.IPv6Network("::/0"),
}
OVERHEAD: Final = OVERHEAD_V4
"""Nodes speak IPv4 to each other."""

_FORWARDING: Final = "net/ipv6/conf/all/forwarding"
Sysctl = tuple[Where, str, str]
_SYSCTLS: Final[tuple[Sysctl, ...]] = (
    ("node", "net/ipv4/ip_forward", "1"),
    ("gateway", "net/ipv4/ip_forward", "1"),
    # Namespaces inherit the initial one's values, so "off" must be said. WireGuard itself
    # checks sources against the peer.
    ("gateway", "net/ipv4/conf/all/rp_filter", "0"),
    ("gateway", "net/ipv4/conf/default/rp_filter", "0"),
    ("gateway", f"net/ipv4/conf/{INSIDE_LINK}/rp_filter", "0"),
    # Seconds that an idle TCP connection is remembered, in place of five days: a little more than
    # two hours, after which keepalives begin (tcp(7)). RFC 5382, REQ-5 asks for 2 h 4 min.
    ("gateway", "net/netfilter/nf_conntrack_tcp_timeout_established", "7500"),
)
_WITHOUT_IPV6: Final[tuple[Sysctl, ...]] = (
    # IPv6 is not carried; solicitations and reports of the links would only be noise.
    ("gateway", "net/ipv6/conf/all/disable_ipv6", "1"),
    ("gateway", "net/ipv6/conf/default/disable_ipv6", "1"),
    ("node", f"net/ipv6/conf/{NODE_LINK}/disable_ipv6", "1"),
)
_WITH_IPV6: Final[tuple[Sysctl, ...]] = (
    ("gateway", "net/ipv6/conf/default/accept_ra", "0"),
    ("gateway", "net/ipv6/conf/default/accept_dad", "0"),
    ("gateway", "net/ipv6/conf/default/disable_ipv6", "0"),
    # Without waiting for duplicates: a neighbour is asked from a link-local address.
    ("gateway", f"net/ipv6/conf/{INSIDE_LINK}/accept_dad", "0"),
    ("gateway", f"net/ipv6/conf/{INSIDE_LINK}/accept_ra", "0"),
    ("node", f"net/ipv6/conf/{NODE_LINK}/accept_dad", "0"),
    ("node", f"net/ipv6/conf/{NODE_LINK}/accept_ra", "0"),
    ("gateway", "net/ipv6/conf/all/disable_ipv6", "0"),
    ("gateway", f"net/ipv6/conf/{INSIDE_LINK}/disable_ipv6", "0"),
    ("node", f"net/ipv6/conf/{NODE_LINK}/disable_ipv6", "0"),
    ("gateway", "net/ipv6/conf/all/forwarding", "1"),
    ("node", _FORWARDING, "1"),
)


def link_sysctls(link: str) -> tuple[tuple[str, str], ...]:
    """Of a tunnel's link in the gateway's namespace, which begins with these by the defaults."""
    return (f"net/ipv4/conf/{link}/rp_filter", "0"), (f"net/ipv4/conf/{link}/forwarding", "1")


def inner(address: IPAddress) -> IPAddress:
    """The inner end of the pair, in the family of ``address``."""
    return _PAIR[address.version][1].ip


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the node is joined to: the links that lead away from it, by name, and the networks
    on them: the nodes'. Only configurations that name such a network reach it."""

    uplinks: frozenset[str] = frozenset()
    networks: tuple[IPNetwork, ...] = ()
    default6: bool = False
    """Whether there is a way out for IPv6."""
    ipv6: bool = True
    """Whether the kernel has IPv6."""


def surroundings(routes: Iterable[Route]) -> Surroundings:
    """As the node's main table tells: an uplink is a link with a gateway on it. Pure."""
    known = [r for r in routes if r.device not in (None, NODE_LINK)]
    uplinks = frozenset(r.device for r in known if r.device and r.gateway)
    on_link = {
        r.destination
        for r in known
        if r.device in uplinks
        and r.gateway is None
        and r.destination.prefixlen > 0
        and not r.destination.is_link_local
    }
    default6 = any(r.gateway and r.destination == _DEFAULT[6] for r in known)
    networks = tuple(sorted(on_link, key=str))
    return Surroundings(uplinks=uplinks, networks=networks, default6=default6)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayDesired:
    """``mtu`` is the node's, in bytes; interfaces get 60 less. ``refused``: destinations that
    no pod may reach through this gateway, besides those that are always refused."""

    primary: IPv4Address
    mtu: int = 1500
    configurations: tuple[ServedConfiguration, ...] = ()
    refused: tuple[IPNetwork, ...] = ()
    surroundings: Surroundings = Surroundings()
    tunnels: TunnelSources = ANYBODY
    connection_rate: int = 0
    """Connections that a pod may begin in a second; 0: any number."""

    @property
    def families(self) -> tuple[Family, ...]:
        """4, and 6 if a configuration carries it."""
        return (4, 6) if any(c.secondary6 for c in self.configurations) else (4,)

    @property
    def sysctls(self) -> tuple[Sysctl, ...]:
        """Of the gateway's namespace. Without an IPv6 address IPv6 stays off there."""
        return (*_SYSCTLS, *(_WITH_IPV6 if 6 in self.families else _WITHOUT_IPV6))

    @property
    def advertised(self) -> tuple[str, ...]:
        """Sysctls of uplinks: a node that forwards IPv6 forgets the default route that its
        router advertised, unless its link is set to listen anyway (2)."""
        if 6 not in self.families:
            return ()
        return tuple(f"net/ipv6/conf/{n}/accept_ra" for n in sorted(self.surroundings.uplinks))

    @property
    def gateway_filter(self) -> str:
        """The table in the gateway's namespace, as text."""
        own = ipaddress.IPv4Network(self.primary)
        refused = (*ALWAYS_REFUSED, ECHO_NETWORK6, own, *self.refused)
        return gateway_ruleset(
            self.configurations, refused=refused, local=self.local, rate=self.connection_rate
        )

    @property
    def local(self) -> tuple[IPNetwork, ...]:
        """The nodes' networks. Azure tells a machine its IPv6 address alone, not the subnet,
        which always is a /64."""
        subnets = (
            ipaddress.ip_network((c.secondary6, 64), strict=False)
            for c in self.configurations
            if c.secondary6
        )
        return (*self.surroundings.networks, *sorted(set(subnets)))

    @property
    def node_filter(self) -> str:
        """The table in the node's namespace, as text."""
        uplinks = self.surroundings.uplinks
        return node_ruleset(
            self.configurations, primary=self.primary, uplinks=uplinks, tunnels=self.tunnels
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One of the two namespaces as it is. ``filter``: as in ``datapath.pod.plan.PodObserved``."""

    links: Mapping[str, Link] = field(default_factory=dict)
    addresses: frozenset[IPAddress] = frozenset()
    """Of this namespace's end of the pair."""
    routes: frozenset[Route] = frozenset()
    rules: frozenset[RoutingRule] = frozenset()
    other_rules: frozenset[bytes] = frozenset()
    filter: str | None = None
    sysctls: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayObserved:
    """What the kernel has of the gateway: on the node, in the namespace, and in between."""

    node: Place
    gateway: Place | None = None
    """None: the namespace does not exist."""
    devices: Mapping[str, Device] = field(default_factory=dict)
    """Live WireGuard interfaces by name."""
    bound: frozenset[int] = frozenset()
    """UDP ports of the node that are in use."""
    own: frozenset[tuple[str, IPInterface]] = frozenset()
    """Addresses that the node itself has, each with its link's name."""
    translated: frozenset[IPAddress] = frozenset()
    """Secondary addresses that the namespace's filter used before."""


@dataclass(frozen=True, slots=True)
class PlannedAction:
    """An action; ``port`` of the server it is for, None for the node as a whole."""

    action: Action
    port: int | None = None


def plan(desired: GatewayDesired, observed: GatewayObserved) -> list[PlannedAction]:
    """The steps from ``observed`` to ``desired``; none when they agree."""
    inside = observed.gateway or Place()
    shared: list[Action] = [
        *_frame(desired, observed, inside),
        *_filters(desired, observed, inside),
        *_leftovers(desired, observed, inside),
        *_strangers(desired, inside),
        *_claimed(desired, observed),
        *_routing(desired, observed, inside),
    ]
    steps = [PlannedAction(action) for action in shared]
    for configuration in desired.configurations:
        for server in configuration.servers:
            actions = _server(server, configuration, desired.mtu, observed, inside)
            steps += [PlannedAction(action, server.port) for action in actions]
    return steps


def _frame(desired: GatewayDesired, observed: GatewayObserved, inside: Place) -> list[Action]:
    """Namespace, pair of links, addresses, sysctls."""
    actions: list[Action] = []
    if observed.gateway is None:
        actions.append(CreateNamespace())
    ends: tuple[tuple[Where, Place, str], ...] = (
        ("node", observed.node, NODE_LINK),
        ("gateway", inside, INSIDE_LINK),
    )
    paired = all(link in place.links for _, place, link in ends)
    if not paired:
        actions.append(CreatePair())
    places: dict[Where, Place] = {"node": observed.node, "gateway": inside}
    if observed.node.sysctls.get(_FORWARDING) != "1":
        listening = (key for key in desired.advertised if observed.node.sysctls.get(key) == "1")
        actions += [SetSysctl("node", key, "2") for key in listening]
    for where, key, value in desired.sysctls:
        fresh = not paired and (INSIDE_LINK in key or NODE_LINK in key)
        found = places[where].sysctls.get(key)
        # A kernel without IPv6 has no such keys.
        missing = found is None and "/ipv6/" in key and observed.gateway is not None
        if fresh or (found != value and not missing):
            actions.append(SetSysctl(where, key, value))
    for index, (where, place, name) in enumerate(ends):
        for address in (_PAIR[family][index] for family in desired.families):
            if not paired or address.ip not in place.addresses:
                actions.append(AddAddress(where, name, address))
        link = place.links.get(name) if paired else None
        if link is None or not link.up or link.mtu != desired.mtu:
            actions.append(RaiseLink(where, name, desired.mtu))
    return actions


def _filters(desired: GatewayDesired, observed: GatewayObserved, inside: Place) -> list[Action]:
    actions: list[Action] = []
    if inside.filter != desired.gateway_filter:
        actions.append(
            ApplyFilter("gateway", desired.gateway_filter, present=inside.filter is not None)
        )
    if observed.node.filter != desired.node_filter:
        actions.append(
            ApplyFilter("node", desired.node_filter, present=observed.node.filter is not None)
        )
    # Connections of an address that went would go on leaving with it.
    gone = observed.translated - _secondaries(desired)
    actions += [ForgetTranslated(a) for a in sorted(gone, key=lambda a: (a.version, a.packed))]
    return actions


def _leftovers(desired: GatewayDesired, observed: GatewayObserved, inside: Place) -> list[Action]:
    wanted = _interfaces(desired)
    found = {n for n in inside.links if n.startswith("wg-")}
    found |= {n for n in observed.node.links if n.startswith("wg-")}
    return [DeleteTunnel(name) for name in sorted(found - wanted)]


def _interfaces(desired: GatewayDesired) -> set[str]:
    return {server.interface for c in desired.configurations for server in c.servers}


_TUNNELS: Final = ("wireguard", "tun")
"""Kinds of the links that back ends make."""


def _strangers(desired: GatewayDesired, inside: Place) -> list[Action]:
    """What somebody put into the gateway's namespace, which is ours alone: a tunnel under another
    name keeps its port, and routes and rules lead packets astray."""
    known = _interfaces(desired)
    renamed = [n for n, link in inside.links.items() if link.kind in _TUNNELS and n not in known]
    actions: list[Action] = [DeleteLink(name) for name in sorted(renamed)]
    ends = {(end.network, INSIDE_LINK) for pair in _PAIR.values() for end in pair}
    ours = {_way_out(family) for family in desired.families}
    ours |= {back for c in desired.configurations for s in c.servers for back in _ways_back(s, c)}
    # Those on other links are the kernel's, or go with their link.
    foreign = {
        r
        for r in inside.routes - ours
        if r.device in (None, INSIDE_LINK, *known)
        and (r.destination, r.device) not in ends
        and not (r.destination.is_link_local or r.destination.is_multicast)
    }
    if foreign:
        actions.append(DeleteRoutes("gateway", _sorted(foreign)))
    return actions + [DeleteOtherRule(rule) for rule in sorted(inside.other_rules)]


def _way_out(family: Family) -> Route:
    return Route(destination=_DEFAULT[family], gateway=_PAIR[family][0].ip, device=INSIDE_LINK)


def _ways_back(server: WireGuardServer, configuration: ServedConfiguration) -> Iterable[Route]:
    for family in (family for family in _DEFAULT if configuration.address(family)):
        yield Route(destination=_DEFAULT[family], device=server.interface, table=server.port)


def _claimed(desired: GatewayDesired, observed: GatewayObserved) -> list[Action]:
    """Secondaries that the node took for itself: cloud-init, and some network managers, put
    every address of the machine's NIC on its link."""
    ours = _secondaries(desired) - {desired.primary}
    taken = (pair for pair in observed.own if pair[1].ip in ours)
    return [RemoveAddress(link, address) for link, address in sorted(taken, key=str)]


def _secondaries(desired: GatewayDesired) -> set[IPAddress]:
    return {a for c in desired.configurations for a in (c.secondary, c.secondary6) if a}


def _routing(desired: GatewayDesired, observed: GatewayObserved, inside: Place) -> list[Action]:
    to_inside = {
        Route(
            destination=ipaddress.ip_network(address),
            gateway=inner(address),
            device=NODE_LINK,
            onlink=True,
        )
        for address in _secondaries(desired)
    }
    have = {r for r in observed.node.routes if r.device == NODE_LINK and r.gateway}
    actions = _connected(desired, observed, inside)
    if gone := have - to_inside:
        actions.append(DeleteRoutes("node", _sorted(gone)))
    fresh = NODE_LINK not in observed.node.links or INSIDE_LINK not in inside.links
    if missing := (to_inside if fresh else to_inside - have):
        actions.append(ReplaceRoutes("node", _sorted(missing)))
    for family in desired.families:
        out = _way_out(family)
        if fresh or out not in inside.routes:
            actions.append(ReplaceRoutes("gateway", (out,)))
    wanted = {rule for family in desired.families for rule in _rules(family, desired)}
    if observed.gateway is not None:  # a new one has them, of the kernel's making
        wanted |= {rule for rule in FIRST_RULES if rule.family in desired.families}
    actions += [DeleteRule(r) for r in sorted(inside.rules - wanted - FIRST_RULES, key=_by_mark)]
    actions += [AddRule(r) for r in sorted(wanted - inside.rules, key=_by_mark)]
    return actions


def _connected(desired: GatewayDesired, observed: GatewayObserved, inside: Place) -> list[Action]:
    """The kernel makes them with the addresses. A flush of routes removes them, and then no other
    route can name the pair's far end."""
    actions: list[Action] = []
    ends: tuple[tuple[Where, Place, str], ...] = (
        ("node", observed.node, NODE_LINK),
        ("gateway", inside, INSIDE_LINK),
    )
    for index, (where, place, link) in enumerate(ends):
        known = {(r.destination, r.device) for r in place.routes}
        for end in (_PAIR[family][index] for family in desired.families):
            if (end.network, link) not in known:
                source = end.ip if end.version == 4 else None
                route = Route(destination=end.network, device=link, source=source)
                actions.append(ReplaceRoutes(where, (route,)))
    return actions


def _rules(family: Family, desired: GatewayDesired) -> Iterable[RoutingRule]:
    # Spares outbound packets the walk over one rule per configuration.
    yield RoutingRule(family=family, priority=900, table=MAIN, mark=0, mask=0xFFFF)
    for port in (s.port for c in desired.configurations if c.address(family) for s in c.servers):
        # What came back for a configuration's address goes to its interface. Only what came by
        # the pair.
        yield RoutingRule(
            family=family, priority=1000, table=port, mark=port, mask=0xFFFF, device=INSIDE_LINK
        )


FIRST_RULES: Final = frozenset(
    RoutingRule(family=family, priority=priority, table=table)
    for family in _DEFAULT
    for priority, table in ((0, LOCAL), (32766, MAIN), (32767, DEFAULT))[: 3 if family == 4 else 2]
)
"""Routing rules that a namespace begins with; IPv6 has no last one."""


def _by_mark(rule: RoutingRule) -> tuple[int, int]:
    return rule.family, rule.mark


def _server(
    wanted: WireGuardServer,
    configuration: ServedConfiguration,
    mtu: int,
    observed: GatewayObserved,
    inside: Place,
) -> list[Action]:
    name = wanted.interface
    device = observed.devices.get(name)
    link = inside.links.get(name)
    actions: list[Action] = []
    unmoved = name in observed.node.links
    deaf = wanted.port not in observed.bound
    if device is None or deaf or (link is None and not unmoved):
        if wanted.private_key is None:
            return []
        if link is not None or unmoved:
            actions.append(DeleteTunnel(name))
        config = Config(private_key=wanted.private_key, listen_port=wanted.port, replace_peers=True)
        actions += [CheckPort(wanted.port), CreateTunnel(name), ConfigureTunnel(name, config)]
        actions += [MoveTunnel(name), RaiseLink("gateway", name, mtu - OVERHEAD)]
        link = None
    else:
        private = wanted.private_key
        rekey = private is not None and device.public_key != keys.public_key(private)
        if rekey or device.listen_port != wanted.port:
            config = Config(private_key=wanted.private_key, listen_port=wanted.port)
            actions.append(ConfigureTunnel(name, config))
        if link is None:
            actions.append(MoveTunnel(name))
        if link is None or not link.up or link.mtu != mtu - OVERHEAD:
            actions.append(RaiseLink("gateway", name, mtu - OVERHEAD))
        known = inside.sysctls
        wrong = ((k, v) for k, v in link_sysctls(name) if known.get(k, v) not in (v, None))
        actions += [SetSysctl("gateway", key, value) for key, value in wrong]
    for back in _ways_back(wanted, configuration):
        if link is None or not link.up or back not in inside.routes:
            actions.append(ReplaceRoutes("gateway", (back,)))
    return actions


def _sorted(routes: set[Route]) -> tuple[Route, ...]:
    return tuple(sorted(routes, key=lambda r: str(r.destination)))
