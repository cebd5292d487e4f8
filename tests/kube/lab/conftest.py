"""One lab on real Kubernetes for this folder: three workers, two gateways, the chart by helm."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from egress_gateway_lab import host
from egress_gateway_lab.demo.world import VERSIONS, World, is_ready, until
from egress_gateway_lab.realcluster import release
from tests.deploy.conftest import CHART
from tests.lab.conftest import Driver, play

__all__ = ["play"]

SYSTEM = "kube-egress-gateway-system"


@pytest.fixture(scope="session")
def driver() -> Iterator[Driver]:
    require_programs()
    made = Driver(kubernetes="real", version=VERSIONS["real"])
    yield made
    made.close()


def require_programs() -> None:
    """Skips, aloud, where real Kubernetes cannot be had."""
    try:
        host.require_host("real")
    except host.LabError as error:
        pytest.skip(f"NO KUBERNETES: the lab was NOT tested on real nodes: {error}")


@dataclass(frozen=True, slots=True)
class Operator:
    """A person with helm before the lab's cluster."""

    world: World
    helm: Path

    async def call(self, *arguments: str, stdin: str = "") -> str:
        """``helm`` in the system namespace. An error is the test's."""
        process = await asyncio.create_subprocess_exec(
            str(self.helm),
            f"--namespace={SYSTEM}",
            *arguments,
            env={**os.environ, "KUBECONFIG": str(self.world.lab.kubeconfig)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate(stdin.encode())
        assert process.returncode == 0, said.decode()
        return said.decode()

    async def upgrade(self, *values: str) -> None:
        """As an upgrade to a chart with these values; returns when every pod is ready."""
        changed = [word for value in values for word in ("--set", value)]
        await self.call(
            "upgrade", release.RELEASE, str(CHART), "--reuse-values", "--wait", "--timeout=180s",
            *changed,
        )  # fmt: skip

    async def on(self, node: str, script: str, *, stdin: str = "", limit: float = 60) -> str:
        """A shell command on a machine."""
        command = ["sh", "-c", script]
        done = await self.world.control.call(
            "run", node=node, command=command, stdin=stdin, limit=limit
        )
        assert done["code"] == 0, f"{script}: {done['stderr']}"
        text: str = done["stdout"]
        return text


Act = Callable[[Callable[[Operator], Awaitable[None]]], None]


@pytest.fixture
def act(driver: Driver) -> Act:
    """Plays a story with helm and the machines' shells at hand."""

    async def from_the_beginning(story: Callable[[Operator], Awaitable[None]]) -> None:
        await all_ready(driver.world)
        await story(Operator(driver.world, release.find_helm()))

    def run(story: Callable[[Operator], Awaitable[None]]) -> None:
        driver.run(from_the_beginning(story), timeout=400)

    return run


async def all_ready(world: World) -> None:
    """Returns when all of our pods run and are ready (again)."""

    async def ready() -> bool:
        pods = await world.kube.list("pods", namespace=SYSTEM)
        return all(is_ready(p) for p in pods) and len(pods) > 5

    await until(ready, timeout=120, what="our components to be ready")
