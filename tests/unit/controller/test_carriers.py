"""Which gateways may still carry packets of a deleted configuration, as the cluster tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest

from egress_gateway.api.types import (
    GatewayStatus,
    GatewayStatusSpec,
    ObjectMeta,
    PodEndpoint,
    PodEndpointSpec,
    PodEndpointStatus,
    PodState,
    ReadyGatewayConfiguration,
)
from egress_gateway.controller.observed.reported import carriers


def gateway(node: str, *uids: str) -> GatewayStatus:
    serves = [
        ReadyGatewayConfiguration(static_gateway_configuration="team/egress", uid=uid)
        for uid in uids
    ]
    spec = GatewayStatusSpec(ready_gateway_configurations=serves)
    return GatewayStatus(metadata=ObjectMeta(name=node), spec=spec)


def pod(state: PodState, *, namespace: str = "team", name: str = "egress") -> PodEndpoint:
    return PodEndpoint(
        metadata=ObjectMeta(name="web", namespace=namespace),
        spec=PodEndpointSpec(static_gateway_configuration=name),
        status=PodEndpointStatus(state=state),
    )


def of(endpoints: list[PodEndpoint]) -> Callable[[str], list[PodEndpoint]]:
    return lambda name: [e for e in endpoints if e.configuration == name]


STATUSES = [gateway("deaf", "uid", "another"), gateway("heard", "another"), gateway("new")]


@pytest.mark.parametrize("state", [*get_args(PodState), ""])
def test_a_gateway_that_has_not_spoken_counts_while_a_node_has_not_either(state: PodState) -> None:
    held_back = state in ("Lost", "Waiting")
    endpoints = [pod("Lost"), pod(state)]
    assert carriers("uid", STATUSES, of(endpoints)) == (set() if held_back else {"deaf"})


@pytest.mark.parametrize(
    "endpoints", [[], [pod("Connected", name="a")], [pod("Connected", namespace="b")]]
)
def test_pods_of_others_are_nobodys_reason(endpoints: list[PodEndpoint]) -> None:
    assert carriers("uid", STATUSES, of(endpoints)) == set()
