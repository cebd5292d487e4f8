"""Flags, environment and schema are one: a component says what it needs in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "egress_gateway.cli.main"]


@pytest.mark.parametrize("component", ["controller", "gateway", "node", "wireguard"])
def test_help_names_flag_environment_and_default(component: str) -> None:
    done = subprocess.run(
        [*COMMAND, component, "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--log-level" in done.stdout
    assert "EGRESS_GATEWAY_" in done.stdout


def test_an_unknown_value_is_one_line() -> None:
    done = subprocess.run(
        [*COMMAND, "gateway", "--node-name", "n", "--health-port", "many"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "health" in line.lower()
