"""The public CI's definition, which cannot run here: pinned, linted, and the same as .ci/run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def lint(path: Path) -> int:
    program = str(Path(sys.executable).with_name("zizmor"))
    command = [program, "--offline", "--no-progress", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_rights_are_few(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    assert document["permissions"] == {}
    for job in document["jobs"].values():
        assert job["permissions"] == {"contents": "read"}
        assert job["timeout-minutes"] <= 120
    used = re.findall(r"uses: (\S+)(.*)", path.read_text())
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment)
    assert lint(path) == 0


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (r"checkout@[0-9a-f]{40} # v4.2.2", "checkout@v4"),
        (r"  push:\n    tags: .*", "  pull_request_target:"),
        (r"make release", "echo ${{ github.event.head_commit.message }}"),
    ],
)
def test_the_linter_finds_what_it_should(tmp_path: Path, right: str, wrong: str) -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text()
    changed = re.sub(right, wrong, text)
    assert changed != text
    path = tmp_path / ".github/workflows/changed.yml"
    path.parent.mkdir(parents=True)
    path.write_text(changed)
    assert lint(path) != 0


def test_it_runs_what_ci_runs_and_targets_that_exist() -> None:
    said = "\n".join(path.read_text() for path in WORKFLOWS)
    assert " .ci/run" in said
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = set(re.findall(r"run: .*make ([a-z-]+)|^ +sudo .*make ([a-z-]+)", said, re.MULTILINE))
    assert {name for pair in called for name in pair if name} <= targets
