"""The node agent with real CNI plugins, tunnels and packets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from egress_gateway.datapath.wireguard.backends import kernel_has_wireguard

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
]
ROOT = Path(__file__).parents[2]


def play(scenario: str, *arguments: str) -> None:
    done = subprocess.run(
        [
            *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(sys.executable, "-W", "error", "-m", "tests.node.world", scenario, *arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=840,  # pytest's own limit is 900, and says less
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    print(done.stdout)


def test_first_connection_of_an_annotated_pod_succeeds_and_delete_leaves_nothing() -> None:
    play("started_means_working")


def test_pod_starts_although_the_gateway_learns_of_it_late() -> None:
    play("gateway_learns_late")


def test_pods_of_a_deleted_configuration_are_held_back() -> None:
    play("pods_of_a_deleted_configuration_are_held_back")


def test_pods_start_in_parallel() -> None:
    play("many_at_once")


def test_a_pod_that_was_annotated_while_the_agent_was_away_is_attached_with_the_first_list() -> (
    None
):
    play("annotated_while_the_agent_is_away")


def test_unknown_configuration_fails_the_pod_with_the_reason() -> None:
    play("unknown_configuration")


def test_pod_waits_for_a_configuration_that_is_being_made() -> None:
    play("configuration_arrives_while_waiting")


def test_lost_gateway_is_left_and_does_not_take_the_pod_back() -> None:
    play("lost_gateway_is_left_at_once")


@pytest.mark.parametrize("how", ["machine", "path"])
def test_gateways_that_are_lost_in_turn_take_over_before_their_hold_down_ends(how: str) -> None:
    play("gateways_lost_in_turn", how)


def test_gateway_that_answers_probes_but_no_handshake_is_passed_over() -> None:
    play("gateway_that_answers_probes_but_no_handshake")


def test_restarted_agent_adopts_and_moves_nobody() -> None:
    play("restarted_agent_moves_nobody")


def test_pod_deleted_while_the_agent_is_away_leaves_nothing() -> None:
    play("deleted_while_the_agent_is_away")


def test_running_pod_follows_its_annotation() -> None:
    play("running_pod_follows_its_annotation")


def test_running_pod_follows_its_configuration() -> None:
    play("running_pod_follows_its_configuration")


def test_damaged_pod_is_repaired() -> None:
    play("damage_is_repaired")


def test_running_pod_whose_configuration_is_missing_is_held_back() -> None:
    play("configuration_deleted_holds_the_pod")


def test_tunnel_that_gets_no_answer_is_left_although_its_machine_answers() -> None:
    play("deaf_tunnel_is_left_though_the_machine_answers")


def test_planned_drain_loses_no_connection_and_new_ones_go_elsewhere() -> None:
    play("planned_drain_keeps_connections")


def test_veto_moves_pods_but_never_from_the_last_gateway() -> None:
    play("last_gateway_is_never_left_for_a_veto")


def test_drain_goes_on_across_a_restart_of_the_agent() -> None:
    play("restarted_agent_ends_a_drain")


def test_key_pair_changes_and_no_connection_notices() -> None:
    play("key_pair_changes_under_open_connections")


def test_pod_may_start_held_back() -> None:
    play("pod_starts_held_back")


def test_pod_from_before_the_plugin_follows_its_annotation() -> None:
    play("pod_from_before_the_plugin")


def test_restarted_agent_that_cannot_reach_the_api_releases_nobody() -> None:
    play("restart_without_the_api_releases_nobody")


def test_changed_exclusions_leave_other_connections_alone() -> None:
    play("changes_leave_other_connections_alone")


def test_tunnels_made_in_advance_are_used_and_made_again() -> None:
    if kernel_has_wireguard():
        pytest.skip("this kernel makes tunnels at once: none are made in advance")
    play("tunnels_are_made_in_advance")


@pytest.mark.parametrize("how", ["deleted", "annotated", "finished"])
def test_a_pod_that_has_ended_sends_nothing_by_the_side(how: str) -> None:
    play("ended_pod_sends_nothing_by_the_side", how)


def test_ipv6_is_carried_or_held_as_the_pods_gateway_has_it() -> None:
    play("ipv6_follows_the_gateways")


def test_what_a_pod_does_is_told_as_it_changes_and_never_at_rest() -> None:
    play("status_of_a_pod_follows_its_tunnel")


def test_a_status_that_the_server_does_not_keep_is_written_once() -> None:
    play("status_that_is_not_kept_is_written_once")


def test_gateway_is_left_although_the_api_server_answers_nothing() -> None:
    play("gateway_lost_while_the_api_server_hangs")


def test_what_is_told_of_a_pod_outlives_the_agent_and_an_absent_api_server() -> None:
    play("status_survives_the_agent_and_the_api_server")


def test_every_pod_begins_a_new_session_when_somebody_deletes_all_endpoints() -> None:
    play("sessions_begin_anew_when_endpoints_are_deleted")


def test_every_pod_begins_a_new_session_when_its_gateway_has_forgotten_all() -> None:
    play("sessions_begin_anew_when_gateways_forget_them")


def test_raw_frames_are_dropped_and_told() -> None:
    play("raw_frames_are_dropped_and_told")


def test_pods_that_try_wireguards_ports_are_dropped_and_told() -> None:
    play("pods_that_try_wireguards_ports_are_dropped_and_told")


def test_pods_that_went_hold_nothing() -> None:
    play("pods_that_went_hold_nothing")


def test_a_tunnel_that_went_deaf_while_the_agent_was_away_is_left() -> None:
    play("tunnel_that_went_deaf_while_the_agent_was_away_is_left")


def test_tunnels_follow_the_mtu_of_the_node() -> None:
    play("tunnels_follow_the_mtu_of_the_node")


@pytest.mark.parametrize("agent", ["alive", "away"])
def test_pods_are_served_after_the_nodes_clock_was_set_back(agent: str) -> None:
    play("pods_are_served_after_the_nodes_clock_was_set_back", agent)
