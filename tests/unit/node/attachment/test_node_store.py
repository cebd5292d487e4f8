"""Files that cannot be read or written: said once, and over when it is over."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec
import pytest
from prometheus_client import REGISTRY

from egress_gateway.cni import protocol
from egress_gateway.node.attachment.files import Damaged, Folder
from egress_gateway.node.attachment.store import AttachmentStore
from tests.unit.node.node_values import attachment


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
    with open(folder.file("x"), "wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(Damaged, match="larger"):
        folder.read("x")
    folder.write("x", b"1")
    assert folder.read("x") == b"1"


def test_files_are_read_again_when_they_have_changed_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = AttachmentStore(tmp_path)
    reads: list[str] = []
    read = Folder.read

    def counted(folder: Folder, stem: str) -> bytes | None:
        reads.append(stem)
        return read(folder, stem)

    monkeypatch.setattr(Folder, "read", counted)
    path = tmp_path / "pods" / "c-eth0.json"
    for name in ("web", "dns"):
        other = msgspec.structs.replace(record(), args=f"K8S_POD_NAME={name}")
        path.with_name("new").write_bytes(msgspec.json.encode(other))
        path.with_name("new").replace(path)
        reads.clear()
        assert [store.record("c-eth0") for _ in range(3)] == [other] * 3
        assert reads == ["c-eth0"]
    path.unlink()
    assert store.record("c-eth0") is None


@pytest.mark.parametrize("damage", ["write_text", "unlink"])
def test_an_attachment_that_was_written_is_held_until_its_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    store, one = AttachmentStore(tmp_path), attachment(id="c-eth0")
    assert store.keep(one)
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "read", None)
        assert store.holds(one)
        assert not store.holds(msgspec.structs.replace(one, pod="other"))
    path = tmp_path / "attached" / "c-eth0.json"
    getattr(path, damage)(*(["{}"] if damage == "write_text" else []))
    assert not store.holds(one)


def test_a_link_or_a_leftover_where_a_file_is_to_be_made_is_replaced(tmp_path: Path) -> None:
    folder, others = Folder(tmp_path / "ours"), tmp_path / "others"
    folder.make()
    others.write_text("others'")
    new = tmp_path / "ours" / ".x.json"
    for content in (b"over a link", b"over a leftover"):
        if content.endswith(b"link"):
            new.symlink_to(others)
        else:
            new.write_text("half")
        folder.write("x", content)
        assert folder.read("x") == content
        assert os.stat(folder.file("x")).st_mode & 0o777 == 0o600
    assert others.read_text() == "others'"
