"""`eval "$(egress-gateway lab env --name x)"`: every lab command then means that lab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from egress_gateway.cli.commands import cli
from egress_gateway_lab import host
from egress_gateway_lab.commands.lab import lab


def commands(group: click.Group, *above: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)
        else:
            yield (*above, name), command


NAMED = [
    (words, command)
    for words, command in commands(lab)
    if any(p.name == "name" and isinstance(p, click.Option) for p in command.params)
]
ARGUMENTS = {"cut": ["node"], "mend": ["node"], "kill": ["node"], "boot": ["node"], "add": ["cut"]}


@pytest.mark.parametrize(("words", "command"), NAMED, ids=[" ".join(w) for w, _ in NAMED])
@pytest.mark.parametrize("typed", [[], ["--name", "typed"]])
def test_the_lab_is_the_one_typed_then_the_shell_s(
    words: tuple[str, ...],
    command: click.Command,
    typed: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = [*typed, *ARGUMENTS.get(words[-1], [])]
    for variable, meant in ((None, "default"), ("of-the-shell", "of-the-shell")):
        if variable:
            monkeypatch.setenv("EGRESS_GATEWAY_LAB", variable)
        with command.make_context(words[-1], list(arguments)) as context:
            assert context.params["name"] == ("typed" if typed else meant)


def test_the_message_about_a_lab_that_does_not_run_names_the_shell_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host, "find", lambda name: None)
    monkeypatch.setattr(host, "running", list)
    monkeypatch.setenv("EGRESS_GATEWAY_LAB", "mine")
    outcome = CliRunner().invoke(lab, ["status"])
    assert outcome.exit_code != 0
    assert "no lab 'mine' is running" in outcome.output


def test_a_lab_of_another_user_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(host, "BASE", tmp_path)
    monkeypatch.setattr("os.access", lambda *_: False)
    for words in (["status", "--name", "mine"], ["list"]):
        said = CliRunner().invoke(lab, words).output
        assert "mostly root's" in said
        assert "use sudo" in said
        assert "no lab" not in said


@pytest.mark.parametrize(
    "name", ["../../evil", "Bad Name/..", "", ".", "..", "a/b", "a b", "-x", "x" * 63, "a\nb", "ä"]
)
def test_a_name_that_leaves_the_labs_folder_is_refused_in_a_line(name: str) -> None:
    for words in (["up"], ["down"], ["status"], ["env"]):
        result = CliRunner().invoke(lab, [*words, "--name", name])
        assert result.exit_code == 2
        assert "no name for a lab" in result.output
    with pytest.raises(host.LabError):
        host.start(name, detach=False)


@pytest.mark.parametrize("nodes", ["0", "-1", "51", "many"])
def test_a_number_of_nodes_that_no_cluster_has_is_refused(nodes: str) -> None:
    result = CliRunner().invoke(lab, ["up", "--nodes", nodes])
    assert result.exit_code == 2
    assert "--nodes" in result.output


@pytest.mark.parametrize(
    ("typed", "meant"), [("statsu", "status"), ("chek", "check"), ("bundel", "bundle")]
)
def test_a_mistyped_command_is_guessed(typed: str, meant: str) -> None:
    result = CliRunner().invoke(cli, [typed])
    assert f"Did you mean '{meant}'?" in result.output
    assert "Did you mean" not in CliRunner().invoke(cli, ["xyzzy"]).output
