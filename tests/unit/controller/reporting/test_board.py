"""Trouble with the cloud is told when a person must mend it, or when it lasts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from egress_gateway.api.conditions import Reason
from egress_gateway.controller.board import LASTING, StatusBoard
from egress_gateway.controller.planning.problem import Problem
from egress_gateway.controller.planning.verdict import Verdict
from tests.unit.controller.reporting.test_status import SERVING

GOOD = Verdict(serving=SERVING, settled=True)


class Played:
    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[str] = []
        self.generation = 0
        self.board = StatusBoard(
            SimpleNamespace(generation=lambda uid: self.generation),  # type: ignore[arg-type]
            SimpleNamespace(),  # type: ignore[arg-type]
            told=self.told.append,
            clock=lambda: self.now,
        )
        self.board.set_verdict("a", GOOD)

    def trouble(self, reason: str, seconds: float = 0.0) -> Problem | None:
        """What is said of the cloud after it refused again, so much later."""
        self.now += seconds
        self.board.trouble("a", Problem(reason=reason, message="no"))
        verdict = self.board.verdict("a")
        assert verdict is not None
        assert verdict.serving == SERVING
        assert verdict.problem is None
        return verdict.cloud


@pytest.mark.parametrize("reason", [Reason.CREDENTIAL_REJECTED, Reason.AUTHORIZATION_FAILED])
def test_what_a_person_must_mend_is_told_at_once(reason: str) -> None:
    said = Played().trouble(reason)
    assert said is not None
    assert (
        said.message
        == "existing addresses stay in service, but the controller cannot apply changes: no"
    )


def test_an_outage_is_told_when_it_lasts_and_ends_with_the_next_look() -> None:
    played = Played()
    assert played.trouble(Reason.AZURE_ERROR) is None
    assert played.trouble(Reason.AZURE_ERROR, LASTING / 2) is None
    assert played.trouble(Reason.AZURE_ERROR, LASTING / 2) is not None
    played.board.set_verdict("a", GOOD)
    assert played.trouble(Reason.AZURE_ERROR, 1.0) is None


@pytest.mark.parametrize("reason", [Reason.THROTTLED, Reason.CONFLICT])
def test_a_cloud_that_asks_to_wait_is_there(reason: str) -> None:
    played = Played()
    assert [played.trouble(reason, LASTING) for _ in range(4)] == [None] * 4


@pytest.mark.parametrize("reason", [Reason.THROTTLED, Reason.AZURE_ERROR, Reason.CONFLICT])
def test_what_is_in_the_way_of_an_edit_is_told_at_once(reason: str) -> None:
    played = Played()
    played.board.set_verdict("a", replace(GOOD, generation=1))
    played.generation, refused = 2, Problem(reason=reason, message="no")
    for _ in range(2):
        played.board.trouble("a", refused)
        verdict = played.board.verdict("a")
        assert verdict is not None
        assert (verdict.problem, verdict.serving, verdict.generation) == (refused, SERVING, 2)


def test_until_the_first_look_nobody_knows_what_is_there() -> None:
    board, refused = Played().board, Problem(reason=Reason.CREDENTIAL_REJECTED, message="no")
    for uid, seen in (("a", False), ("new", True), ("new", False)):
        board.trouble(uid, refused, seen=seen)
        assert not (board.verdict(uid) or GOOD).unseen
    for _ in range(2):
        board.trouble("b", refused, seen=False)
        assert (board.verdict("b") or GOOD).unseen
