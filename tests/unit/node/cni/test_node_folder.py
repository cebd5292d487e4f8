"""A folder of others is looked at when they change it, and not when the agent itself fails to."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import shutil
from pathlib import Path

import pytest

from egress_gateway.api import names
from egress_gateway.cni import conflist
from egress_gateway.cni.install import Installer, InstallError
from egress_gateway.node.cni.readiness import folder_changes


def on_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    """The executable is there; the chain cannot be written."""
    plugin = folder / "plugin"
    plugin.write_text("x")
    for name in ("bin", "net.d"):
        (folder / name).mkdir()
    (folder / "bin" / names.CNI_PLUGIN).write_text("x")
    (folder / "bin" / names.CNI_PLUGIN).chmod(0o755)
    chain = '{"cniVersion": "1.0.0", "plugins": [{"type": "ptp"}]}'
    (folder / "net.d" / "10-net.conflist").write_text(chain)

    def full(descriptor: int) -> None:
        raise OSError(
            errno.ENOSPC, os.strerror(errno.ENOSPC), os.readlink(f"/proc/self/fd/{descriptor}")
        )

    monkeypatch.setattr(os, "fsync", full)
    entry = conflist.entry(run_dir="/run/egress-gateway", agent_timeout=15)
    return Installer(plugin=plugin, bin_dir=folder / "bin", conf_dir=folder / "net.d", entry=entry)


def refused(installer: Installer) -> str:
    with pytest.raises(InstallError) as error:
        installer.converge()
    return str(error.value)


async def heard() -> None:
    """Whatever inotify has told by now is read."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_disk_that_is_full_does_not_make_the_agent_look_at_its_own_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would ask the API server about its Node each time, without a pause."""
    installer = on_a_full_disk(tmp_path, monkeypatch)
    refused(installer)  # the first one keeps the original
    with folder_changes(installer.conf_dir) as changed:
        refused(installer)
        await heard()
        assert not changed.is_set()
        (installer.conf_dir / "20-other.conflist").write_text("x")
        await heard()
        assert changed.is_set()


def test_a_file_that_cannot_be_written_is_told_by_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt has another name on the way: it would be another problem each time."""
    installer = on_a_full_disk(tmp_path, monkeypatch)
    first = refused(installer)
    assert str(installer.conf_dir / "10-net.conflist") in first
    assert refused(installer) == first

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), secrets.token_hex(6))

    monkeypatch.setattr(os, "link", read_only)
    monkeypatch.setattr(shutil, "copy2", read_only)
    kept = refused(installer)
    assert str(installer.conf_dir / "10-net.conflist") in kept
    assert refused(installer) == kept
