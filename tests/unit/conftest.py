"""Tests marked ``virtual_time`` run on a loop whose time jumps to the next timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.unit.kube.kube_virtual import VirtualLoop


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualLoop}
    return {"real": asyncio.new_event_loop}
