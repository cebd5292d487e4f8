"""Which pods commands inside a node's agent find."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from egress_gateway.cli.agents.namespaces import attachment, attachments, namespaces
from egress_gateway.cni import protocol
from tests.unit.node import node_values


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A node with 60 attached pods."""
    folder = tmp_path / protocol.ATTACHMENTS
    folder.mkdir()
    (tmp_path / "netns").touch()
    for number in range(60):
        made = node_values.attachment(
            id=f"c{number}-eth0",
            namespace="shop",
            pod=f"p{number}",
            netns=str(tmp_path / "netns"),
        )
        (folder / f"{made.id}.json").write_bytes(msgspec.json.encode(made))
    monkeypatch.setenv("EGRESS_GATEWAY_RUN_DIR", str(tmp_path))
    return folder


@pytest.mark.usefixtures("node")
def test_each_pod_of_a_dense_node_is_found() -> None:
    """A bundle looks into fifty; a person asks for one, which may be any."""
    found = [attachment(f"shop/p{number}") for number in range(60)]
    assert [one.pod for one in found if one] == [f"p{number}" for number in range(60)]
    assert attachment("shop/p60") is None
    assert sum(name.startswith("pod ") for name in namespaces()) == 50


def test_damaged_files_and_pods_that_are_gone_are_passed_over(node: Path, tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"{", b"[]", b"\xff\xfe", b'{"id": 1}')):
        (node / f"c{number}-eth0.json").write_bytes(content)
    assert sum(1 for _ in attachments()) == 55
    (tmp_path / "netns").unlink()
    assert list(attachments()) == []
