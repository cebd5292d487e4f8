"""What a node that loses power boots with: files and names that were on the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from egress_gateway.cni import conflist
from egress_gateway.cni.install import Installer


@pytest.mark.parametrize("name", ["10-azure.conflist", "10-azure.conf"])
def test_every_file_and_its_name_are_on_the_disk_before_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    conf, bins = tmp_path / "net.d", tmp_path / "bin"
    conf.mkdir()
    single = {"cniVersion": "1.0.0", "name": "azure", "type": "ptp"}
    chain = {"cniVersion": "1.0.0", "name": "azure", "plugins": [{"type": "ptp"}]}
    (conf / name).write_text(json.dumps(single if name.endswith(".conf") else chain))
    plugin = tmp_path / "plugin"
    plugin.write_bytes(b"program")
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def synced(descriptor: int) -> None:
        steps.append(f"sync {os.readlink(f'/proc/self/fd/{descriptor}')}")
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        steps.append(f"rename {target}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    entry = conflist.entry(run_dir="/run/x", agent_timeout=1)
    Installer(plugin=plugin, bin_dir=bins, conf_dir=conf, entry=entry).converge()
    program = steps.index(f"rename {bins / 'egress-gateway-cni'}")
    assert steps[program + 1] == f"sync {bins}"
    renames = [i for i, step in enumerate(steps) if step.startswith("rename") and i > program]
    assert f"sync {conf}" in steps[renames[-1] :]
    whole = steps.index(f"rename {conf / '10-azure.conflist'}") if name.endswith("list") else 0
    assert whole == 0 or steps[whole + 1] == f"sync {conf}"
