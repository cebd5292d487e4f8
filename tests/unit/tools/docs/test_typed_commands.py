"""Whatever a page tells a person to type of ours is there: commands, options, make's targets, the
chart's values."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from egress_gateway.cli.commands import cli
from tests.unit.tools.pages import PAGES, ROOT, script, without_blocks
from tests.unit.tools.programs.called import HOLE, commands

VALUES = yaml.safe_load((ROOT / "deploy/chart/static-egress-gateway/values.yaml").read_text())
TARGETS = set(re.findall(r"^([a-z][\w-]*):(?! *=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
HISTORY = ROOT / "CHANGELOG.md"
"""Tells of what was, too."""


def typed(page: str) -> Iterator[list[str]]:
    """Commands in blocks of shell, and those that the prose names in full."""
    yield from commands(script(page))
    for quoted in re.findall(r"`([^`\n]+)`", without_blocks(page)):
        if re.match(r"(kubectl )?egress-gateway |make ", quoted) and "\\" not in quoted:
            yield shlex.split(quoted)


def wrong(words: list[str]) -> str | None:
    """What is wrong with the command, if it is one of ours."""
    words = words[1:] if words[:2] == ["kubectl", "egress-gateway"] else words
    match words:
        case ["make", *rest]:
            targets = [w for w in rest if re.fullmatch(r"[a-z][\w-]*", w)]
            lacking = [w for w in targets if w not in TARGETS]
            return f"make has no {lacking}" if lacking else None
        case ["helm", *_]:
            lacking = [v for v in _set(words) if not _is_value(v)]
            return f"the chart has no value {lacking}" if lacking else None
        case ["egress-gateway", *rest]:
            return _refused([w for w in rest if w not in ("…", "...", "|")])
    return None


def _set(words: list[str]) -> Iterator[str]:
    for option, value in itertools.pairwise(words):
        if option == "--set":
            yield value.partition("=")[0]


def _is_value(path: str) -> bool:
    at: Any = VALUES
    for name in path.split("."):
        if not isinstance(at, dict) or (name not in at and at):
            return False
        at = at.get(name, {})
    return True


def _refused(words: list[str]) -> str | None:
    """What click says of the words; arguments that are missing, a person adds."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        inner = command.get_command(context, name)
        if inner is None:
            return f"no such command: {name}"
        command, context = inner, click.Context(inner, parent=context)
    try:
        command.make_parser(context).parse_args(list(words))
    except click.MissingParameter:
        return None
    except click.UsageError as error:
        return error.format_message()
    return None


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p != HISTORY], ids=lambda p: str(p.relative_to(ROOT))
)
def test_what_a_page_tells_to_type_is_there(page: Path) -> None:
    found = [
        f"{shlex.join(words).replace(HOLE, '…')}: {said}"
        for words in typed(page.read_text())
        if (said := wrong(words))
    ]
    assert found == []


OURS = (
    "egress-gateway statuss",
    "egress-gateway status --nosuch",
    "egress-gateway lab fault nosuch",
    "kubectl egress-gateway trace --nosuch pod",
    "make nosuch",
)
HELM = "helm upgrade egress-gateway chart --set keys.nosuch=1"
BLOCK, INDENTED, PROSE = "```sh\n{}\n```", "- a\n\n  ```sh\n  {}\n  ```\n", "Say `{}`."


@pytest.mark.parametrize(
    ("line", "form"),
    [
        *itertools.product((*OURS, HELM), (BLOCK, INDENTED)),
        *itertools.product(OURS, (PROSE,)),
    ],
)
def test_what_is_not_there_is_found(line: str, form: str) -> None:
    assert any(wrong(words) for words in typed(form.format(line)))
