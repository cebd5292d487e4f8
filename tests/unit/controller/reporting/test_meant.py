"""A spec that is valid and cannot be meant is told so: nothing is sent to the gateway."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Address
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
        spec("127.0.0.0/9", "127.128.0.0/9", "224.0.0.0/4", route="azureNetworking"),
        spec("169.254.169.254/32", "::/0", route="azureNetworking"),
        # All but link-local, which no router forwards.
        spec(*map(str, IPv4Network("0.0.0.0/0").address_exclude(IPv4Network("169.254.0.0/16")))),
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
        spec("::/0"),
        spec("10.0.0.0/8", "::/1", "8000::/1"),
        spec("2000::/3"),
        spec("2000::/4", "3000::/4", "fc00::/7"),
        spec(route="azureNetworking"),
        spec("198.51.100.0/24", route="azureNetworking"),
        spec("fe80::/10", "ff02::/16", "::1/128", "0.0.0.0/0", route="azureNetworking"),
    ],
)
def test_no_ipv6_is_sent_though_it_has_a_prefix(given: StaticGatewayConfigurationSpec) -> None:
    assert "no destination is the gateway's" in sends_nothing(given, family=6)
    sgc = StaticGatewayConfiguration(
        metadata=ObjectMeta(name="a", namespace="default", uid="u"), spec=given
    )
    gateways = Gateways(nodes=NODES, ready=frozenset(NODES.values()), problems={})
    six = [replace(g, secondary6=IPv6Address("fd00::1")) for g in SERVING.gateways]
    serving = replace(SERVING, gateways=tuple(six), prefix6="2001:db8::/126")
    verdict = Verdict(serving=serving, settled=True, ipv6=True)
    status = status_of(sgc, verdict, gateways, pairs=Pairs(), keys_namespace="s", now="")
    found = conditions.find(status.conditions, conditions.IPV6_READY)
    assert found is not None
    assert (found.status, found.reason) == ("True", "NothingSentToGateway")


def test_some_ipv6_is_sent() -> None:
    assert sends_nothing(spec("2001:db8::/32", "fc00::/7", "0.0.0.0/0"), family=6) == ""
    assert sends_nothing(spec("2001:db8::/32", route="azureNetworking"), family=6) == ""
    assert sends_nothing(spec("fe80::/10", "fd00::/8", route="azureNetworking"), family=6) == ""


@pytest.mark.parametrize(
    "given",
    [
        spec(),
        spec("0.0.0.0/1"),
        spec("0.0.0.0/1", "128.0.0.0/2", "192.0.0.0/4"),
        spec("10.0.0.0/8", "::/0"),
        spec("0.0.0.0/0", route="azureNetworking"),
        spec("198.51.100.0/24", route="azureNetworking"),
        spec("169.254.0.0/16", "10.0.0.0/8", route="azureNetworking"),
        spec("nonsense"),
    ],
)
def test_something_is(given: StaticGatewayConfigurationSpec) -> None:
    assert sends_nothing(given) == ""
