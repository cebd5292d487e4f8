"""Resources in, kernel state out; no kernel."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway_lab.fabric.desired import Cut, Desired, Port, Route, Translations, plan
from egress_gateway_lab.fabric.linux.flows import Flow
from egress_gateway_lab.fabric.network import (
    BalancingRule,
    IpConfig,
    Network,
    Nic,
    OutboundRule,
    Probe,
)
from egress_gateway_lab.fabric.ruleset import SKELETON, loses, transaction

NODE, SECONDARY = IPv4Address("10.224.0.4"), IPv4Address("10.224.0.101")
LB, EGRESS, VIP = (IPv4Address(a) for a in ("192.0.2.4", "203.0.113.16", "10.224.0.200"))
CLIENT, SERVER = IPv4Address("10.224.0.9"), IPv4Address("198.51.100.10")
PROBE = Probe("probe", "http", 8082, "/gw/uid", 5.0, 1)


def nic(name: str, *configs: IpConfig) -> Nic:
    return Nic(name, None, IPv4Network("10.224.0.0/16"), configs)


def config(
    private: IPv4Address, *, public: IPv4Address | None = None, pools: tuple[str, ...] = ()
) -> IpConfig:
    return IpConfig(str(private), private, public, frozenset(pools), primary=private == NODE)


def rule(*, protocol: str = "udp", floating: bool = True) -> BalancingRule:
    return BalancingRule("rule", VIP, protocol, 6000, 6000, floating, "pool", PROBE, "Default")


def network(
    *nics: Nic,
    balancing: tuple[BalancingRule, ...] = (),
    outbound: tuple[OutboundRule, ...] = (),
) -> Network:
    prefixes = (IPv4Network("10.224.0.0/12"),)
    return Network({n.id: n for n in nics}, balancing, outbound, prefixes)


def planned(
    seen: Network,
    *,
    plugged: tuple[str, ...] = ("n0", "n1"),
    overlays: dict[IPv4Network, str] | None = None,
    cuts: dict[str, Cut] | None = None,
    healthy: tuple[IPv4Address, ...] = (),
) -> Desired:
    ports = {name: Port(n + 1, name, "00:00:00:00:00:00") for n, name in enumerate(plugged)}
    return plan(
        seen,
        ports=ports,
        overlays=overlays or {},
        cuts=cuts or {},
        health={(PROBE.id, address): True for address in healthy},
    )


def test_a_public_address_of_its_own_goes_before_the_outbound_rule() -> None:
    outbound = (OutboundRule("o", "pool", (LB,)),)
    seen = network(
        nic("n0", config(NODE, pools=("pool",)), config(SECONDARY, public=EGRESS, pools=("pool",))),
        outbound=outbound,
    )
    desired = planned(seen)
    assert desired.elements["instance_public"] == {str(SECONDARY): str(EGRESS)}
    assert list(desired.elements["outbound"]) == [str(NODE)]
    assert desired.elements["public"].keys() == {str(LB), str(EGRESS)}


def test_a_secondary_address_is_reached_through_the_primary() -> None:
    desired = planned(network(nic("n0", config(NODE), config(SECONDARY))))
    assert desired.routes[0, IPv4Network(SECONDARY)] == Route(
        0, IPv4Network(SECONDARY), "nic1", NODE
    )
    assert desired.elements["sources"].keys() == {f'"nic1" . {NODE}', f'"nic1" . {SECONDARY}'}


def test_what_is_not_plugged_in_gets_no_route_and_balances_nothing() -> None:
    seen = network(nic("n0", config(NODE, pools=("pool",))), balancing=(rule(),))
    desired = planned(seen, plugged=(), healthy=(NODE,))
    assert all(route.link == "lo" for route in desired.routes.values())
    assert desired.probes == {}
    (chain,) = desired.chains.values()
    assert chain[-1] == "counter name no_backend drop"


def test_pod_addresses_of_a_stopped_node_stay_known_as_pod_addresses() -> None:
    overlay = IPv4Network("10.244.0.0/24")
    desired = planned(network(), plugged=(), overlays={overlay: "n0"})
    assert desired.elements["overlay"].keys() == {str(overlay)}
    assert desired.elements["overlay_sources"] == {}


def test_a_cut_names_the_link() -> None:
    desired = planned(network(nic("n0", config(NODE))), cuts={"n0": Cut(outbound=True)})
    assert desired.elements["cut_outbound"].keys() == {'"nic1"'}
    assert desired.elements["cut_inbound"] == {}


def test_rules_with_the_same_backends_share_a_chain() -> None:
    other = BalancingRule("r2", VIP, "udp", 6001, 6001, True, "pool", PROBE, "Default")
    seen = network(nic("n0", config(NODE, pools=("pool",))), balancing=(rule(), other))
    desired = planned(seen, healthy=(NODE,))
    assert len(desired.elements["floating"]) == 2
    assert len(desired.chains) == 1


@pytest.mark.parametrize(("protocol", "kept"), [("udp", False), ("tcp", True)])
def test_a_failed_probe_ends_udp_flows_and_keeps_tcp_flows(protocol: str, kept: bool) -> None:
    seen = network(nic("n0", config(NODE, pools=("pool",))), balancing=(rule(protocol=protocol),))
    translations = planned(seen, healthy=()).translations
    number = {"udp": 17, "tcp": 6}[protocol]
    flow = Flow(number, CLIENT, VIP, 6000, VIP, CLIENT, mark=1)
    assert translations.stale(flow) is not kept


@pytest.mark.parametrize(
    ("flow", "stale"),
    [
        (Flow(17, SECONDARY, SERVER, 53, SERVER, EGRESS, 0), False),
        (Flow(17, SECONDARY, SERVER, 53, SERVER, LB, 0), True),
        (Flow(17, NODE, SERVER, 53, SERVER, EGRESS, 0), True),
        (Flow(6, SERVER, EGRESS, 80, SECONDARY, SERVER, 0), False),
        (Flow(6, SERVER, EGRESS, 80, NODE, SERVER, 0), True),
        (Flow(6, SERVER, LB, 80, SECONDARY, SERVER, 0), True),
        (Flow(6, CLIENT, NODE, 80, NODE, CLIENT, 0), False),
        (Flow(17, CLIENT, VIP, 6000, VIP, CLIENT, 3), False),
        (Flow(17, CLIENT, VIP, 6000, VIP, CLIENT, 4), True),
        (Flow(17, CLIENT, VIP, 6001, VIP, CLIENT, 3), True),
        (Flow(6, CLIENT, VIP, 443, NODE, CLIENT, 0), False),
        (Flow(6, CLIENT, VIP, 443, SECONDARY, CLIENT, 0), True),
    ],
)
def test_flows_live_as_long_as_what_allows_them(flow: Flow, stale: bool) -> None:
    translations = Translations(
        public_of={SECONDARY: frozenset({EGRESS})},
        private_of={EGRESS: SECONDARY},
        marks={(VIP, "udp", 6000): frozenset({3})},
        backends={(VIP, "tcp", 443): frozenset({NODE})},
    )
    assert translations.stale(flow) is stale


addresses = st.sampled_from([IPv4Address("10.224.0.4") + n for n in range(4)])
publics = st.sampled_from([None, *(IPv4Address("203.0.113.16") + n for n in range(3))])


@st.composite
def desireds(draw: st.DrawFn) -> Desired:
    nics = []
    for number, private in enumerate(draw(st.lists(addresses, unique=True, max_size=4))):
        pools = ("pool",) if draw(st.booleans()) else ()
        nics.append(nic(f"n{number}", config(private, public=draw(publics), pools=pools)))
    outbound = (OutboundRule("o", "pool", (LB,)),) if draw(st.booleans()) else ()
    balancing = (rule(),) if draw(st.booleans()) else ()
    healthy = tuple(draw(st.lists(addresses, max_size=4)))
    plugged = tuple(draw(st.lists(st.sampled_from(["n0", "n1", "n2", "n3"]), unique=True)))
    seen = network(*nics, outbound=outbound, balancing=balancing)
    return planned(seen, plugged=plugged, healthy=healthy)


class Kernel:
    """nftables as the transaction needs it: refuses what nftables would refuse."""

    def __init__(self) -> None:
        self.elements: dict[str, dict[str, str]] = {}
        self.chains: dict[str, tuple[str, ...]] = {}

    def run(self, commands: str) -> None:
        for line in commands.splitlines():
            verb, kind, _, _, name, *rest = line.split(" ", 5)
            if kind == "chain" and verb == "add":
                assert name not in self.chains
                self.chains[name] = ()
            elif kind == "chain":
                jumps = [v for e in self.elements.values() for v in e.values()]
                assert f"jump {name}" not in jumps, "chain in use"
                del self.chains[name]
            elif kind == "rule":
                self.chains[name] += (rest[0],)
            else:
                self._element(verb, name, rest[0].removeprefix("{ ").removesuffix(" }"))

    def _element(self, verb: str, name: str, texts: str) -> None:
        elements = self.elements.setdefault(name, {})
        for text in texts.split(", "):
            key, _, value = text.partition(" : ")
            if verb == "delete":
                del elements[key]
                continue
            assert key not in elements
            assert not value.startswith("jump ") or value.removeprefix("jump ") in self.chains
            elements[key] = value


@given(st.lists(desireds(), min_size=1, max_size=4))
def test_transactions_lead_from_any_state_to_any_other(steps: list[Desired]) -> None:
    kernel, before = Kernel(), None
    for step in steps:
        kernel.run(transaction(before, step))
        assert {k: v for k, v in kernel.elements.items() if v} == {
            k: dict(v) for k, v in step.elements.items() if v
        }
        assert kernel.chains == step.chains
        before = step
    assert before is not None
    assert transaction(before, before) == ""
    assert not loses(before, before)


@given(desireds())
def test_only_public_addresses_of_resources_leave_and_each_private_one_is_plugged_or_named(
    desired: Desired,
) -> None:
    public = set(desired.elements["public"])
    assert set(desired.elements["instance_public"].values()) <= public
    for allowed in desired.translations.public_of.values():
        assert {str(address) for address in allowed} <= public
    assert desired.elements["translated"].keys() == {
        str(private) for private in desired.translations.public_of
    }


def test_every_set_that_is_filled_exists_in_the_fixed_table() -> None:
    for name in planned(network()).elements:
        assert f" {name} {{" in SKELETON
