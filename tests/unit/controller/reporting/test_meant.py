"""A spec that is valid and cannot be meant is told so: nothing is sent to the gateway."""

from __future__ import annotations

from typing import Any

import pytest

from egress_gateway.api import conditions
from egress_gateway.api.types import (
    ObjectMeta,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationSpec,
)
from egress_gateway.controller.planning.meant import sends_nothing
from egress_gateway.controller.planning.verdict import Verdict
from egress_gateway.controller.reporting.status import Gateways, notices, status_of
from egress_gateway.controller.rotation.phases import Pairs
from tests.unit.controller.reporting.test_status import NODES, SERVING


def spec(*cidrs: str, route: Any = "") -> StaticGatewayConfigurationSpec:
    return StaticGatewayConfigurationSpec(
        gateway_nodepool_name="np", exclude_cidrs=list(cidrs), default_route=route
    )


@pytest.mark.parametrize(
    "given",
    [
        spec("0.0.0.0/0"),
        spec("0.0.0.0/1", "128.0.0.0/1"),
        spec("10.0.0.0/8", "0.0.0.0/0", "::/0"),
        spec("128.0.0.0/2", "0.0.0.0/1", "192.0.0.0/2", "198.51.100.0/24"),
        # What is left is multicast, loopback, reserved.
        spec("0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/3"),
        spec(
            "1.0.0.0/8",
            "2.0.0.0/7",
            "4.0.0.0/6",
            "8.0.0.0/5",
            "16.0.0.0/4",
            "32.0.0.0/3",
            "64.0.0.0/3",
            "96.0.0.0/4",
            "112.0.0.0/5",
            "120.0.0.0/6",
            "124.0.0.0/7",
            "126.0.0.0/8",
            "128.0.0.0/2",
            "192.0.0.0/3",
        ),
        spec(route="azureNetworking"),
        spec("2001:db8::/32", route="azureNetworking"),
    ],
)
def test_nothing_is_sent(given: StaticGatewayConfigurationSpec) -> None:
    assert "no destination is the gateway's" in sends_nothing(given)
    sgc = StaticGatewayConfiguration(
        metadata=ObjectMeta(name="a", namespace="default", uid="u"), spec=given
    )
    gateways = Gateways(nodes=NODES, ready=frozenset(NODES.values()), problems={})
    verdict = Verdict(serving=SERVING, settled=True)
    status = status_of(sgc, verdict, gateways, pairs=Pairs(), keys_namespace="s", now="")
    for kind in (conditions.ACCEPTED, conditions.READY):
        found = conditions.find(status.conditions, kind)
        assert found is not None
        assert found.status == "True"
        assert "no destination is the gateway's" in found.message
        assert "pods leave from" not in found.message
    warned = [n for n in notices([], status.conditions) if n.type == "Warning"]
    assert [n.reason for n in warned] == ["NothingSentToGateway"]


@pytest.mark.parametrize(
    "given",
    [
        spec(),
        spec("0.0.0.0/1"),
        spec("0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/4"),
        spec("10.0.0.0/8", "::/0"),
        spec("0.0.0.0/0", route="azureNetworking"),
        spec("198.51.100.0/24", route="azureNetworking"),
        spec("nonsense"),
    ],
)
def test_something_is(given: StaticGatewayConfigurationSpec) -> None:
    assert sends_nothing(given) == ""
