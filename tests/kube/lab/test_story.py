"""The whole story, eight steps, on real Kubernetes with the chart installed by helm."""

from __future__ import annotations

import pytest

from tests.kube.lab.conftest import require_programs
from tests.lab.test_demo import check_story

pytestmark = [pytest.mark.root, pytest.mark.kube]


def test_the_story_plays_on_real_kubernetes() -> None:
    require_programs()
    check_story("--kubernetes", "real")
