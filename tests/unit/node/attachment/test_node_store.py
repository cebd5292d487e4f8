"""Files that cannot be read or written: said once, and over when it is over."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from egress_gateway.cni import protocol
from egress_gateway.node.attachment.files import Damaged, Folder
from egress_gateway.node.attachment.store import AttachmentStore


def unwritable() -> float | None:
    return REGISTRY.get_sample_value("egress_gateway_node_local_state_unwritable")


def record(container: str = "c") -> protocol.Call:
    return protocol.Call(
        command="ADD",
        container_id=container,
        if_name="eth0",
        netns="/run/netns/x",
        args="K8S_POD_NAME=web",
        config=protocol.NetConf(),
    )


def test_what_cannot_be_written_is_said_once_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = AttachmentStore(tmp_path)
    replace = os.replace

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for _ in range(2):
        caplog.clear()
        monkeypatch.setattr(os, "replace", refuse)
        for _ in range(3):
            assert not store.keep_record(record())
            store.make_folders()
            assert unwritable() == 1
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
            "cannot write local state"
        ]
        assert not list((tmp_path / "pods").glob(".*json.*")), "nothing half-written is left"
        monkeypatch.setattr(os, "replace", replace)
        assert store.keep_record(record())
        assert unwritable() == 0
        assert store.record("c-eth0") == record()


def test_a_damaged_record_is_said_once_until_it_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = AttachmentStore(tmp_path)
    path = tmp_path / "pods" / "c-eth0.json"
    for _ in range(2):
        caplog.clear()
        path.write_text("{")
        assert store.record("c-eth0") is None
        assert store.record("c-eth0") is None
        assert len(caplog.records) == 1
        assert store.keep_record(record())
        assert store.record("c-eth0") == record()


@pytest.mark.parametrize("other", [record("d"), record()])
def test_a_record_counts_under_its_own_name_alone(tmp_path: Path, other: protocol.Call) -> None:
    store = AttachmentStore(tmp_path)
    store.keep_record(other)
    path = tmp_path / "pods" / f"{other.id}.json"
    path.rename(tmp_path / "pods" / "c-eth0.json")
    assert (store.record("c-eth0") == other) == (other.id == "c-eth0")


def test_a_file_too_large_to_be_ours_is_not_read(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with folder.file("x").open("wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(Damaged, match="larger"):
        folder.read("x")
    folder.write("x", b"1")
    assert folder.read("x") == b"1"
