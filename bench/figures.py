"""From samples to figures. Pure: no clock, no I/O.

Percentiles are nearest-rank: each is a value that was measured, never one between two. Times are
kept in seconds and shown in milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that is not below ``percent`` % of all. Raises ``ValueError`` for no
    samples."""
    if not samples:
        raise ValueError("no samples")
    rank = math.ceil(percent / 100 * len(samples))
    return sorted(samples)[max(rank, 1) - 1]


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


def spread(seconds: Sequence[float], *names: str) -> dict[str, float | None]:
    """``{"p50_ms": …, "p99_ms": …, "max_ms": …}`` for ``names`` such as ``p50`` and ``max``;
    None where nothing was measured."""
    found: dict[str, float | None] = {}
    for name in names:
        percent = 100.0 if name == "max" else float(name.removeprefix("p"))
        found[f"{name}_ms"] = milliseconds(percentile(seconds, percent)) if seconds else None
    return found


@dataclass(frozen=True, slots=True)
class Answer:
    """One request of a pod: when it was sent, when answered (None: never), and the address that
    the Internet saw, if it said so. One clock, in seconds."""

    sent: float
    answered: float | None
    source: str | None = None


def outage(answers: Iterable[Answer], event: float, end: float) -> float:
    """The longest time without an answer between ``event`` and ``end``, in seconds.

    It begins with the event at the earliest. When nothing is answered until ``end`` it lasts until
    then at least.
    """
    after = sorted(a.answered for a in answers if a.answered and event < a.answered <= end)
    ends = [*after, end] if not after or end - after[-1] > _QUIET else after
    return max(later - earlier for earlier, later in zip([event, *ends], ends, strict=False))


_QUIET = 1.0
"""Seconds of silence before the end of a look that count as an outage which goes on."""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns, numbers to the right."""
    shown = [list(head), *[[_cell(value) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in shown) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
