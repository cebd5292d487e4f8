"""One lab for the tests of this folder that only look or undo what they do.

It is started as a person starts one, and ends with the test run however that ends.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from egress_gateway_lab import host
from egress_gateway_lab.demo.world import World

POOL = "npegress"
_NUMBERS = itertools.count(1)


@asynccontextmanager
async def started(*, kubernetes: str = "embedded", version: str = "1.34") -> AsyncIterator[World]:
    """A lab with its cluster and gateway pool. Pools of virtual machines need 1.34.

    Beside the shared one, which lives until the run ends, a test may have a lab of its own.
    """
    # AKS makes no gateway pool of fewer than two nodes; a pool can lose them all the same. Many
    # tests share the pool: Compute's token buckets, on for people, would have them wait.
    options: dict[str, Any] = {
        "kubernetes": kubernetes,
        "least_gateways": 0,
        "compute_share": None,
    }
    name = f"test-{os.getpid()}-{next(_NUMBERS)}"
    handle = host.start(name, options=options, detach=False)
    try:
        async with World(handle) as world:
            await world.create_group()
            await world.create_cluster(nodes=3, version=version)
            await world.get_credentials()
            await world.add_gateway_pool(POOL, nodes=2, prefix_size=30)
            yield world
    finally:
        host.stop(handle, timeout=60)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def world() -> AsyncIterator[World]:
    """The shared lab."""
    host.require_host()
    async with started() as made:
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    in_the_labs_loop(items, Path(__file__).parent)


def in_the_labs_loop(items: list[pytest.Item], folder: Path) -> None:
    """The lab's clients live in the session's loop; so do the tests that use them."""
    for item in items:
        if item.path.is_relative_to(folder) and "world" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


async def configured(world: World, name: str, *, exclude: list[str] | None = None) -> str:
    """A ready configuration with a brought prefix of its own; returns the prefix."""
    return await world.provide(name, POOL, exclude=exclude or [])
