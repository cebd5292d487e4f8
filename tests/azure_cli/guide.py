"""docs/install/azure-cli.md as something to run: its sections in order, each with its blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs/install/azure-cli.md"
_HEADING = re.compile(r"#{2,3} (.+)")
_FENCE = re.compile(r"```(.*)")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. ``kind`` is what stands behind ``sh``: nothing, ``refused`` (must fail) or
    ``look`` (look-ups that do not depend on each other)."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


def sections(page: str) -> list[Section]:
    """The sections that have shell blocks."""
    found: list[tuple[str, list[Block]]] = []
    inside: list[str] | None = None
    kind = ""
    for line in page.splitlines():
        fence = _FENCE.fullmatch(line)
        if fence and inside is None:
            kind, inside = fence[1], []
        elif fence and inside is not None:
            if kind.startswith("sh"):
                found[-1][1].append(Block(kind.removeprefix("sh").strip(), "\n".join(inside)))
            inside = None
        elif inside is not None:
            inside.append(line)
        elif heading := _HEADING.fullmatch(line):
            found.append((heading[1], []))
    return [Section(title, tuple(blocks)) for title, blocks in found if blocks]
