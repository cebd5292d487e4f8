"""Flags, environment and schema are one: a component says what it needs in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("{", "not valid JSON or YAML"),
        ('{"subscriptionID": "s", "resourceGroup": "g"}', "location"),
        (
            '{"subscriptionID": "s", "resourceGroup": "g", "location": "x", "tenantId": "t",'
            ' "aadClientId": "c", "aadClientSecretFile": "/nowhere/secret"}',
            "/nowhere/secret",
        ),
    ],
)
def test_azure_configuration_that_cannot_work_ends_the_controller_with_one_line(
    tmp_path: Path, content: str | None, words: str
) -> None:
    file = tmp_path / "azure.json"
    if content is not None:
        file.write_text(content)
    command = [*COMMAND, "controller", "--azure-config", str(file), "--log-format", "text"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert words in line
