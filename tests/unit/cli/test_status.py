"""What a person reads: ready or why not, addresses, gateways, pods."""

from __future__ import annotations

from egress_gateway.api.types import (
    Condition,
    Gateway,
    GatewayStatus,
    GatewayStatusSpec,
    ObjectMeta,
    PodEndpoint,
    PodEndpointSpec,
    ReadyGatewayConfiguration,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationStatus,
)
from egress_gateway.cli.status import render, summarize


def configuration(
    name: str, status: StaticGatewayConfigurationStatus
) -> StaticGatewayConfiguration:
    return StaticGatewayConfiguration(
        metadata=ObjectMeta(name=name, namespace="default"), status=status
    )


def condition(status: str, reason: str, message: str) -> Condition:
    assert status in ("True", "False")
    return Condition(
        type="Ready", status="True" if status == "True" else "False", reason=reason, message=message
    )


def test_a_ready_configuration_shows_addresses_gateways_and_pods() -> None:
    sgc = configuration(
        "a",
        StaticGatewayConfigurationStatus(
            egress_ip_prefix="203.0.113.0/30",
            gateways=[
                Gateway(
                    node="gw0",
                    primary_ip="10.0.0.1",
                    secondary_ip="10.0.0.2",
                    public_ip="203.0.113.0",
                ),
                Gateway(node="gw1", primary_ip="10.0.0.3", secondary_ip="10.0.0.4"),
            ],
            conditions=[condition("True", "Ready", "")],
        ),
    )
    endpoint = PodEndpoint(
        metadata=ObjectMeta(name="web-1", namespace="default"),
        spec=PodEndpointSpec(static_gateway_configuration="a"),
    )
    elsewhere = PodEndpoint(
        metadata=ObjectMeta(name="web-2", namespace="other"),
        spec=PodEndpointSpec(static_gateway_configuration="a"),
    )
    gateway = GatewayStatus(
        metadata=ObjectMeta(name="gw0"),
        spec=GatewayStatusSpec(
            ready_gateway_configurations=[
                ReadyGatewayConfiguration(static_gateway_configuration="default/a")
            ]
        ),
    )
    overview = summarize([sgc], [endpoint, elsewhere], [gateway])
    assert render(overview) == (
        "default/a: ready  203.0.113.0/30\n"
        "  gateway gw0  serving  203.0.113.0\n"
        "  gateway gw1  NOT SERVING  no public address\n"
        "  pods: web-1\n"
    )


def test_one_that_waits_says_why() -> None:
    refused = configuration(
        "b",
        StaticGatewayConfigurationStatus(
            conditions=[condition("False", "AuthorizationFailed", "grant Network Contributor")]
        ),
    )
    fresh = configuration("c", StaticGatewayConfigurationStatus())
    text = render(summarize([refused, fresh], [], []))
    assert "default/b: NOT READY (AuthorizationFailed)  no address yet\n" in text
    assert "  grant Network Contributor\n" in text
    assert "no controller has looked at it yet" in text


def test_nothing_is_said_as_nothing() -> None:
    assert render([]) == "no StaticGatewayConfiguration\n"
