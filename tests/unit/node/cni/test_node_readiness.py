"""What the Node says of the plugin."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from egress_gateway.api import names
from egress_gateway.node.cni.readiness import folder_changes, node_patch

LABEL = names.NODE_READY_LABEL
TAINT = {"key": names.CNI_NOT_READY_TAINT, "effect": "NoSchedule"}
OTHER = {"key": "other", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}


def node(labels: dict[str, str] | None = None, *taints: dict[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "n", "resourceVersion": "7"}
    if labels is not None:
        metadata["labels"] = labels
    return {"metadata": metadata, "spec": {"taints": list(taints)} if taints else {}}


def test_label_is_earned_and_lost() -> None:
    assert node_patch(node(), ready=True) == {"metadata": {"labels": {LABEL: "true"}}}
    assert node_patch(node({LABEL: "true"}), ready=False) == {"metadata": {"labels": {LABEL: None}}}


def test_nothing_to_do() -> None:
    assert node_patch(node({LABEL: "true"}, OTHER), ready=True) is None
    assert node_patch(node({}, TAINT), ready=False) is None


def test_taint_goes_and_others_stay_whole() -> None:
    patch = node_patch(node({LABEL: "true"}, OTHER, TAINT), ready=True)
    assert patch == {"metadata": {"resourceVersion": "7"}, "spec": {"taints": [OTHER]}}


def test_last_taint_is_removed_altogether() -> None:
    patch = node_patch(node({}, TAINT), ready=True)
    assert patch is not None
    assert patch["spec"] == {"taints": None}


async def test_rewritten_chain_is_noticed_at_once(tmp_path: Path) -> None:
    async with asyncio.timeout(60):
        with folder_changes(tmp_path) as changed:
            assert not changed.is_set()
            new = tmp_path / ".new"
            new.write_text("{}")
            await changed.wait()
            changed.clear()
            new.rename(tmp_path / "10-net.conflist")
            await changed.wait()


async def test_missing_folder_is_survived(tmp_path: Path) -> None:
    with folder_changes(tmp_path / "none") as changed:
        assert not changed.is_set()
