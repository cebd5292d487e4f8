"""What is expected to go wrong is one line, whichever command meets it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from egress_gateway.cli.commands import cli
from egress_gateway.cli.operations.rotate_keys import Unknown
from egress_gateway.cli.operations.uninstall import NotUninstalled
from egress_gateway.service.errors import ExpectedError

COMMANDS = (
    ["bundle"],
    ["check"],
    ["check", "--pre"],
    ["migrate", "--dry-run"],
    ["rotate-keys", "--all"],
    ["status"],
    ["test"],
    ["trace", "a"],
    ["uninstall"],
)


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[Path]:
    """A kubeconfig of a server at whose port nobody listens."""
    path = tmp_path / "config"
    with socket.socket() as taken:  # by nobody else either: another test's server would answer
        taken.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{taken.getsockname()[1]}"
        document = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
        }
        path.write_text(yaml.safe_dump(document))
        yield path


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_kubeconfig_that_is_not_there(words: list[str]) -> None:
    result = CliRunner().invoke(cli, [*words, "--kubeconfig", "/nowhere"])
    assert result.exit_code == 1
    assert result.output == "Error: /nowhere: No such file or directory\n"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_context_that_is_not_there(words: list[str], refusing: Path) -> None:
    chosen = ["--kubeconfig", str(refusing), "--context", "another"]
    result = CliRunner().invoke(cli, [*words, *chosen])
    assert result.exit_code == 1
    assert result.output == f"Error: {refusing}: no context named 'another'\n"


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["status", "--help"], ["crds"]], ids=" ".join
)
@pytest.mark.parametrize("both", [False, True])
def test_a_full_disk_behind_standard_output(words: list[str], both: bool) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "egress_gateway.cli.main", *words],
            stdout=full,
            stderr=full if both else subprocess.PIPE,
            env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
            text=True,
            check=False,
        )
    assert done.returncode == 1
    said = None if both else "Error: what this command prints: No space left on device\n"
    assert done.stderr == said


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_server_that_does_not_answer(words: list[str], refusing: Path) -> None:
    result = CliRunner().invoke(cli, [*words, "--kubeconfig", str(refusing)])
    assert result.exit_code == 1
    assert result.output.startswith("Error: the Kubernetes API was not reached: ")
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("error", [Unknown, NotUninstalled])
def test_what_commands_refuse_themselves_is_expected(error: type[Exception]) -> None:
    assert issubclass(error, ExpectedError)
