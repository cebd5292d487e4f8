"""Handshake floods do not keep pods from starting, nor from leaving a gateway that is lost."""

from __future__ import annotations

from tests.node import test_agent

pytestmark = test_agent.pytestmark


def test_pods_start_while_gateways_are_flooded_with_handshakes() -> None:
    test_agent.play("pods_start_under_a_flood")


def test_pods_leave_a_lost_gateway_while_all_are_flooded() -> None:
    test_agent.play("pods_leave_a_lost_gateway_under_a_flood")
