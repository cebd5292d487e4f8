"""Machines for tests: booted in a test's own event loop, gone when it ends however it ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here) and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: machines are namespaces"))
