"""Building Kubernetes' programs: what is missing, and one line where it cannot be mended."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from egress_gateway_lab import golang
from egress_gateway_lab.realcluster import binaries

SCRIPT = Path(__file__).parents[4] / "tools/kubernetes/build.py"


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, on a machine with nothing."""
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = importlib.util.spec_from_file_location("kubernetes_build", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_program_that_is_looked_for_can_be_built(build: Any) -> None:
    assert set(build.PROGRAMS) == set(binaries.ALL)
    assert all(
        (SCRIPT.parent / module / "go.sum").exists() for module, *_ in build.PROGRAMS.values()
    )


def test_without_go_and_a_way_to_it_one_line_says_what_to_do(
    build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(golang, "_UV", tmp_path / "uv")
    monkeypatch.setattr("sys.argv", ["build.py", "etcd"])
    assert build.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("NO KUBERNETES: there is no Go here: install Go 1.21 or later")
    assert "KUBEBUILDER_ASSETS" in line


def test_what_is_there_is_not_built_again(
    build: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    binaries.folder().mkdir(parents=True)
    (binaries.folder() / "etcd").touch(mode=0o755)
    monkeypatch.setattr("sys.argv", ["build.py", "etcd"])
    assert build.main() == 0
    assert capsys.readouterr().out.strip() == str(binaries.folder())
