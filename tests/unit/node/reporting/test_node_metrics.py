"""What a scrape of the node agent tells; nothing of what went."""

from __future__ import annotations

from prometheus_client import REGISTRY
from prometheus_client.exposition import generate_latest

from egress_gateway.node.liveness.health import GatewayHealth, Rules
from egress_gateway.node.metrics import HeldPackets, LinkDrops, PodFigures, snapshot
from egress_gateway.service.metrics import together


def pod(configuration: str, gateway: str, state: str) -> PodFigures:
    return PodFigures(namespace="shop", configuration=configuration, gateway=gateway, state=state)


def test_pods_are_told_by_gateway_and_state() -> None:
    pods = [pod("a", "gw-1", "Connected"), pod("a", "gw-1", "Connected"), pod("a", "", "Lost")]
    shown = together(snapshot(lambda: pods, dict, dict, HeldPackets()))
    text = generate_latest(shown).decode()
    labels = 'configuration="a",gateway="gw-1",namespace="shop",state="Connected"'
    assert f"egress_gateway_node_pods{{{labels}}} 2.0" in text
    assert 'gateway="",namespace="shop",state="Lost"} 1.0' in text
    pods.clear()
    assert "shop" not in generate_latest(shown).decode()


def test_a_gateways_probes_are_counters_and_its_answers_too() -> None:
    health = GatewayHealth(Rules())
    health.answered(health.sent(1.0), 1.002)
    health.sent(2.0)
    gateways = {"gw-1": health}
    shown = together(snapshot(list, lambda: gateways, lambda: {"gw-2": False}, HeldPackets()))
    text = generate_latest(shown).decode()
    for line in (
        'gateway_up{gateway="gw-1"} 1.0',
        'gateway_probes_total{gateway="gw-1"} 2.0',
        'gateway_probe_answers_total{gateway="gw-1"} 1.0',
        'gateway_round_trip_seconds{gateway="gw-1"} 0.002',
        'gateway_reached{gateway="gw-2"} 0.0',
    ):
        assert line in text
    gateways.clear()
    assert "gw-1" not in generate_latest(shown).decode()


def test_held_packets_are_a_counter_however_pods_come_and_go() -> None:
    held = HeldPackets()

    def value() -> float:
        return sum(s.value for s in held.samples())

    held.note("p1", 5, "shop", "a")
    held.note("p1", 7, "shop", "a")
    held.note("p2", 1, "shop", "a")
    assert value() == 8
    held.keep({"p2"}, {("shop", "a")})
    assert value() == 8, "the pod went, what was held back of it was"
    held.note("p2", 0, "shop", "a")  # its hold was made anew
    held.note("p2", 2, "shop", "a")
    assert value() == 10
    held.keep(set(), set())
    assert list(held.samples()) == []


def test_what_links_drop_is_a_counter_though_their_table_is_made_anew() -> None:
    name, reason = "egress_gateway_node_link_dropped_packets_total", "a reason of this test"
    drops = LinkDrops()
    for packets in (5, 7, 2, 2, 3):
        drops.note({reason: packets})
    assert REGISTRY.get_sample_value(name, {"reason": reason}) == 7 + 3
