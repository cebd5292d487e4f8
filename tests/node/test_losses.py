"""Lost and damaged files, folders and sockets of a node: real packets, never by another address."""

from __future__ import annotations

import os

import pytest

from tests.node.stories import losses
from tests.node.test_agent import play

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
]


@pytest.mark.parametrize("first", range(0, len(losses.DAMAGES), 4))
def test_a_file_that_is_lost_or_damaged_never_releases_its_pod(first: int) -> None:
    play("files_are_damaged", *list(losses.DAMAGES)[first : first + 4])


@pytest.mark.parametrize("names", [("pods", "attached"), (".",)])
def test_folders_come_back(names: tuple[str, ...]) -> None:
    play("folders_are_removed", *names)


def test_sockets_that_nobody_can_reach_are_made_again() -> None:
    play("sockets_are_lost")


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_where_nothing_can_be_written_pods_keep_what_they_have(how: str) -> None:
    play("nothing_can_be_written", how)


def test_the_later_sandbox_of_a_pod_has_its_tunnel_and_the_earlier_one_is_held() -> None:
    play("sandbox_is_made_again")


def test_nothing_stays_of_a_pod_that_was_deleted_while_its_files_were_lost() -> None:
    play("deleted_while_its_record_is_lost")


def test_a_hold_that_nobody_remembers_goes_when_the_api_says_that_nobody_wants_it() -> None:
    play("annotation_taken_away_while_its_file_was_lost")
