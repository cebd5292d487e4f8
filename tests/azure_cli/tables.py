"""Reading `-o table` as a person does: by the columns under the headings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

Row = Mapping[str, str]


def rows(text: str) -> list[dict[str, str]]:
    """The rows of a table; none for an empty answer. What stands above the table is skipped."""
    lines = text.splitlines()
    ruler = next((i for i, line in enumerate(lines) if re.fullmatch(r"-{2,}(\s+-{2,})*", line)), 0)
    if ruler == 0:
        return []
    spans = [m.span() for m in re.finditer("-+", lines[ruler])]
    heads = [lines[ruler - 1][a:b].strip() for a, b in spans]
    found = []
    for line in lines[ruler + 1 :]:
        if not line.strip():
            break
        found.append({h: line[a:b].strip() for h, (a, b) in zip(heads, spans, strict=True)})
    return found


def require(text: str, expected: Sequence[Row]) -> list[dict[str, str]]:
    """The table's rows, which must be as many as ``expected`` and match them, in any order. Values
    are regular expressions for the whole cell; columns that are not named may hold anything."""
    found = rows(text)
    left = list(found)
    for pattern in expected:
        match = next((row for row in left if _matches(row, pattern)), None)
        assert match is not None, f"no row like {dict(pattern)} in:\n{text}"
        left.remove(match)
    assert not left, f"rows that nobody expected: {left}"
    return found


def _matches(row: Row, pattern: Row) -> bool:
    return all(re.fullmatch(value, row.get(column, "")) for column, value in pattern.items())
