"""A gateway's plan: a damaged or foreign state converges, faults stay with their configuration."""

from __future__ import annotations

import dataclasses
import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.api import keys
from egress_gateway.datapath.gateway import actions as ga
from egress_gateway.datapath.gateway import plan as g
from egress_gateway.datapath.gateway.ruleset import INSIDE_LINK, NODE_LINK
from egress_gateway.datapath.gateway.served import ServedConfiguration
from egress_gateway.datapath.gateway.side import peer_changes
from egress_gateway.datapath.linux.link import MAIN, Link, Route, RoutingRule
from egress_gateway.datapath.wireguard.model import Config, Device, PeerStatus

PRIVATE = [keys.generate().private for _ in range(4)]
PUBLIC = {private: keys.public_key(private) for private in PRIVATE}


def configuration(
    index: int, *, secondary: int | None = None, key: int | None = None
) -> ServedConfiguration:
    last = 100 + (index if secondary is None else secondary)
    return ServedConfiguration(
        name=f"default/c{index}",
        port=6000 + index,
        private_key=PRIVATE[index if key is None else key],
        secondary=ipaddress.IPv4Address(f"10.1.1.{last}"),
    )


def desired(*configurations: ServedConfiguration) -> g.GatewayDesired:
    return g.GatewayDesired(
        primary=ipaddress.IPv4Address("10.1.1.4"), configurations=configurations
    )


class Simulated:
    """Both namespaces, as values."""

    def __init__(self) -> None:
        self.observed = g.GatewayObserved(node=g.Place(links={"eth0": Link(1, "eth0", True, 1500)}))

    def _place(self, where: ga.Where) -> g.Place:
        place = self.observed.node if where == "node" else self.observed.gateway
        assert place is not None, "nothing is done in a namespace that is not there"
        return place

    def _set(self, where: ga.Where, **changes: object) -> None:
        place = dataclasses.replace(self._place(where), **changes)  # type: ignore[arg-type]
        if where == "node":
            self.observed = dataclasses.replace(self.observed, node=place)
        else:
            self.observed = dataclasses.replace(self.observed, gateway=place)

    def _devices(self, devices: dict[str, Device]) -> None:
        bound = frozenset(d.listen_port for d in devices.values())
        self.observed = dataclasses.replace(self.observed, devices=devices, bound=bound)

    def apply(self, action: ga.Action) -> None:
        match action:
            case ga.CreateNamespace():
                fresh = g.Place(rules=g.FIRST_RULES)
                self.observed = dataclasses.replace(self.observed, gateway=fresh)
            case ga.CreatePair():
                for where, name in (("node", NODE_LINK), ("gateway", INSIDE_LINK)):
                    place = self._place(where)  # type: ignore[arg-type]
                    links = {**place.links, name: Link(2, name, False, 1500)}
                    routes = frozenset(r for r in place.routes if r.device != name)
                    self._set(where, links=links, addresses=frozenset(), routes=routes)  # type: ignore[arg-type]
            case ga.SetSysctl(where, name, value):
                self._set(where, sysctls={**self._place(where).sysctls, name: value})
            case ga.AddAddress(where, _, address):
                self._set(where, addresses=self._place(where).addresses | {address.ip})
            case ga.RaiseLink(where, name, mtu):
                assert name in self._place(where).links
                raised = {**self._place(where).links, name: Link(2, name, True, mtu or 1500)}
                self._set(where, links=raised)
            case ga.ApplyFilter(where, ruleset, _):
                self._set(where, filter=ruleset)
            case ga.ReplaceRoutes(where, routes):
                place = self._place(where)
                assert all(r.device in place.links for r in routes)
                keys_ = {(r.table, r.destination) for r in routes}
                left = {r for r in place.routes if (r.table, r.destination) not in keys_}
                self._set(where, routes=frozenset(left | set(routes)))
            case ga.DeleteRoutes(where, routes):
                self._set(where, routes=self._place(where).routes - set(routes))
            case ga.AddRule(rule):
                self._set("gateway", rules=self._place("gateway").rules | {rule})
            case ga.DeleteRule(rule):
                self._set("gateway", rules=self._place("gateway").rules - {rule})
            case ga.ForgetTranslated():
                pass
            case _:
                self._tunnel(action)

    def _tunnel(self, action: ga.Action) -> None:
        devices = dict(self.observed.devices)
        match action:
            case ga.CheckPort(port):
                assert port not in self.observed.bound
            case ga.CreateTunnel(name):
                devices[name] = Device(public_key="", listen_port=0, fwmark=0, peers={})
                links = {**self._place("node").links, name: Link(5, name, False, 1420)}
                self._set("node", links=links)
            case ga.ConfigureTunnel(name, config):
                device = devices[name]
                devices[name] = dataclasses.replace(
                    device,
                    listen_port=config.listen_port or device.listen_port,
                    public_key=PUBLIC[config.private_key]
                    if config.private_key
                    else device.public_key,
                )
            case ga.MoveTunnel(name):
                links = dict(self._place("node").links)
                inside = {**self._place("gateway").links, name: links.pop(name)}
                self._set("node", links=links)
                self._set("gateway", links=inside)
            case ga.DeleteTunnel(name):
                devices.pop(name, None)
                for where in ("node", "gateway"):
                    place = self._place(where)
                    links = {n: v for n, v in place.links.items() if n != name}
                    routes = frozenset(r for r in place.routes if r.device != name)
                    self._set(where, links=links, routes=routes)
        self._devices(devices)


def test_filters_come_before_anything_that_could_carry_a_packet() -> None:
    steps = g.plan(desired(configuration(0)), Simulated().observed)
    kinds = [type(s.action).__name__ for s in steps]
    assert max(i for i, k in enumerate(kinds) if k == "ApplyFilter") < kinds.index("CreateTunnel")
    assert kinds.index("ApplyFilter") < kinds.index("ReplaceRoutes")
    assert {s.port for s in steps if "Tunnel" in type(s.action).__name__} == {6000}


_WISHES = st.lists(
    st.lists(
        st.builds(
            configuration,
            st.integers(0, 3),
            secondary=st.integers(0, 3),
            key=st.integers(0, 3),
        ),
        max_size=4,
        unique_by=(lambda c: c.port, lambda c: c.secondary),
    ),
    min_size=1,
    max_size=4,
)


@given(wishes=_WISHES, stops=st.lists(st.integers(0, 40)))
def test_interrupted_anywhere_it_converges(
    wishes: list[list[ServedConfiguration]], stops: list[int]
) -> None:
    world = Simulated()
    for wish, stop in zip(wishes, [*stops, 99, 99, 99, 99], strict=False):
        for step in g.plan(desired(*wish), world.observed)[:stop]:
            world.apply(step.action)
    last = desired(*wishes[-1])
    for step in g.plan(last, world.observed):
        world.apply(step.action)
    assert g.plan(last, world.observed) == []
    assert world.observed.gateway is not None
    names = {n for n in world.observed.gateway.links if n.startswith("wg-")}
    assert names == {c.interface for c in wishes[-1]}
    assert {r.table for r in world.observed.gateway.routes} - {MAIN} == {c.port for c in wishes[-1]}


def test_a_configuration_without_a_key_goes_on_and_is_not_made() -> None:
    world = Simulated()
    for step in g.plan(desired(configuration(0)), world.observed):
        world.apply(step.action)
    keyless = [dataclasses.replace(configuration(i), private_key=None) for i in (0, 1)]
    steps = g.plan(desired(*keyless), world.observed)
    assert not [s for s in steps if isinstance(s.action, ga.CreateTunnel | ga.DeleteTunnel)]


def test_what_others_put_into_the_gateways_namespace_goes_and_nothing_else() -> None:
    world, wish = Simulated(), desired(configuration(0))
    for step in g.plan(wish, world.observed):
        world.apply(step.action)
    inside = world.observed.gateway
    assert inside is not None
    network, other = (ipaddress.IPv4Network(n) for n in ("198.51.100.0/24", "203.0.113.0/24"))
    routes = [Route(destination=network, kind="blackhole"), Route(destination=other, table=6000)]
    rule = RoutingRule(family=4, priority=5, table=99)
    damaged = dataclasses.replace(
        inside,
        links={
            **inside.links,
            "other": Link(9, "other", True, 1420, kind="tun"),
            "sit0": Link(10, "sit0", False, 1480, kind="sit"),
        },
        routes=inside.routes | {*routes, Route(destination=network, device="lo")},
        rules=inside.rules | {rule},
        other_rules=frozenset({b"raw"}),
    )
    found = g.plan(wish, dataclasses.replace(world.observed, gateway=damaged))
    assert [step.action for step in found] == [
        ga.DeleteLink("other"),
        ga.DeleteRoutes("gateway", tuple(routes)),
        ga.DeleteOtherRule(b"raw"),
        ga.DeleteRule(rule),
    ]


def test_a_changed_secondary_ends_the_connections_of_the_old() -> None:
    world = Simulated()
    for step in g.plan(desired(configuration(0)), world.observed):
        world.apply(step.action)
    old = ipaddress.IPv4Address("10.1.1.100")
    observed = dataclasses.replace(world.observed, translated=frozenset({old}))
    steps = g.plan(desired(configuration(0, secondary=3)), observed)
    kinds = [type(s.action).__name__ for s in steps]
    assert g.PlannedAction(ga.ForgetTranslated(old)) in steps
    assert kinds.index("ApplyFilter") < kinds.index("ForgetTranslated")
    assert "CreateTunnel" not in kinds


def test_only_peers_that_differ_are_told_to_an_interface() -> None:
    def have(*addresses: str) -> PeerStatus:
        return PeerStatus(
            public_key="",
            endpoint=None,
            allowed_ips=frozenset(ipaddress.ip_network(a) for a in addresses),
            last_handshake=0,
            received=0,
            sent=0,
        )

    wanted = {
        "same": [ipaddress.ip_network("10.0.0.1")],
        "moved": [ipaddress.ip_network("10.0.0.2")],
        "new": [ipaddress.ip_network("10.0.0.3")],
    }
    found = {"same": have("10.0.0.1"), "moved": have("10.0.0.9"), "gone": have("10.0.0.4")}
    change = peer_changes(wanted, found)
    assert change.remove_peers == ("gone",)
    assert {p.public_key for p in change.peers} == {"moved", "new"}
    assert not any(p.fresh for p in change.peers), "sessions go on"
    assert peer_changes({}, {}) == Config()


def test_a_nodes_surroundings_are_its_uplinks_and_the_networks_on_them() -> None:
    four = ipaddress.IPv4Network
    gateway = ipaddress.IPv4Address("10.1.0.1")
    routes = [
        Route(destination=four("0.0.0.0/0"), gateway=gateway, device="eth0"),
        Route(destination=four("10.1.0.0/16"), device="eth0"),
        Route(destination=four("10.244.3.0/24"), device="cbr0"),
        Route(destination=four("10.244.3.7/32"), device="azv1234"),
        Route(destination=four("10.1.1.101/32"), gateway=gateway, device=NODE_LINK),
        Route(destination=four("192.0.2.0/24"), kind="unreachable"),
    ]
    found = g.surroundings(routes)
    assert found == g.Surroundings(uplinks=frozenset({"eth0"}), networks=(four("10.1.0.0/16"),))
    assert g.surroundings([]) == g.Surroundings()


def test_a_destination_names_a_network_only_from_within_it() -> None:
    local = [ipaddress.IPv4Network("10.1.0.0/16")]
    named = ("10.1.7.0/25", "10.1.7.128/25", "0.0.0.0/0", "10.0.0.0/8", "172.16.0.0/12", "::/0")
    one = dataclasses.replace(
        configuration(0), destinations=tuple(ipaddress.ip_network(n) for n in named)
    )
    assert one.permitted(local) == [ipaddress.IPv4Network("10.1.7.0/24")]
    assert one.permitted([]) == []


def test_the_nodes_own_address_is_never_removed() -> None:
    wanted = desired(configuration(0), configuration(1, secondary=-96))  # 10.1.1.4, the primary
    own = {("eth0", ipaddress.IPv4Interface(f"10.1.1.{last}/24")) for last in (4, 100, 200)}
    observed = dataclasses.replace(Simulated().observed, own=frozenset(own))
    removed = [s.action for s in g.plan(wanted, observed) if isinstance(s.action, ga.RemoveAddress)]
    assert removed == [ga.RemoveAddress("eth0", ipaddress.IPv4Interface("10.1.1.100/24"))]
