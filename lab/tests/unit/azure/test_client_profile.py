from __future__ import annotations

import configparser
import json
from pathlib import Path

import pytest

from egress_gateway_lab.azure.identity import clientprofile
from egress_gateway_lab.azure.identity.clientprofile import installed_version, prepare

BASE = "https://127.0.0.1:4711"


@pytest.fixture
def az(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `az` on PATH, in an environment as pip makes one."""
    monkeypatch.setattr(clientprofile, "_PACKAGED", tmp_path / "nowhere")
    environment = tmp_path / "az"
    (environment / "lib/python3.12/site-packages/azure_cli-2.91.0.dist-info").mkdir(parents=True)
    (environment / "lib/python3.12/site-packages/azure_cli_core-2.90.0.dist-info").mkdir()
    program = environment / "bin/az"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    link = tmp_path / "path/az"
    link.parent.mkdir()
    link.symlink_to(program)
    monkeypatch.setenv("PATH", str(link.parent))
    return link


def filled(folder: Path) -> Path:
    prepare(folder, base=BASE, subscription="s", tenant="t")
    return folder


def test_the_version_is_told_without_starting_az(az: Path) -> None:
    assert installed_version() == "2.91.0"
    az.unlink()
    assert installed_version() is None


def test_every_endpoint_is_the_labs(az: Path, tmp_path: Path) -> None:
    clouds = configparser.ConfigParser()
    clouds.read(filled(tmp_path / "azure") / "clouds.config")
    endpoints = {k: v for k, v in clouds["lab"].items() if k.startswith("endpoint_")}
    assert "endpoint_resource_manager" in endpoints
    assert {v for v in endpoints.values() if not v.startswith(BASE)} == set()


def test_az_does_not_look_for_a_newer_az(az: Path, tmp_path: Path) -> None:
    known = json.loads((filled(tmp_path / "azure") / "versionCheck.json").read_text())
    assert known["versions"]["core"]["local"] == "2.91.0"


def test_an_unknown_az_gets_no_made_up_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not (filled(tmp_path / "azure") / "versionCheck.json").exists()


def test_what_az_wrote_since_is_left_alone(az: Path, tmp_path: Path) -> None:
    folder = filled(tmp_path / "azure")
    (folder / "config").write_text("[cloud]\nname = AzureCloud\n")
    assert "AzureCloud" in (filled(folder) / "config").read_text()


def test_the_secret_is_the_users_alone(az: Path, tmp_path: Path) -> None:
    folder = filled(tmp_path / "azure")
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "service_principal_entries.json").stat().st_mode & 0o077 == 0
