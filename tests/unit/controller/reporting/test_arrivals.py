"""Until when a gateway that does not serve yet is one that comes, and not one that is missing."""

from __future__ import annotations

import pytest

from egress_gateway.api import conditions
from egress_gateway.api.conditions import Reason
from egress_gateway.api.types import Condition, StaticGatewayConfigurationStatus
from egress_gateway.controller.observed.arrivals import ARRIVE_SECONDS, Arrivals
from egress_gateway.controller.reporting.status import had_served


def test_a_gateway_is_waited_for_once_and_not_for_ever() -> None:
    now = 0.0
    arrivals = Arrivals(clock=lambda: now)
    assert arrivals.look("u", ["a", "b"], []) == {"a", "b"}
    assert arrivals.look("u", ["a", "b"], ["a"]) == {"b"}
    assert arrivals.look("u", ["a", "b"], []) == {"b"}, "a has served: it is lost"
    now = 1.0
    assert arrivals.due("u") == ARRIVE_SECONDS - 1
    assert arrivals.look("u", ["a", "b", "c"], ["b"]) == {"c"}
    now = ARRIVE_SECONDS
    assert arrivals.look("u", ["a", "b", "c"], ["b"]) == {"c"}
    assert arrivals.due("u") == 1.0
    now += 1
    assert arrivals.look("u", ["a", "b", "c"], ["b"]) == frozenset()
    assert arrivals.due("u") is None


def test_one_that_goes_and_comes_again_is_new_again() -> None:
    arrivals = Arrivals(clock=lambda: 0.0)
    arrivals.look("u", ["a", "b"], ["a", "b"])
    arrivals.look("u", ["a"], ["a"])
    assert arrivals.look("u", ["a", "b"], ["a"]) == {"b"}
    arrivals.forget("u")
    assert arrivals.due("u") is None


def test_a_controller_that_begins_anew_waits_for_none_that_had_served() -> None:
    arrivals = Arrivals(clock=lambda: 0.0)
    assert arrivals.look("u", ["a", "b"], [], ["a"]) == {"b"}
    assert arrivals.look("u", ["a", "b"], [], ["a", "b"]) == {"b"}, "that was asked once"


@pytest.mark.parametrize(
    ("reason", "message", "words", "served"),
    [
        (Reason.REDUNDANCY_LOST, "1 of 2 gateways", "1 of 2 gateways", True),
        (Reason.PODS_WITHOUT_TUNNEL, "1 of 3 pods; 1 of 2 gateways", "1 of 2 gateways", True),
        (Reason.CLOUD_NOT_REACHABLE, "no answer", "1 of 2 gateways", False),
        (Reason.PODS_WITHOUT_TUNNEL, "1 of 3 pods", "1 of 2 gateways", False),
        (Reason.PODS_WITHOUT_TUNNEL, "1 of 3 pods", "", False),
    ],
)
def test_a_lost_gateway_is_read_from_the_status_whatever_is_graver(
    reason: str, message: str, words: str, served: bool
) -> None:
    agents = Condition(conditions.GATEWAYS_READY, "False", Reason.SOME_GATEWAYS, words)
    degraded = Condition(conditions.DEGRADED, "True", reason, message)
    assert had_served(StaticGatewayConfigurationStatus(conditions=[agents, degraded])) is served
