"""Flags beat the environment, which beats the file; mistakes are one clear line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from egress_gateway.service.settings import SettingsError, load


class Example(msgspec.Struct, frozen=True, kw_only=True):
    node_name: str
    health_port: int = 8082
    cidrs: list[str] = []
    leader_election: bool = True


def test_flags_beat_environment_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("nodeName: from-file\nhealthPort: 1\ncidrs: [10.0.0.0/8]\n")
    settings = load(
        Example,
        file=file,
        environment={"EGRESS_GATEWAY_HEALTH_PORT": "2", "EGRESS_GATEWAY_LEADER_ELECTION": "false"},
        flags={"node_name": "from-flag", "health_port": None},
    )
    assert settings == Example(
        node_name="from-flag", health_port=2, cidrs=["10.0.0.0/8"], leader_election=False
    )


def test_lists_are_written_with_commas() -> None:
    settings = load(Example, environment={}, flags={"node_name": "n", "cidrs": "a, b"})
    assert settings.cidrs == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("nodename: x\nhealth: 1\n", "unknown setting 'health'"),
        ("- a\n", "a mapping of settings is expected"),
        ("{", "settings file"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=words):
        load(Example, file=file, environment={}, flags={})


def test_a_missing_setting_names_flag_and_variable() -> None:
    with pytest.raises(SettingsError, match="--node-name or set EGRESS_GATEWAY_NODE_NAME"):
        load(Example, environment={}, flags={})


def test_a_wrong_type_names_the_setting() -> None:
    with pytest.raises(SettingsError, match="health_port"):
        load(Example, environment={}, flags={"node_name": "n", "health_port": "many"})
