"""What pages tell a person to type is typed: on a lab, with the real kubectl and packets.

Installation is left to ``tests/deploy``, ``az`` to ``tests/azure_cli``, the lab's own commands to
``tests/lab/test_host.py``, and changes of keys, which take a minute, to
``tests/lab/test_rotation.py``: their pages are followed there.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from egress_gateway_lab.demo.world import World, until
from tests.deploy.conftest import clients
from tests.lab.conftest import configured
from tests.lab.test_bad_input import annotated, remove
from tests.lab.test_running_pods import becomes, command, gateways
from tests.unit.tools.pages import ROOT, script

__all__ = ["clients"]
pytestmark = pytest.mark.root
PAGES = (
    "operate/troubleshooting",
    "start/for-app-teams",
    "reference/azure-errors",
    "reference/cli",
    "operate/operations",
)
NAME = "my-static-egress-gateway"
_OURS = ("kubectl ", "egress-gateway ")


def typed(page: str, **names: str) -> list[str]:
    """The lines of the page's blocks that a person types into a shell that knows the cluster.
    ``names``: what is there in place of what the page names."""
    text = script((ROOT / f"docs/{page}.md").read_text()).replace("\\\n", " ")
    for name, there in names.items():
        text = text.replace(name, there)
    lines = [line.strip() for line in text.splitlines() if "rotate-keys" not in line]
    return [line for line in lines if line.startswith(_OURS)]


async def test_commands_of_pages_do_what_they_say(world: World, clients: Path) -> None:
    await configured(world, NAME)
    await world.kube.create("pods", annotated("my-pod", NAME))
    await becomes(world, "my-pod", "Connected")

    async def in_order() -> bool:
        """Else `status` and `check` end with 1, as their page says."""
        return not any([(await command(world, name))[0] for name in ("status", "check")])

    await until(in_order, timeout=120, what="the cluster to have no finding")
    names = {"gw-1": (await gateways(world))[0]}
    lines = [line for page in PAGES for line in typed(page, **names)]
    assert len(lines) >= 14, lines
    environment = os.environ | {
        "KUBECONFIG": str(world.lab.kubeconfig),
        "PATH": f"{Path(sys.executable).parent}:{clients}:{os.environ['PATH']}",
    }
    failed = []
    for line in lines:
        begun = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", line),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        print(f"$ {line}\n{said.decode()}({time.monotonic() - begun:.1f} s)")
        if process.returncode:
            failed.append((line, said.decode()))
    assert not failed

    async def whole() -> bool:
        nodes = [n for n in await world.nodes() if n["spec"].get("unschedulable")]
        return not nodes

    await until(whole, timeout=120, what="the page's last command to undo its first")
    await world.kube.delete("pods", "my-pod", namespace="default", grace_seconds=0)
    await remove(world, NAME)
