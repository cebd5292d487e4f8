"""What a scrape of the gateway agent tells of its configurations."""

from __future__ import annotations

from prometheus_client.exposition import generate_latest

from egress_gateway.datapath.linux.link import Traffic
from egress_gateway.gateway.metrics import ConfigurationFigures, GatewayFigures, snapshot
from egress_gateway.service.metrics import together

SHOP = ConfigurationFigures(
    name="shop/partner",
    peers=3,
    traffic=Traffic(received_packets=4, sent_packets=5, received_bytes=6, sent_bytes=7),
    ports=8,
    connections=9,
)


def test_a_configuration_is_told_by_namespace_and_name_until_it_is_gone() -> None:
    found = GatewayFigures(ready=1, configurations=(SHOP,), dropped={"stray": 2}, table=(1, 100))
    seen = [found]
    shown = together(snapshot(lambda: seen[0]))
    text = generate_latest(shown).decode()
    of = '{configuration="partner",namespace="shop"}'
    for line in (
        f"egress_gateway_peers{of} 3.0",
        f"egress_gateway_received_packets_total{of} 4.0",
        f"egress_gateway_sent_packets_total{of} 5.0",
        f"egress_gateway_received_bytes_total{of} 6.0",
        f"egress_gateway_sent_bytes_total{of} 7.0",
        f"egress_gateway_ports_used{of} 8.0",
        f"egress_gateway_connections{of} 9.0",
        'egress_gateway_dropped_packets_total{reason="stray"} 2.0',
        "egress_gateway_ports_limit 64512.0",
        "egress_gateway_connection_table_limit 100.0",
    ):
        assert line in text, line
    seen[0] = GatewayFigures()
    gone = generate_latest(shown).decode()
    assert "partner" not in gone
    assert "stray" not in gone.split("# HELP egress_gateway_ports")[0].split("TYPE")[-1]


def test_an_address_that_nobody_asked_for_is_neither_verified_nor_not() -> None:
    found = GatewayFigures(verified={"shop/a": True, "shop/b": False})
    text = generate_latest(together(snapshot(lambda: found))).decode()
    assert 'address_verified{configuration="a",namespace="shop"} 1.0' in text
    assert 'address_verified{configuration="b",namespace="shop"} 0.0' in text
    none = generate_latest(together(snapshot(GatewayFigures))).decode()
    assert "address_verified{" not in none


def test_a_veto_says_whom_it_concerns() -> None:
    vetoes = (("Draining", ""), ("InternetUnreachable", "shop/partner"))
    text = generate_latest(together(snapshot(lambda: GatewayFigures(vetoes=vetoes)))).decode()
    assert 'vetoes{configuration="",namespace="",reason="Draining"} 1.0' in text
    assert 'configuration="partner",namespace="shop",reason="InternetUnreachable"' in text
