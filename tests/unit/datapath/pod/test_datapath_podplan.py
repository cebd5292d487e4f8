"""A pod's plan: the hold comes first, every interruption is safe, and plans end."""

from __future__ import annotations

import dataclasses
import ipaddress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from egress_gateway.api import keys
from egress_gateway.datapath.linux.link import Link, Route
from egress_gateway.datapath.linux.sockets import Flow
from egress_gateway.datapath.pod import actions as pa
from egress_gateway.datapath.pod import model
from egress_gateway.datapath.pod import plan as p
from egress_gateway.datapath.pod.origins import Origins
from egress_gateway.datapath.pod.ruleset import LINKS, replacement, split
from egress_gateway.datapath.wireguard.model import (
    Config,
    Device,
    Endpoint,
    Interface,
    PeerStatus,
)

PAIR = keys.generate()
GATEWAY = keys.generate().public
ADDRESS = ipaddress.ip_address("10.244.1.2")


def networks(*texts: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(t) for t in texts)


def tunnel(gateway: str = "10.1.1.4", listen: int = 20000, link: str = "wg0") -> model.Tunnel:
    return model.Tunnel(
        name=model.tunnel_name("abc", link=link),
        link=link,
        private_key=PAIR.private,
        peer_key=GATEWAY,
        endpoint=Endpoint(ipaddress.ip_address(gateway), 6000),
        listen_port=listen,
        mtu=1440,
    )


def desired(**changes: object) -> model.PodDesired:
    base = model.PodDesired(
        netns=Path("/run/netns/x"),
        addresses=(ADDRESS,),
        excluded=networks("10.0.0.0/8"),
        exceptions=networks("169.254.169.254/32"),
        active=tunnel(),
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


class Simulated:
    """A pod's namespace that does what the kernel would, and no more."""

    def __init__(self, observed: model.PodObserved) -> None:
        self.seen = observed
        self.sources: dict[int, object] = {}
        self.tunnels: dict[str, model.TunnelObserved] = {}
        self.names: dict[str, str] = {}

    def observe(self, wanted: model.PodDesired) -> model.PodObserved:
        found = {link: self._tunnel(link, wanted.by_link(link)) for link in LINKS}
        return dataclasses.replace(self.seen, tunnels=found)

    def _tunnel(self, link: str, tunnel: model.Tunnel | None) -> model.TunnelObserved:
        found = self.tunnels.get(link, model.TunnelObserved())
        if tunnel is None:
            return model.TunnelObserved(link=found.link)
        self.names[tunnel.name] = link
        source = self.sources.get(tunnel.listen_port)
        return dataclasses.replace(found, source=source)  # type: ignore[arg-type]

    def _change(self, where: str, **changes: object) -> None:
        found = self.tunnels.get(where, model.TunnelObserved())
        self.tunnels[where] = dataclasses.replace(found, **changes)  # type: ignore[arg-type]

    def apply(self, action: pa.Action) -> None:
        seen = self.seen
        change = dataclasses.replace
        match action:
            case pa.ApplyFilter(ruleset, _, _):
                seen = change(seen, filter=ruleset)
            case pa.SetSysctl(name, value) if "/wg" in name:
                link = name.split("/")[3]
                known = dict(self.tunnels[link].sysctls) | {name: value}
                self._change(link, sysctls=tuple(known.items()))
            case pa.SetSysctl(name, value):
                seen = change(seen, sysctls=((name, value),))
            case pa.AllowSource(port, source):
                self.sources[port] = source
            case pa.ForgetSource(port):
                self.sources.pop(port, None)
            case pa.CreateTunnel(name):
                empty = Device(public_key="", listen_port=0, fwmark=0, peers={})
                self._change(self.names[name], unmoved=True, link=None, device=empty)
            case pa.DeleteLink(link):
                kept = frozenset(r for r in seen.routes if r.device != link)
                seen = change(seen, routes=kept)
                self.tunnels.pop(link, None)
            case pa.ConfigureTunnel(config, link):
                device = self.tunnels[link].device
                assert device is not None
                self._change(link, device=_configured(device, config))
            case pa.MoveTunnel(_, link):
                assert self.tunnels[link].unmoved
                self._change(link, unmoved=False, link=Link(9, link, False, 1420), sysctls=())
            case pa.RaiseLink(link, mtu):
                assert self.tunnels[link].link is not None
                self._change(link, link=Link(9, link, True, mtu))
            case pa.ReplaceRoutes(routes):
                for name in {r.device for r in routes if r.device}:
                    found = self.tunnels[name].link
                    assert found is not None
                    assert found.up
                where = {(r.table, r.destination) for r in routes}
                left = {r for r in seen.routes if (r.table, r.destination) not in where}
                seen = change(seen, routes=frozenset(left | set(routes)))
            case pa.DeleteRoutes(routes):
                # The kernel deletes by destination, whatever else the route says.
                where = {(r.table, r.destination) for r in routes}
                kept = frozenset(r for r in seen.routes if (r.table, r.destination) not in where)
                seen = change(seen, routes=kept)
            case pa.AddRule(rule):
                seen = change(seen, rules=seen.rules | {rule})
            case pa.DeleteRule(rule):
                seen = change(seen, rules=seen.rules - {rule})
        self.seen = seen


def _configured(device: Device, config: Config) -> Device:
    peers = {} if config.replace_peers else dict(device.peers)
    for key in config.remove_peers:
        peers.pop(key, None)
    for peer in config.peers:
        peers[peer.public_key] = PeerStatus(
            public_key=peer.public_key,
            endpoint=peer.endpoint,
            allowed_ips=frozenset(peer.allowed_ips),
            last_handshake=0,
            received=0,
            sent=0,
            keepalive=peer.keepalive,
        )
    private = config.private_key
    return dataclasses.replace(
        device,
        public_key=keys.public_key(private) if private else device.public_key,
        listen_port=device.listen_port if config.listen_port is None else config.listen_port,
        peers=peers,
    )


def converge(world: Simulated, wanted: model.PodDesired) -> list[pa.Action]:
    actions = p.plan(wanted, world.observe(wanted))
    for action in actions:
        world.apply(action)
    return actions


def test_the_hold_is_the_first_step_of_an_attach() -> None:
    actions = p.plan(desired(), model.PodObserved())
    assert isinstance(actions[0], pa.ApplyFilter)
    kinds = [type(a).__name__ for a in actions]
    assert kinds.index("AllowSource") < kinds.index("CreateTunnel") < kinds.index("MoveTunnel")
    assert kinds.index("RaiseLink") < kinds.index("ReplaceRoutes") < kinds.index("AddRule")


def test_a_move_changes_port_and_peer_in_one_call_and_touches_nothing_else() -> None:
    world = Simulated(model.PodObserved())
    converge(world, desired())
    actions = converge(world, desired(active=tunnel("10.1.1.5", 20001)))
    allow, configure, forget = actions
    assert allow == pa.AllowSource(20001, ipaddress.ip_address("10.1.1.5"))
    assert isinstance(configure, pa.ConfigureTunnel)
    assert configure.config.listen_port == 20001
    assert [peer.fresh for peer in configure.config.peers] == [True]
    assert forget == pa.ForgetSource(20000)


def test_a_move_of_a_pod_that_is_known_needs_no_look_and_ends_where_a_look_does() -> None:
    looked, known = Simulated(model.PodObserved()), Simulated(model.PodObserved())
    for world in (looked, known):
        converge(world, desired())
    there = desired(active=tunnel("10.1.1.5", 20001))
    converge(looked, there)
    steps = p.move(there, desired())
    assert steps is not None
    for action in steps:
        known.apply(action)
    assert known.observe(there) == looked.observe(there)
    assert p.plan(there, known.observe(there)) == []
    assert [config.private_key for config in _configs(steps)] == [None]


def test_a_cookie_is_shown_by_the_peer_that_has_it_under_the_pods_own_key() -> None:
    wish = tunnel()
    other = p.another_key()
    assert other.private_key not in (None, wish.private_key)
    assert other != p.another_key()
    whole = p.configuration(wish, ipv6=True, observed=None)
    quiet, loud = p.own_key_again(wish, ipv6=True, fresh=False)
    assert quiet.private_key == wish.private_key
    assert [peer.keepalive for peer in quiet.peers] == [0]
    assert loud.peers == whole.peers
    assert not any(peer.fresh for peer in (*quiet.peers, *loud.peers))
    (begun,) = p.own_key_again(wish, ipv6=True, fresh=True)
    assert begun.private_key == wish.private_key
    assert begun.peers == p.handshake_anew(wish, ipv6=True).peers


def test_an_agent_that_ended_while_it_showed_a_cookie_gives_the_pod_its_key_back() -> None:
    wish = tunnel()
    left = Device(public_key=keys.generate().public, listen_port=20000, fwmark=0, peers={})
    assert p.configuration(wish, ipv6=False, observed=left).private_key == wish.private_key


def _configs(actions: list[pa.Action]) -> list[Config]:
    return [a.config for a in actions if isinstance(a, pa.ConfigureTunnel)]


def test_whatever_else_is_to_change_makes_a_move_look() -> None:
    moved = tunnel("10.1.1.5", 20001)
    assert p.move(desired(active=moved), None) is None, "nothing is known"
    assert p.move(desired(), desired()) is None, "no move"
    assert p.move(desired(active=moved), desired(active=None)) is None
    assert p.move(desired(active=None), desired()) is None
    others = (
        desired(active=moved, excluded=networks("192.168.0.0/16")),
        desired(active=moved, tunnel_ipv6=True),
        desired(active=moved, standby=tunnel("10.1.1.6", 20002, "wg1")),
        desired(active=dataclasses.replace(moved, link="wg1")),
        desired(active=dataclasses.replace(moved, mtu=1420)),
    )
    for other in others:
        assert p.move(other, desired()) is None


def test_a_new_exclusion_leaves_the_session_alone() -> None:
    world = Simulated(model.PodObserved())
    converge(world, desired())
    actions = converge(world, desired(excluded=networks("10.0.0.0/8", "192.168.0.0/16")))
    assert {type(a).__name__ for a in actions} == {"ApplyFilter", "ReplaceRoutes"}


def test_what_is_known_of_older_connections_comes_with_the_table() -> None:
    flow = Flow(ipaddress.ip_address("198.51.100.10"), 50000, 8080)
    known = Origins(accepted=frozenset({flow}), ports=frozenset({50001}), older=True)
    first = p.plan(desired(), model.PodObserved(origins=known))[0]
    assert first == pa.ApplyFilter(desired().filter, False, known)
    text = replacement(desired().filter, known, None)
    assert "inbound4 { 198.51.100.10 . 50000 . 8080 }" in text
    assert "unclear_ports { 50001 }" in text


def parting(old: model.Tunnel, new: model.Tunnel) -> model.PodDesired:
    """New connections take ``new`` on wg1, old ones stay with ``old`` on wg0."""
    return desired(active=new, standby=old)


def test_a_planned_move_binds_old_connections_before_new_ones_go_elsewhere() -> None:
    world = Simulated(model.PodObserved())
    old, new = tunnel(), tunnel("10.1.1.5", 20001, "wg1")
    converge(world, desired(active=old))
    made = [type(a).__name__ for a in converge(world, desired(active=old, standby=new))]
    assert made.index("ApplyFilter") < made.index("CreateTunnel") < made.index("ReplaceRoutes")
    filter_, routes, rule, *rest = converge(world, parting(old, new))
    assert isinstance(filter_, pa.ApplyFilter)
    assert isinstance(routes, pa.ReplaceRoutes)
    assert {(r.table, r.device) for r in routes.routes} >= {(p.KEPT_ROUTES, "wg0")}
    assert isinstance(rule, pa.AddRule)
    assert rule.rule.table == p.KEPT_ROUTES
    # IPv4's destinations are replaced in one step: no packet finds no route.
    assert not any(
        r.table == p.ROUTES and r.destination.version == 4
        for a in rest
        if isinstance(a, pa.DeleteRoutes)
        for r in a.routes
    )
    assert {r.device for r in world.seen.routes if r.table == p.ROUTES} == {"wg1", None}


def test_when_the_grace_is_over_the_old_tunnel_goes_and_nothing_is_left_of_it() -> None:
    world = Simulated(model.PodObserved())
    old, new = tunnel(), tunnel("10.1.1.5", 20001, "wg1")
    for wish in (desired(active=old), desired(active=old, standby=new), parting(old, new)):
        converge(world, wish)
    last = desired(active=new)
    converge(world, last)
    assert "wg0" not in world.tunnels
    assert {r.table for r in world.seen.routes} == {p.ROUTES}
    assert world.seen.rules == frozenset(p.RULES)
    assert p.plan(last, world.observe(last)) == []


def test_ipv6_that_is_not_tunnelled_is_unreachable_but_for_the_exceptions() -> None:
    wanted = desired(
        addresses=(ADDRESS, ipaddress.ip_address("2001:db8::2")),
        exceptions=networks("2001:db8:1::/48"),
    )
    six = {r for r in p.desired_routes(wanted, ipv6=True) if r.destination.version == 6}
    kinds = {str(r.destination): r.kind for r in six}
    assert kinds["::/0"] == "unreachable"
    assert kinds["2001:db8:1::/48"] == "throw"
    assert not any(r.device for r in six)


def test_an_exception_is_never_swapped_even_by_a_narrower_exclusion() -> None:
    made = split(
        default_route=False,
        excluded=networks("10.244.5.0/24", "172.16.0.0/12"),
        exceptions=networks("10.244.0.0/16"),
    )
    assert made.tunneled == networks("172.16.0.0/12")
    assert networks("10.244.0.0/16")[0] in made.direct


def test_tunnel_names_fit_the_kernel_and_differ() -> None:
    found = {model.tunnel_name(f"container-{i}") for i in range(1000)}
    assert len(found) == 1000
    assert max(map(len, found)) <= 15
    again, other = model.tunnel_name("a", "eth0"), model.tunnel_name("a", "eth1")
    assert model.tunnel_name("a", "eth0") == again != other


_CIDRS = st.lists(
    st.sampled_from(
        networks("10.0.0.0/8", "10.244.0.0/16", "172.16.0.0/12", "0.0.0.0/0", "2001:db8::/32")
    ),
    max_size=4,
).map(tuple)
_DESIRED = st.builds(
    desired,
    excluded=_CIDRS,
    exceptions=_CIDRS,
    default_route=st.booleans(),
    tunnel_ipv6=st.booleans(),
    addresses=st.sampled_from([(ADDRESS,), (ADDRESS, ipaddress.ip_address("2001:db8::2"))]),
    active=st.sampled_from([None, tunnel(), tunnel("10.1.1.5", 20001), tunnel("10.1.1.5", 20002)]),
    standby=st.sampled_from([None, None, tunnel("10.1.1.6", 20003, "wg1")]),
)


def _swapped(wish: model.PodDesired) -> model.PodDesired:
    return dataclasses.replace(
        wish,
        active=wish.active and dataclasses.replace(wish.active, link="wg1"),
        standby=wish.standby and dataclasses.replace(wish.standby, link="wg0"),
    )


_DESIRED = st.one_of(_DESIRED, _DESIRED.map(_swapped))


@settings(deadline=None)
@given(wishes=st.lists(_DESIRED, min_size=1, max_size=4), stops=st.lists(st.integers(0, 8)))
def test_interrupted_anywhere_it_is_held_and_then_converges(
    wishes: list[model.PodDesired], stops: list[int]
) -> None:
    world = Simulated(model.PodObserved())
    for wish, stop in zip(wishes, [*stops, 99, 99, 99, 99], strict=False):
        actions = p.plan(wish, world.observe(wish))
        for action in actions[:stop]:
            world.apply(action)
            # From the first step on the table is the one that the wish asks for.
            assert world.seen.filter == wish.filter
    last = wishes[-1]
    converge(world, last)
    assert p.plan(last, world.observe(last)) == []


@given(wish=_DESIRED)
def test_nothing_of_the_gateways_is_routed_past_the_tunnel(wish: model.PodDesired) -> None:
    made = wish.split
    for route in p.desired_routes(wish, ipv6=True):
        if route.kind == "throw":
            assert route.destination in made.direct
        if route.device:
            carrier = wish.active if route.table == p.ROUTES else wish.standby
            assert carrier is not None
            assert route.device == carrier.link
            probe = str(route.destination) == "169.254.103.1/32"
            assert probe or route.destination in made.tunneled


def test_an_interface_handle_carries_both_names() -> None:
    assert Interface.__slots__ == ("name", "netns", "link")


def test_strict_reverse_path_checks_of_the_ordinary_link_are_loosened() -> None:
    keys = ("net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth0/rp_filter")
    for values, loosened in ((("0", "1"), True), (("1", "0"), True), (("1", "2"), False)):
        observed = model.PodObserved(sysctls=tuple(zip(keys, values, strict=True)))
        steps = [a for a in p.plan(desired(), observed) if isinstance(a, pa.SetSysctl)]
        assert (pa.SetSysctl(keys[1], "2") in steps) is loosened


def test_first_attachment_makes_the_tunnel_beside_the_hold_and_routes_after_both() -> None:
    actions = p.plan(desired(), model.PodObserved())
    tunnel, hold, rest = p.apart(actions)
    assert sorted(map(repr, (*tunnel, *hold, *rest))) == sorted(map(repr, actions))
    assert isinstance(hold[0], pa.ApplyFilter)
    assert isinstance(tunnel[0], pa.AllowSource)
    assert isinstance(tunnel[-1], pa.MoveTunnel)
    lifting = (pa.RaiseLink, pa.ReplaceRoutes, pa.AddRule)
    assert not any(isinstance(action, lifting) for action in (*tunnel, *hold))
    # With a hold in place already, or without a tunnel, one thing comes after the other.
    held = model.PodObserved(filter=desired().filter)
    for actions in (p.plan(desired(), held), p.plan(desired(active=None), model.PodObserved())):
        assert p.apart(actions) == ((), (), actions)


def test_our_rules_come_after_everybody_elses_and_before_the_main_table() -> None:
    rules = (*p.RULES, *(rule for kept in p.KEPT_RULES.values() for rule in kept))
    assert {rule.priority for rule in rules} <= {32764, 32765}
    assert not set(rules) & set(p.EARLIER_RULES)


def test_rules_of_an_earlier_version_go_when_ours_are_there() -> None:
    before = model.PodObserved(rules=frozenset(p.EARLIER_RULES))
    steps = [a for a in p.plan(desired(), before) if isinstance(a, pa.AddRule | pa.DeleteRule)]
    assert {a.rule for a in steps if isinstance(a, pa.DeleteRule)} == set(p.EARLIER_RULES)
    kinds = [type(a) for a in steps]
    assert kinds.index(pa.DeleteRule) == kinds.count(pa.AddRule)


def test_a_route_of_somebody_elses_is_kept_where_the_hold_lets_it_lead() -> None:
    vpn, second, own, nowhere, default = networks(
        "192.0.2.0/24", "192.168.7.0/24", "203.0.113.0/24", "198.18.0.0/15", "0.0.0.0/0"
    )
    both = networks("198.51.100.0/24")[0]
    main = {
        Route(destination=vpn, device="tun0"),
        Route(destination=default, device="net1"),
        Route(destination=second, device="net1"),
        Route(destination=own, device="eth0"),
        Route(destination=nowhere, kind="blackhole"),
        Route(destination=both, device="tun0"),
        Route(destination=both, device="eth0"),
        Route(destination=networks("192.0.2.0/25")[0], device="wg0"),
    }
    links = {
        "lo": Link(1, "lo", True, 65536),
        "eth0": Link(2, "eth0", True, 1500, "veth"),
        "net1": Link(3, "net1", True, 1500, "macvlan"),
        "tun0": Link(4, "tun0", True, 1420, "tun"),
        "wg0": Link(5, "wg0", True, 1420, "wireguard"),
    }
    others = p.others_routes(main, links, "eth0")
    assert others == {vpn, nowhere}
    made = {r.destination: r.kind for r in p.desired_routes(desired(), ipv6=False, others=others)}
    assert made[vpn] == made[nowhere] == "throw"
    assert made[default] == "unicast"


def test_a_vpn_that_takes_everything_but_its_own_server_keeps_it() -> None:
    """OpenVPN's two halves, and who replaces the default route."""
    halves = networks("0.0.0.0/1", "128.0.0.0/1")
    default, server, inside = networks("0.0.0.0/0", "203.0.113.9/32", "10.8.0.1/32")
    links = {
        "lo": Link(1, "lo", True, 65536),
        "eth0": Link(2, "eth0", True, 1500, "veth"),
        "tun0": Link(3, "tun0", True, 1420, "tun"),
    }
    beside = {Route(destination=n, device="eth0") for n in (server, inside)}
    unreachable = Route(destination=ipaddress.ip_network("::/0"), kind="unreachable", device="lo")
    own = Route(destination=default, device="eth0")
    for vpn, more in ((halves, {own}), ((default,), {unreachable})):
        main = {*beside, *more, *(Route(destination=n, device="tun0") for n in vpn)}
        others = p.others_routes(main, links, "eth0")
        assert others == {*vpn}
        exempt = p.exempt_routes(main, others, "eth0")
        made = p.desired_routes(desired(), ipv6=False, others=others, exempt=exempt)
        kinds = {r.destination: r.kind for r in made}
        assert {kinds[n] for n in vpn} == {"throw"}
        assert kinds[server] == "unicast"
        assert inside not in kinds, "it is excluded"
    # A link that is there beside the ordinary one, and not in its place.
    main = {own, Route(destination=default, device="tun0")}
    assert p.others_routes(main, links, "eth0") == set()
