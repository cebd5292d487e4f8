"""What a scrape of the controller tells: one series a configuration, as long as there is one."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY
from prometheus_client.exposition import generate_latest

from egress_gateway.api.types import ObjectMeta, StaticGatewayConfiguration
from egress_gateway.cloud.azure.requests.arm import resource_type
from egress_gateway.controller.metrics import Figures, addresses, timed
from egress_gateway.controller.planning.verdict import Verdict
from egress_gateway.controller.reporting.status import Pods
from egress_gateway.service.metrics import together
from tests.unit.controller.reporting.test_status import SERVING, status


def scrape(figures: Figures) -> str:
    return generate_latest(together(figures.snapshot())).decode()


def test_a_configuration_is_told_with_its_reason_until_it_is_gone() -> None:
    told = status(
        Verdict(serving=SERVING, settled=True),
        pods=Pods(attached=3, connected=2, lost={"TunnelsUnanswered": 1}),
    )
    meta = ObjectMeta(name="a", namespace="shop", uid="u")
    there = [StaticGatewayConfiguration(metadata=meta, status=told)]
    figures = Figures(configurations=lambda: there, ready=lambda: {"u": 2}, leading=lambda: True)
    text = scrape(figures)
    of = 'namespace="shop"'
    assert f'_configuration_ready{{configuration="a",{of},reason="Ready"}} 1.0' in text
    assert f'_degraded{{configuration="a",{of},reason="PodsWithoutTunnel"}} 1.0' in text
    assert f'_pods{{configuration="a",{of},state="connected"}} 2.0' in text
    assert f'_gateways{{configuration="a",{of},state="ready"}} 2.0' in text
    assert f'_addresses{{configuration="a",{of},state="free"}} 2.0' in text
    assert "egress_gateway_controller_leader 1.0" in text
    there.clear()
    assert 'configuration="a"' not in scrape(figures)


@pytest.mark.parametrize(
    ("prefixes", "count"),
    [
        ("203.0.113.0/30", 4),
        ("203.0.113.0/30,2001:db8::/126", 4),
        ("203.0.113.7/32", 1),
        ("203.0.113.0/31,198.51.100.0/28,2001:db8::/126", 2),
        ("10.0.0.4,10.0.0.5", 0),
        ("", 0),
        ("nonsense/30", 0),
    ],
)
def test_addresses_of_a_prefix_are_counted(prefixes: str, count: int) -> None:
    assert addresses(prefixes) == count


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/loadBalancers/x",
            "loadBalancers",
        ),
        (
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachineScaleSets"
            "/x/virtualMachines/0/networkInterfaces",
            "virtualMachineScaleSets/virtualMachines/networkInterfaces",
        ),
        ("/subscriptions/s", "other"),
        (
            "/subscriptions/s/providers/Microsoft.Network/locations/r/operations/9",
            "locations/operations",
        ),
    ],
)
def test_a_request_is_counted_by_the_type_of_its_resource(path: str, found: str) -> None:
    assert resource_type(f"https://management.example.com{path}?api-version=1") == found


async def test_work_is_timed_by_its_result() -> None:
    async def good(key: str) -> float | None:
        return 7.0

    async def bad(key: str) -> float | None:
        raise ValueError("broken")

    assert await timed("x", good)("k") == 7.0
    with pytest.raises(ValueError, match="broken"):
        await timed("x", bad)("k")
    for result in ("done", "error"):
        labels = {"work": "x", "result": result}
        name = "egress_gateway_controller_reconcile_seconds_count"
        assert REGISTRY.get_sample_value(name, labels) == 1.0
