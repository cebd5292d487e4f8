"""Uninstalling: the plugin goes out of the chain, stays out, and the agent says when it is done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from egress_gateway.api import names
from egress_gateway.cni import conflist
from egress_gateway.cni.install import Installer
from egress_gateway.cni.tenure import Tenure
from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import Unavailable
from egress_gateway.node.cni.readiness import Readiness

ORIGINAL = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}]}


class Api:
    """One Node, as a client sees it."""

    def __init__(self) -> None:
        self.labels: dict[str, str] = {names.NODE_READY_LABEL: "true"}
        self.down = False

    async def get(self, *_: Any) -> dict[str, Any]:
        if self.down:
            raise Unavailable(0, "Unavailable", "down")
        return {"metadata": {"name": "n", "labels": dict(self.labels)}, "spec": {}}

    async def merge_patch(self, _: Any, __: str, patch: dict[str, Any]) -> None:
        for key, value in patch["metadata"]["labels"].items():
            assert value is None
            self.labels.pop(key)


def chained(folder: Path, tenure: Tenure | None = None) -> tuple[Readiness, Api, Path]:
    plugin = folder / "plugin"
    plugin.write_text("x")
    (folder / "bin").mkdir()
    file = folder / "net.d" / "10-net.conflist"
    file.parent.mkdir()
    file.write_text(json.dumps(ORIGINAL))
    entry = conflist.entry(run_dir="/run/egress-gateway", agent_timeout=15)
    installer = Installer(
        plugin=plugin,
        bin_dir=folder / "bin",
        conf_dir=file.parent,
        entry=entry,
        tenure=tenure,
    )
    installer.converge()
    assert types(file) == ["bridge", names.CNI_PLUGIN]
    api = Api()
    return Readiness(installer, cast(Client, api), "n"), api, file


def types(file: Path) -> list[str]:
    return [plugin["type"] for plugin in json.loads(file.read_text())["plugins"]]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


async def test_plugin_and_label_go_and_stay_gone(tmp_path: Path) -> None:
    readiness, api, file = chained(tmp_path)
    again = file.read_text()
    task = asyncio.create_task(readiness.retire())
    await until(lambda: readiness.problem is None)
    assert types(file) == ["bridge"]
    assert api.labels == {}
    # Running sandboxes still name the executable when they are taken down.
    assert (tmp_path / "bin" / names.CNI_PLUGIN).exists()
    file.write_text(again)  # an old agent's last word
    await until(lambda: types(file) == ["bridge"])
    task.cancel()


async def test_without_the_api_the_chain_is_restored_but_not_reported_done(tmp_path: Path) -> None:
    readiness, api, file = chained(tmp_path)
    api.down = True
    task = asyncio.create_task(readiness.retire())
    await until(lambda: types(file) == ["bridge"])
    await until(lambda: readiness.problem == "the node's label is still there")
    task.cancel()


async def test_what_keeps_the_plugin_away_is_told_once_when_it_lasts(tmp_path: Path) -> None:
    readiness, _, file = chained(tmp_path)
    blocked = tmp_path / "bin" / names.CNI_PLUGIN
    blocked.unlink()
    (blocked / "in-the-way").mkdir(parents=True)
    heard: list[str] = []

    def looked() -> bool:
        (file.parent / "other").write_text("x")  # the agent looks at each change
        return bool(heard)

    task = asyncio.create_task(readiness.run(heard.append))
    await until(looked)
    for _ in range(20):
        looked()
        await asyncio.sleep(0.01)
    assert len(heard) == 1
    assert str(blocked) in heard[0]
    task.cancel()


@pytest.mark.virtual_time
async def test_what_lasts_is_told_again_so_that_an_old_event_is_of_another_cause(
    tmp_path: Path,
) -> None:
    readiness, _, _ = chained(tmp_path)
    (tmp_path / "bin" / names.CNI_PLUGIN).unlink()
    (tmp_path / "bin" / names.CNI_PLUGIN / "in-the-way").mkdir(parents=True)
    heard: list[str] = []
    task = asyncio.create_task(readiness.run(heard.append))
    await asyncio.sleep(2 * names.PLUGIN_TOLD_EVERY + 60)
    assert len(heard) == 3
    task.cancel()


async def test_agent_that_a_later_one_has_replaced_keeps_still(tmp_path: Path) -> None:
    """Both run while a DaemonSet rolls, or while the plugin is taken out."""
    readiness, api, file = chained(tmp_path, Tenure(tmp_path))
    api.labels.clear()
    Tenure(tmp_path)
    file.write_text(json.dumps(ORIGINAL))
    task = asyncio.create_task(readiness.run())
    await until(lambda: "later agent" in (readiness.problem or ""))
    assert types(file) == ["bridge"]
    assert api.labels == {}
    task.cancel()
