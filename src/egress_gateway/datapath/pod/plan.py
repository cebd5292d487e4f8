"""What an attached pod should look like, what it looks like, and the steps between. Pure.

Order is the guarantee: the hold is the first step of every plan that needs it and the last to go,
and routes change only behind it, so a plan may be interrupted after any step.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal

from egress_gateway.api import keys
from egress_gateway.datapath.addresses import ECHO_ADDRESS, IPNetwork, within
from egress_gateway.datapath.linux.link import MAIN, Link, Route, RoutingRule
from egress_gateway.datapath.pod.actions import (
    Action,
    AddRule,
    AllowSource,
    ApplyFilter,
    ConfigureTunnel,
    CreateTunnel,
    DeleteLink,
    DeleteRoutes,
    DeleteRule,
    ForgetSource,
    GuardLink,
    MoveTunnel,
    RaiseLink,
    ReplaceRoutes,
    SetSysctl,
)
from egress_gateway.datapath.pod.model import (
    PodDesired,
    PodObserved,
    Tunnel,
)
from egress_gateway.datapath.pod.ruleset import (
    LEG,
    LEGS,
    LINKS,
    MARK,
    NESTED,
    NESTED_KIND,
    WITHIN_KINDS,
)
from egress_gateway.datapath.wireguard.model import Config, Device, Peer, PeerStatus

ROUTES: Final = 25959
"""Routing table of the tunnel in the pod ("eg" in ASCII). The main table is never touched, so
taking the tunnel away needs no memory of what was there before."""
_PRIORITY: Final = 32765
"""Just before the main table (32766): whoever else has rules in the pod has them before this, since
that is where the kernel puts a rule without a priority, and meshes and VPNs choose smaller ones
(Istio 32764, Tailscale 5210 to 5270)."""
_FAMILIES: Final[tuple[Literal[4, 6], ...]] = (4, 6)
RULES: Final = tuple(
    # What came in by an ordinary link has the mark, and goes back as if we were not there.
    RoutingRule(family=family, priority=_PRIORITY, table=ROUTES, mark=0, mask=MARK)
    for family in _FAMILIES
)
EARLIER_RULES: Final = tuple(
    rule
    for family in _FAMILIES
    for rule in (
        RoutingRule(family=family, priority=1000, table=MAIN, mark=MARK, mask=MARK),
        RoutingRule(family=family, priority=1001, table=ROUTES),
        *(
            RoutingRule(family=family, priority=1000, table=ROUTES + 1, mark=leg, mask=LEGS)
            for leg in LEG.values()
        ),
    )
)
"""Those of a version that overtook everybody else's."""
KEPT_ROUTES: Final = ROUTES + 1
"""Routing table of the tunnel that only its own connections use."""
KEPT_RULES: Final = {
    link: tuple(
        RoutingRule(
            family=family, priority=_PRIORITY - 1, table=KEPT_ROUTES, mark=leg, mask=MARK | LEGS
        )
        for family in _FAMILIES
    )
    for link, leg in LEG.items()
}
REVERSE_PATH: Final = "net/ipv4/conf/{}/rp_filter"
"""Of "all" and the link's own the greater counts (kernel's ip-sysctl)."""
_STRICT, _LOOSE = "1", "2"
TUNNEL_SYSCTLS: Final = (
    # Nobody on the other side is a router of ours, and addresses are the pod's own.
    ("net/ipv6/conf/{}/accept_ra", "0"),
    ("net/ipv6/conf/{}/addr_gen_mode", "1"),
    # Strict reverse path checks must follow the mark. Of the tunnels' links alone: with it, marks
    # of somebody else's make the kernel take packets that come in elsewhere for martians.
    ("net/ipv4/conf/{}/src_valid_mark", "1"),
)
_IPV6_ON: Final = ("net/ipv6/conf/{}/disable_ipv6", "0")
_EVERYWHERE4: Final = ipaddress.IPv4Network("0.0.0.0/0")
_EVERYWHERE6: Final = ipaddress.IPv6Network("::/0")


_MAKING: Final = (AllowSource, DeleteLink, CreateTunnel, ConfigureTunnel, MoveTunnel)


def plan(desired: PodDesired, observed: PodObserved) -> list[Action]:
    """The steps from ``observed`` to ``desired``; none when they agree."""
    return [
        *_filter(desired, observed),
        *(() if observed.guarded else (GuardLink(),)),
        *_reverse_path(observed),
        *(step for tunnel in desired.tunnels for step in _tunnel(desired, tunnel, observed)),
        *(
            DeleteLink(link)
            for link in LINKS
            if desired.by_link(link) is None and observed.tunnel(link).link
        ),
        *_routing(desired, observed),
    ]


def move(desired: PodDesired, reached: PodDesired | None) -> list[Action] | None:
    """The steps from ``reached``, the last known state, to ``desired`` if only the tunnel's other
    end changes; None if there is more to do, or no move. These steps need no look at the pod: when
    a gateway is lost, hundreds of pods wait for their turn."""
    old, new = (reached.active if reached else None), desired.active
    if reached is None or old is None or new is None or old.listen_port == new.listen_port:
        return None
    led = replace(
        old,
        endpoint=new.endpoint,
        listen_port=new.listen_port,
        peer_key=new.peer_key,
        keepalive=new.keepalive,
    )
    if led != new or replace(reached, active=new) != desired:
        return None
    whole = configuration(new, ipv6=desired.tunnel_ipv6, observed=None)
    return [
        AllowSource(new.listen_port, new.endpoint.address),
        ConfigureTunnel(replace(whole, private_key=None), new.link),
        ForgetSource(old.listen_port),
    ]


def apart(
    actions: Sequence[Action],
) -> tuple[Sequence[Action], Sequence[Action], Sequence[Action]]:
    """Of a first attachment: what makes the tunnel and brings its link into the pod, what puts the
    hold in place, and what may begin when both are done. The first two may go on beside each
    other, since a link that is down and has no route carries nothing. Of other plans all is in the
    last part."""
    fresh = any(isinstance(a, ApplyFilter) and not a.present for a in actions)
    if not fresh or not any(isinstance(a, MoveTunnel) for a in actions):
        return (), (), actions
    tunnel = [a for a in actions if isinstance(a, _MAKING)]
    # A tunnel's own settings wait for its link.
    start = next(i for i, a in enumerate(actions) if isinstance(a, _MAKING))
    rest = [a for a in actions[start:] if not isinstance(a, _MAKING)]
    return tunnel, actions[:start], rest


def sysctls(links: Iterable[str]) -> list[str]:
    """What is to be observed. ``links`` of the pod."""
    ordinary = sorted({*links} - {"lo", *LINKS})
    return [REVERSE_PATH.format(name) for name in ("all", *ordinary)]


def _reverse_path(observed: PodObserved) -> list[SetSysctl]:
    """A packet that comes in by an ordinary link from a destination of the gateway has its return
    path through the tunnel, unless it has a mark. ARP knows no marks: a strict pod would answer no
    node that asks with such an address (169.254.1.1, say)."""
    common = REVERSE_PATH.format("all")
    everywhere = dict(observed.sysctls).get(common) or "0"
    return [
        SetSysctl(name, _LOOSE)
        for name, value in observed.sysctls
        if name != common and max(everywhere, value or "0") == _STRICT
    ]


def _filter(desired: PodDesired, observed: PodObserved) -> list[Action]:
    if observed.filter == desired.filter:
        return []
    return [ApplyFilter(desired.filter, observed.filter is not None, observed.origins)]


def _tunnel(desired: PodDesired, tunnel: Tunnel, world: PodObserved) -> list[Action]:
    name, observed = tunnel.link, world.tunnel(tunnel.link)
    actions: list[Action] = []
    source = tunnel.endpoint.address
    if observed.source != source:
        # Before the port is opened, so that nobody else is ever heard on it.
        actions.append(AllowSource(tunnel.listen_port, source))
    if observed.device is None or not (observed.link or observed.unmoved):
        if observed.link:
            actions.append(DeleteLink(name))
        whole = configuration(tunnel, ipv6=desired.tunnel_ipv6, observed=None)
        return [
            *actions,
            CreateTunnel(tunnel.name),
            ConfigureTunnel(whole, name),
            MoveTunnel(tunnel.name, name),
            *_link_sysctls(desired, name, ()),
            RaiseLink(name, tunnel.mtu),
        ]
    known = None if observed.unmoved else observed.device
    change = configuration(tunnel, ipv6=desired.tunnel_ipv6, observed=known)
    if change != Config():
        actions.append(ConfigureTunnel(change, name))
        if known is not None and known.listen_port != tunnel.listen_port:
            actions.append(ForgetSource(known.listen_port))
    link = observed.link
    if link is None:
        actions.append(MoveTunnel(tunnel.name, name))
    actions += _link_sysctls(desired, name, observed.sysctls if link else ())
    if link is None or not link.up or link.mtu != tunnel.mtu:
        actions.append(RaiseLink(name, tunnel.mtu))
    return actions


def link_sysctls(desired: PodDesired, name: str) -> list[tuple[str, str]]:
    """Of a tunnel's link. Runtimes that turn IPv6 off by default turn it off here too."""
    wanted = [*TUNNEL_SYSCTLS, *([_IPV6_ON] if desired.tunnel_ipv6 else [])]
    return [(key.format(name), value) for key, value in wanted]


def _link_sysctls(
    desired: PodDesired, name: str, found: Iterable[tuple[str, str | None]]
) -> list[SetSysctl]:
    known = dict(found)
    # A kernel without IPv6 has no such keys.
    return [
        SetSysctl(key, value)
        for key, value in link_sysctls(desired, name)
        if known.get(key, "") not in (value, None)
    ]


def configuration(tunnel: Tunnel, *, ipv6: bool, observed: Device | None) -> Config:
    """The one call that makes the device right; an empty ``Config`` if it is."""
    peer = _peer(tunnel, ipv6=ipv6)
    if observed is None:
        return Config(
            private_key=tunnel.private_key,
            listen_port=tunnel.listen_port,
            replace_peers=True,
            peers=(peer,),
        )
    rekey = observed.public_key != keys.public_key(tunnel.private_key)
    moved = observed.listen_port != tunnel.listen_port
    known = observed.peers.get(tunnel.peer_key)
    # A session with the gateway that was left must not go on over the new path.
    fresh = rekey or moved or known is None or known.endpoint != tunnel.endpoint
    settled = known is not None and not fresh and _matches(known, peer)
    return Config(
        private_key=tunnel.private_key if rekey else None,
        listen_port=tunnel.listen_port if moved else None,
        remove_peers=tuple(key for key in observed.peers if key != tunnel.peer_key),
        peers=() if settled else (replace(peer, fresh=fresh),),
    )


def handshake_anew(tunnel: Tunnel, *, ipv6: bool) -> Config:
    """The same peer without a session: a handshake begins, and a cookie is lost."""
    return Config(peers=(replace(_peer(tunnel, ipv6=ipv6), fresh=True),))


def another_key() -> Config:
    """A key that nobody knows, for a moment. A change of the key ends all sessions, and the wait of
    ``REKEY_TIMEOUT`` after the last initiation; peers stay, and with them their cookies (Linux:
    ``wg_noise_expire_current_peer_keypairs``, wireguard-go: ``ExpireCurrentKeypairs``)."""
    return Config(private_key=keys.generate().private)


def own_key_again(tunnel: Tunnel, *, ipv6: bool, fresh: bool) -> tuple[Config, ...]:
    """What follows ``another_key``. A keepalive that was off and is on begins a handshake."""
    peer = _peer(tunnel, ipv6=ipv6)
    if fresh:
        return (Config(private_key=tunnel.private_key, peers=(replace(peer, fresh=True),)),)
    quiet = Config(private_key=tunnel.private_key, peers=(replace(peer, keepalive=0),))
    return (quiet, Config(peers=(peer,)))


def _peer(tunnel: Tunnel, *, ipv6: bool) -> Peer:
    return Peer(
        public_key=tunnel.peer_key,
        allowed_ips=(_EVERYWHERE4, _EVERYWHERE6) if ipv6 else (_EVERYWHERE4,),
        endpoint=tunnel.endpoint,
        keepalive=tunnel.keepalive,
    )


def _matches(status: PeerStatus, peer: Peer) -> bool:
    same_reach = status.allowed_ips == frozenset(peer.allowed_ips)
    return same_reach and status.keepalive == peer.keepalive


def _routing(desired: PodDesired, observed: PodObserved) -> list[Action]:
    wanted = frozenset(
        desired_routes(desired, ipv6=observed.ipv6, others=observed.others, exempt=observed.exempt)
    )
    new = {link: observed.tunnel(link).is_new for link in LINKS}
    # A new link's routes went with its predecessor, whatever was seen before.
    added = {r for r in wanted if r not in observed.routes or new.get(r.device or "")}
    # A route of the same destination is replaced in one step, so that a packet finds the old one
    # or the new one. One that is beside the new one (another metric) goes when that is there.
    places = {(r.table, r.destination) for r in added}
    gone = {r for r in observed.routes - wanted if (r.table, r.destination) not in places}
    bound = KEPT_RULES[desired.standby.link] if desired.standby else ()
    surplus = [r for rules in KEPT_RULES.values() for r in rules if r not in bound]
    return [
        # What must stay on its tunnel is bound to it before the others go elsewhere.
        *_table(KEPT_ROUTES, gone, added),
        *_missing(bound, observed),
        *_table(ROUTES, gone, added),
        *_missing(RULES, observed),
        *(DeleteRule(rule) for rule in (*surplus, *EARLIER_RULES) if rule in observed.rules),
    ]


def _table(table: int, gone: Iterable[Route], added: Iterable[Route]) -> list[Action]:
    # Adding first would put a route of the same destination in place and then take it away.
    less = tuple(sorted((r for r in gone if r.table == table), key=_order))
    more = tuple(sorted((r for r in added if r.table == table), key=_order))
    return [*([DeleteRoutes(less)] if less else []), *([ReplaceRoutes(more)] if more else [])]


def _missing(rules: Iterable[RoutingRule], observed: PodObserved) -> list[Action]:
    wanted = (r for r in rules if observed.ipv6 or r.family == 4)
    return [AddRule(rule) for rule in wanted if rule not in observed.rules]


def _order(route: Route) -> tuple[int, int, str]:
    return route.table, route.destination.version, str(route.destination)


def others_routes(
    main: Iterable[Route], links: Mapping[str, Link], interface: str
) -> frozenset[IPNetwork]:
    """Destinations that somebody else's routes in the main table keep: those that lead nowhere, and
    those by a link whose packets do not leave the pod, a VPN's above all, even if they are all that
    there is. A route by a link that does would lead what is the gateway's into the hold."""
    found = list(main)
    others = {n: link.kind for n, link in links.items() if n not in (interface, *LINKS)}

    def inside(route: Route) -> bool:
        kind = others.get(route.device or "")
        if kind in WITHIN_KINDS or route.destination.prefixlen == 0:
            return kind in WITHIN_KINDS
        nested = kind == NESTED_KIND and _inside(route.destination, NESTED)
        return nested or route.device == "lo" or route.kind != "unicast"

    kept = {r.destination for r in found if inside(r)}
    return frozenset(kept - {r.destination for r in found if r.device == interface})


def exempt_routes(
    main: Iterable[Route], others: Collection[IPNetwork], interface: str
) -> frozenset[IPNetwork]:
    """Destinations inside ``others`` that the ordinary link has routes for: a VPN's own servers.
    They are the gateway's like all that leaves the pod."""
    beside = {r.destination for r in main if r.device == interface}
    return frozenset(n for n in beside if _inside(n, others))


def desired_routes(
    desired: PodDesired,
    *,
    ipv6: bool,
    others: frozenset[IPNetwork] = frozenset(),
    exempt: frozenset[IPNetwork] = frozenset(),
) -> list[Route]:
    """Table ``ROUTES``: the gateway's destinations lead into the tunnel, the others are thrown
    back to the main table, and so are ``others``, but for ``exempt``. ``KEPT_ROUTES`` has the same
    for the standby tunnel."""
    thrown = {n for n in others if not _inside(n, desired.split.direct)}
    tunneled = {n for n in exempt if _inside(n, thrown) and not _inside(n, desired.split.direct)}
    routes: list[Route] = []
    for family in (4, 6) if ipv6 else (4,):
        for tunnel, table in ((desired.active, ROUTES), (desired.standby, KEPT_ROUTES)):
            if tunnel is not None or table == ROUTES:
                routes += _family_routes(desired, tunnel, table, family, thrown, tunneled)
    return routes


def _inside(network: IPNetwork, others: Iterable[IPNetwork]) -> bool:
    return any(within(network, other) for other in others)


def _family_routes(
    desired: PodDesired,
    tunnel: Tunnel | None,
    table: int,
    family: Literal[4, 6],
    thrown: Collection[IPNetwork],
    tunneled: Collection[IPNetwork],
) -> list[Route]:
    """``thrown`` and ``tunneled``: on account of somebody else's routes."""
    source = next((a for a in desired.addresses if a.version == family), None)
    if source is None:
        return []
    carried = family == 4 or desired.tunnel_ipv6
    if carried and tunnel is None:
        return []  # the hold alone decides
    link = tunnel.link if tunnel else None
    echo = ipaddress.ip_network(ECHO_ADDRESS)
    found = {n: Route(destination=n, kind="throw", table=table) for n in desired.split.direct}
    for network in (*desired.split.tunneled, *tunneled):
        if carried:
            found[network] = Route(destination=network, device=link, source=source, table=table)
        else:
            # Held either way; this tells the application at once, so that it tries IPv4.
            found[network] = Route(destination=network, kind="unreachable", table=table)
    found |= {n: Route(destination=n, kind="throw", table=table) for n in thrown}
    if family == 4:
        # The gateway's own answer to probes comes from there.
        found[echo] = Route(destination=echo, device=link, source=source, table=table)
    return [route for network, route in found.items() if network.version == family]
