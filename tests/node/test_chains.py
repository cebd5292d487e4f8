"""The node agent behind bridge, ptp, host ports and second interfaces: real packets."""

from __future__ import annotations

import os

import pytest

from tests.node.test_agent import play

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
]


def test_behind_bridge_with_host_ports() -> None:
    play("bridge_with_host_ports")


def test_behind_ptp_with_host_ports() -> None:
    play("ptp_with_host_ports")


def test_pod_without_a_default_route_gets_the_gateways() -> None:
    play("no_default_route")


def test_second_interface_shares_the_first_ones_tunnel() -> None:
    play("second_interface")


def test_second_interface_at_the_same_time_and_of_a_pod_annotated_later() -> None:
    play("second_interface_at_once_and_later")


def test_collection_takes_what_the_runtime_has_lost_and_nothing_else() -> None:
    play("collected")


def test_sandbox_of_which_everything_is_gone_leaves_nothing() -> None:
    play("nothing_left_of_what_is_lost")


# Pending with an address: its init containers run, for as long as they like.
@pytest.mark.parametrize("phase", ["Running", "Pending"])
def test_pod_that_started_while_the_chain_was_rewritten_is_attached_at_once(phase: str) -> None:
    play("started_while_the_chain_was_rewritten", phase)


def test_pod_annotated_while_its_init_containers_run_is_attached_at_once() -> None:
    play("annotated_while_its_init_containers_run")


def test_delete_succeeds_without_the_api_server_which_hears_of_it_later() -> None:
    play("deleted_without_the_api")
