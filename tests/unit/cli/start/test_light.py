"""A person's commands need no library that only components have."""

from __future__ import annotations

import subprocess
import sys

import pytest

_TRY = """
import sys
for missing in ("cryptography", "prometheus_client", "azure"):
    sys.modules[missing] = None
from egress_gateway.cli.commands import cli
from click.testing import CliRunner
result = CliRunner().invoke(cli, sys.argv[1:])
assert result.exit_code in (0, 1), (result.output, result.exception)
assert not isinstance(result.exception, ImportError), result.exception
"""


@pytest.mark.parametrize(
    "words",
    [
        ["bundle"],
        ["check"],
        ["check", "--pre"],
        ["check", "--pre", "--here"],
        ["probe"],
        ["status"],
        ["test"],
        ["trace", "a"],
    ],
    ids=" ".join,
)
def test_a_persons_command_runs_with_a_persons_packages(words: list[str]) -> None:
    nowhere = ["--kubeconfig", "/nowhere"] if words[0] != "probe" else []
    command = [sys.executable, "-c", _TRY, *words, *nowhere]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["controller"], "controller"),
        (["webhook"], "webhook"),
        (["gateway", "--node-name=a"], "gateway"),
        (["node", "--node-name=a"], "node"),
        (["inspect"], "all"),
        (["inspect", "--help"], "all"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_a_command_that_needs_more_says_what_to_install(words: list[str], extra: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _TRY + "print(result.output)", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.strip()
    assert said.startswith(f"Error: `egress-gateway {words[0]}` needs the Python package ")
    assert said.endswith(f"pip install 'static-egress-gateway[{extra}]' (the image has it)")


_HELP = """
import sys
from click.testing import CliRunner
from egress_gateway.cli.commands import cli
result = CliRunner().invoke(cli, [*sys.argv[1:], "--help"])
assert result.exit_code == 0, result.output
assert "aiohttp" not in sys.modules
"""


@pytest.mark.parametrize("name", ["bundle", "check", "rotate-keys", "status", "test", "trace"])
def test_the_help_of_a_persons_command_loads_no_http_library(name: str) -> None:
    command = [sys.executable, "-c", _HELP, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
