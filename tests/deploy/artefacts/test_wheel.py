"""The product's wheel is what runs on clusters: nothing of the lab is in it or comes with it."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from egress_gateway.cli.commands import cli

ROOT = Path(__file__).parents[3]
LAB = "egress_gateway_lab"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """As it is released, but for the plugin: compiling that is another test's business."""
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "HATCH_BUILD_NO_HOOKS": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def packages(text: str) -> set[str]:
    """The top-level packages that a module imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def required(requirements: list[str]) -> set[str]:
    return {m[0].lower() for r in requirements if (m := re.match(r"[A-Za-z0-9._-]+", r))}


def test_the_wheel_has_no_line_of_the_lab(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {n.partition("/")[0].partition("-")[0] for n in names} == {
        "egress_gateway",
        "static_egress_gateway",
    }
    modules = [n for n in names if n.endswith(".py")]
    assert len(modules) > 100, "the product is in it"
    assert [n for n in modules if LAB in wheel.read(n).decode()] == []
    assert [n for n in names if LAB in n or "/tests/" in n] == []


def test_the_labs_dependencies_do_not_come_with_it(wheel: zipfile.ZipFile) -> None:
    (metadata,) = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
    needs = re.findall(r"^Requires-Dist: (.*)$", wheel.read(metadata).decode(), re.MULTILINE)
    of_lab = tomllib.loads((ROOT / "lab/pyproject.toml").read_text())["project"]["dependencies"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [n for needed in project["optional-dependencies"].values() for n in needed]
    declared = [*project["dependencies"], *extras]
    alone = required(of_lab) - required(declared)
    assert {"jsonpatch", "pyroute2"} <= alone
    assert required(needs) | {"static-egress-gateway"} == required(declared)
    assert not required(needs) & alone
    imported = {
        p for n in wheel.namelist() if n.endswith(".py") for p in packages(wheel.read(n).decode())
    }
    assert not imported & {name.replace("-", "_") for name in alone}
    entries = next(n for n in wheel.namelist() if n.endswith("/entry_points.txt"))
    assert "egress_gateway.commands" not in wheel.read(entries).decode()


@pytest.mark.parametrize("arguments", [["lab"], ["lab", "demo"], ["lab", "--help"]])
def test_without_the_lab_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: ())
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 1
    assert done.output.splitlines() == [
        "Error: `egress-gateway lab` is in a package of its own: "
        "pip install static-egress-gateway-lab"
    ]


def test_the_help_of_the_rest_needs_no_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: ())
    done = CliRunner().invoke(cli, ["--help"])
    assert done.exit_code == 0
    assert "  lab " in done.output
