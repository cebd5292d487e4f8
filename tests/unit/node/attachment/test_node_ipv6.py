"""Who carries a pod's IPv6: decided by its gateway, its addresses and the node's MTU."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest

from egress_gateway.node.attachment.choose import BalancerAddress, Destination, GatewayNode
from egress_gateway.node.attachment.model import Attachment, NodeFacts, pod_desired
from tests.unit.node.node_values import at, attachment, configuration

SIX = GatewayNode("gw-6", "10.224.0.16", ipv6=True)
FOUR = GatewayNode("gw-4", "10.224.0.14")
FACTS = NodeFacts(mtu=1500, exceptions=(ipaddress.ip_network("2001:db8:244::/48"),))


def of(
    gateway: Destination, gateways: list[GatewayNode], addresses: tuple[str, ...] = ("2001:db8::2",)
) -> Attachment:
    made = at(gateway, configuration=configuration(gateways=gateways))
    return msgspec.structs.replace(made, addresses=["10.244.1.2", *addresses])


@pytest.mark.parametrize(
    ("gateway", "gateways", "carried"),
    [
        (SIX, [SIX, FOUR], True),
        (FOUR, [SIX, FOUR], False),
        (BalancerAddress("10.1.200.4"), [SIX, FOUR], True),
        (BalancerAddress("10.1.200.4"), [FOUR], False),
    ],
)
def test_the_pods_gateway_decides(
    gateway: Destination, gateways: list[GatewayNode], carried: bool
) -> None:
    assert pod_desired(of(gateway, gateways), FACTS).tunnel_ipv6 is carried


def test_a_pod_without_ipv6_and_a_small_network_have_none() -> None:
    assert not pod_desired(of(SIX, [SIX], addresses=()), FACTS).tunnel_ipv6
    small = NodeFacts(mtu=1339, exceptions=())
    assert not pod_desired(of(SIX, [SIX]), small).tunnel_ipv6
    assert pod_desired(of(SIX, [SIX]), NodeFacts(mtu=1340, exceptions=())).tunnel_ipv6


def test_exclusions_and_exceptions_are_of_both_families() -> None:
    texts = ["10.0.0.0/8", "2001:db8:eeee::/48"]
    made = attachment(configuration=configuration(exclude_cidrs=texts))
    direct = pod_desired(made, FACTS).split.direct
    assert {ipaddress.ip_network(t) for t in (*texts, "2001:db8:244::/48")} <= set(direct)
