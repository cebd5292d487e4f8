"""The node agent is killed after each single change that it makes, and each CNI verb with it."""

from __future__ import annotations

import os

import pytest

from tests.node.stories.kills import STORIES
from tests.node.test_agent import play

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
]
VERBS = ("checked", "collected")
"""What a runtime asks now and then: most of what the agent does then, other stories have too."""
STEP = os.environ.get("KILLS_STEP", "5")
"""After each fifth change, from one that the story's name chooses; 1 for all of them."""
PAIRS = os.environ.get("KILLS_PAIRS", "2")


@pytest.mark.parametrize("story", STORIES)
def test_killed_after_any_change_it_comes_back_and_nothing_left_by_the_side(story: str) -> None:
    few = story in VERBS and "KILLS_STEP" not in os.environ
    play("killed", story, "15" if few else STEP, "0" if few else PAIRS)


def test_what_a_watch_tells_late_ends_as_if_it_had_been_heard_at_once() -> None:
    play("late", os.environ.get("KILLS_STEP", "16"))
