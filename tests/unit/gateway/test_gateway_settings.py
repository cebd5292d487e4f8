"""What the gateway agent can be told; ``unit/service/test_every_setting.py``: how it refuses."""

from __future__ import annotations

from egress_gateway.gateway.settings import Settings
from egress_gateway.service import settings


def load(**flags: object) -> Settings:
    return settings.load(Settings, environment={}, flags={"node_name": "gw1", **flags})


def test_defaults_and_ordinary_values_are_taken() -> None:
    assert load().resync == 30.0
    given = load(
        refused_cidrs="10.0.0.5/8,2001:db8::/32",
        internet_targets="198.51.100.10:443, 198.51.100.11",
        primary_ip="10.1.0.4",
        node_mtu="9000",
        ports_warning="1",
    )
    assert [str(n) for n in given.refused] == ["10.0.0.0/8", "2001:db8::/32"]
    assert [str(t) for t in given.targets] == ["198.51.100.10:443", "198.51.100.11"]
