"""A controller on an Azure and a cluster of test doubles."""

from __future__ import annotations

import pytest

from tests.unit.controller.test_reconcile import World


@pytest.fixture
def world() -> World:
    return World()
