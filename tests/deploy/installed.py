"""A lab's cluster on the embedded API server, and a person with helm and kubectl before it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egress_gateway.api import names
from egress_gateway_lab import host
from egress_gateway_lab.demo.world import World
from tests.deploy.conftest import CHART

SYSTEM = names.SYSTEM_NAMESPACE
RELEASE = "egress-gateway"
WAIT = ("--wait=legacy", "--timeout=240s")
"""As docs/install/aks.md has it: for what an upgrade replaces, which tunnels' hosts are not."""


@dataclass
class Site:
    """A lab's cluster, and a person with helm and kubectl before it."""

    world: World
    clients: Path

    async def call(self, program: str, *arguments: str, fails: bool = False) -> str:
        process = await asyncio.create_subprocess_exec(
            str(self.clients / program),
            *arguments,
            env={**os.environ, "KUBECONFIG": str(self.world.lab.kubeconfig)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        said = (out + err).decode()
        assert (process.returncode != 0) == fails, said
        return said

    async def helm(self, *arguments: str, fails: bool = False) -> str:
        return await self.call("helm", "--namespace", SYSTEM, *arguments, fails=fails)

    async def install(self, *options: str, chart: Path = CHART) -> None:
        await self.helm("upgrade", "--install", RELEASE, str(chart), *WAIT, *options)

    async def chains(self, files: str = "*") -> dict[str, str]:
        """Node and the text of its CNI configuration, read by a pod on it."""
        found = {}
        for node in await self.world.nodes(pool="nodepool1"):
            name = node["metadata"]["name"]
            await self.world.kube.create("pods", reader(name))
            await self.world.pod_ready(f"reader-{name}")
            done = await self.world.kube.exec(
                "default", f"reader-{name}", ["sh", "-c", f"cat /chain/{files}"]
            )
            found[name] = done.stdout.decode()
            await self.world.kube.delete("pods", f"reader-{name}", namespace="default")
        return found


def reader(node: str) -> dict[str, Any]:
    container = {
        "name": "reader",
        "image": "busybox",
        "command": ["sleep", "1000"],
        "volumeMounts": [{"name": "chain", "mountPath": "/chain", "readOnly": True}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"reader-{node}", "namespace": "default"},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
            "volumes": [{"name": "chain", "hostPath": {"path": "/etc/cni/net.d"}}],
        },
    }


@asynccontextmanager
async def cluster(lab: host.LabHandle, clients: Path) -> AsyncIterator[Site]:
    async with World(lab) as world:
        await world.create_group()
        await world.create_cluster(nodes=2, version="1.34")
        await world.get_credentials()
        yield Site(world, clients)
