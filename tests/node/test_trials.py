"""A gateway that no pod of a node uses, and that none could move to: it is known, and told."""

from __future__ import annotations

import os

import pytest

from tests.node.stories import trials
from tests.node.test_agent import play

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
]


def test_a_path_that_no_pod_uses_is_tried_and_its_loss_is_told() -> None:
    play("paths_that_no_pod_uses", "large-from", "to")


@pytest.mark.storm
def test_whatever_is_lost_of_a_path_is_told() -> None:
    play("paths_that_no_pod_uses", *trials.FAULTS)
