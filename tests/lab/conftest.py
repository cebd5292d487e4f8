"""One lab for the tests of this folder that only look or undo what they do.

It is started as a person starts one, and ends with the test run however that ends.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest

from egress_gateway_lab import host
from egress_gateway_lab.demo.world import NETWORK_CONTRIBUTOR, World

T = TypeVar("T")
POOL = "npegress"


class Driver:
    """A lab with its cluster and gateway pool, and one event loop for its clients."""

    def __init__(self, *, kubernetes: str = "embedded", version: str = "1.34") -> None:
        """Pools of virtual machines need 1.34."""
        self._version = version
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        # AKS makes no gateway pool of fewer than two nodes; a pool can lose them all the same.
        options = {"kubernetes": kubernetes, "least_gateways": 0}
        self.handle = host.start(f"test-{os.getpid()}", options=options, detach=False)
        self.world = self.run(self._open())

    def run(self, work: Awaitable[T], timeout: float = 180) -> T:
        async def whole() -> T:
            return await work

        future: Future[T] = asyncio.run_coroutine_threadsafe(whole(), self._loop)
        return future.result(timeout)

    async def _open(self) -> World:
        world = await World(self.handle).__aenter__()
        await world.create_group()
        await world.create_cluster(nodes=3, version=self._version)
        await world.get_credentials()
        await world.add_gateway_pool(POOL, nodes=2, prefix_size=30)
        return world

    def close(self) -> None:
        try:
            self.run(self.world.__aexit__(None, None, None), timeout=10)
        finally:
            host.stop(self.handle)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=10)
            self._loop.close()


@pytest.fixture(scope="session")
def driver() -> Iterator[Driver]:
    host.require_host()
    driver = Driver()
    yield driver
    driver.close()


@pytest.fixture
def play(driver: Driver) -> Callable[[Callable[[World], Awaitable[T]]], T]:
    """Runs a test's story against the shared lab."""

    def run(story: Callable[[World], Awaitable[T]]) -> T:
        return driver.run(story(driver.world))

    return run


async def configured(world: World, name: str, *, exclude: list[str] | None = None) -> str:
    """A ready configuration with a brought prefix of its own; returns the prefix."""
    made = await world.create_prefix(f"pip-{name}", length=30)
    scope = world.prefix_id(f"pip-{name}")
    cluster = await world.arm.get(world.cluster_id, "2026-06-01")
    await world.grant(cluster["identity"]["principalId"], NETWORK_CONTRIBUTOR, scope)
    spec: dict[str, Any] = {"gatewayNodepoolName": POOL, "publicIpPrefixId": scope}
    if exclude:
        spec["excludeCidrs"] = exclude
    await world.configure(name, spec)
    await world.configuration_condition(
        name, lambda c: c["type"] == "Ready" and c["status"] == "True", timeout=60
    )
    prefix: str = made["properties"]["ipPrefix"]
    return prefix
