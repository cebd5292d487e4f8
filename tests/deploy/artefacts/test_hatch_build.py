"""Which compiler makes the CNI plugin, where a process may open few files."""

from __future__ import annotations

import importlib.util
import platform
import resource
import shutil
from types import ModuleType

import pytest

from tests.deploy.conftest import tool

OWN = platform.machine()


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The hook, where ziglang and every C compiler are installed."""
    module = tool("hatch_build")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("CC", raising=False)
    return module


def limit(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, *, fixed: bool) -> list[int]:
    """Open files that a process may have; ``fixed``: nobody may raise the hard limit."""
    now = [soft, hard]

    def raised(_: int, wanted: tuple[int, int]) -> None:
        if fixed and wanted[1] > hard:
            raise ValueError("not allowed to raise maximum limit")
        now[:] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(now))
    monkeypatch.setattr(resource, "setrlimit", raised)
    return now


@pytest.mark.parametrize(
    ("soft", "hard", "after"),
    [
        (1024, 1 << 20, [4096, 1 << 20]),
        (1024, 4096, [4096, 4096]),
        (1024, resource.RLIM_INFINITY, [4096, resource.RLIM_INFINITY]),
        (20000, 20000, [20000, 20000]),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, [-1, -1]),
    ],
)
def test_zig_serves_where_it_may_open_enough_files(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, after: list[int]
) -> None:
    now = limit(monkeypatch, soft, hard, fixed=True)
    assert "ziglang" in build.compiler(OWN)
    assert now == after


@pytest.mark.parametrize("hard", [256, 1024, 4095])
def test_elsewhere_the_distributions_compilers_serve(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, hard: int
) -> None:
    limit(monkeypatch, min(hard, 1024), hard, fixed=True)
    other = next(machine for machine in build.MACHINES if machine != OWN)
    assert build.compiler(OWN) == ["/usr/bin/cc"]
    assert build.compiler(other) == [f"/usr/bin/{other}-linux-gnu-gcc"]


def test_without_any_compiler_one_line_names_the_limit_and_the_packages(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, 1024, 1024, fixed=True)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    hook = object.__new__(build.PluginBuildHook)
    monkeypatch.setattr(build.PluginBuildHook, "root", "/nowhere", raising=False)
    with pytest.raises(SystemExit, match=r"open 4096 files.*gcc libc6-dev"):
        hook.initialize("standard", {})
