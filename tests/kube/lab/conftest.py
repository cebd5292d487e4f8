"""One lab on real Kubernetes for this folder: three workers, two gateways, the chart by helm."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from egress_gateway_lab import host
from egress_gateway_lab.demo.world import VERSIONS, World, is_ready, until
from egress_gateway_lab.realcluster import release
from tests.deploy.conftest import CHART
from tests.lab.conftest import in_the_labs_loop, started

SYSTEM = "kube-egress-gateway-system"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def world() -> AsyncIterator[World]:
    """The shared lab."""
    require_programs()
    async with started(kubernetes="real", version=VERSIONS["real"]) as made:
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    in_the_labs_loop(items, Path(__file__).parent)


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
            "upgrade", release.RELEASE, str(CHART), "--reuse-values", "--wait", "--timeout=600s",
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


@pytest_asyncio.fixture(loop_scope="session")
async def lab(world: World) -> Operator:
    """Helm and the machines' shells; every component is ready."""
    await all_ready(world)
    return Operator(world, release.find_helm())


async def all_ready(world: World) -> None:
    """Returns when all of our pods run and are ready (again)."""

    async def ready() -> bool:
        pods = await world.kube.list("pods", namespace=SYSTEM)
        return all(is_ready(p) for p in pods) and len(pods) > 5

    await until(ready, timeout=180, what="our components to be ready")
