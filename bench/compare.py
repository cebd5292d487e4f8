"""Whether a run is worse than an earlier one, and how sure that is. Pure: no clock, no I/O.

A benchmark keeps the values that its figures are made of (``samples``). Where it can, each is a
ratio within one round, so that what disturbed the machine is in both halves. The two runs' medians
are compared by a bootstrap: both sets of values are drawn anew, with replacement, thousands of
times, and the middle 95 % of the ratios of medians is what the values allow to say (Efron,
Tibshirani: An Introduction to the Bootstrap, 1993, chapter 13, the percentile interval).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Literal

from bench.errors import BenchError
from bench.figures import percentile, table

Better = Literal["higher", "lower"]
Verdict = Literal["worse", "better", "no difference shown", "too few values"]

_DRAWS: Final = 4000
_FEWEST: Final = 5
"""Values of each run; with fewer an interval says nothing."""
_SAME_MACHINE: Final = ("cpus", "kernel", "python", "wireguard")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of two runs. ``low`` and ``high`` bound new / old with 95 % confidence."""

    name: str
    old: float
    new: float
    low: float
    high: float
    verdict: Verdict


def samples(better: Better, values: Sequence[float]) -> dict[str, Any]:
    """What a benchmark's result holds under ``samples`` for each figure."""
    return {"better": better, "values": [round(value, 6) for value in values]}


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Comparison]:
    """Every figure of one benchmark that both runs have. Raises ``BenchError`` if they have none
    in common."""
    was, now = old.get("samples", {}), new.get("samples", {})
    common = [name for name in now if name in was]
    if not common:
        raise BenchError("the two runs have no figure in common: no samples, or other benchmarks")
    return [_one(name, was[name]["values"], now[name]) for name in common]


def _one(name: str, old: Sequence[float], told: Mapping[str, Any]) -> Comparison:
    new: Sequence[float] = told["values"]
    if min(len(old), len(new)) < _FEWEST or not median(old):
        nothing = float("nan")
        was, now = (median(values) if values else nothing for values in (old, new))
        return Comparison(name, was, now, nothing, nothing, "too few values")
    draw = random.Random(name)  # The same answer for the same values.
    ratios = [
        median(draw.choices(new, k=len(new))) / (median(draw.choices(old, k=len(old))) or 1e-12)
        for _ in range(_DRAWS)
    ]
    low, high = percentile(ratios, 2.5), percentile(ratios, 97.5)
    higher_is_better = told["better"] == "higher"
    verdict: Verdict = "no difference shown"
    if high < 1:
        verdict = "worse" if higher_is_better else "better"
    elif low > 1:
        verdict = "better" if higher_is_better else "worse"
    return Comparison(name, median(old), median(new), low, high, verdict)


def other_machine(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between the machines of two runs; empty: nothing that is known."""
    was, now = old.get("machine", {}), new.get("machine", {})
    return ", ".join(
        f"{key} {was.get(key)} and {now.get(key)}"
        for key in _SAME_MACHINE
        if was.get(key) != now.get(key)
    )


def shown(found: Sequence[Comparison]) -> str:
    rows = [
        (one.name, one.old, one.new, f"{one.low:.2f} to {one.high:.2f}", one.verdict)
        for one in found
    ]
    return table(("medians", "before", "now", "now / before, 95 %", "verdict"), rows)
