"""``bench --compare``: what it calls worse is worse, and noise is not."""

from __future__ import annotations

import random
from typing import Any

import pytest

from bench.compare import Better, compare, other_machine, samples, shown
from bench.errors import BenchError


def run(values: list[float], better: Better = "lower", name: str = "outage") -> dict[str, Any]:
    return {"samples": {name: samples(better, values)}}


def noisy(middle: float, seed: int, count: int = 40) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(middle, middle * 0.1) for _ in range(count)]


@pytest.mark.parametrize(
    ("better", "now", "verdict"),
    [
        ("lower", 1.2, "worse"),
        ("lower", 0.8, "better"),
        ("higher", 1.2, "better"),
        ("higher", 0.8, "worse"),
    ],
)
def test_a_fifth_is_told_through_noise_of_a_tenth(better: Better, now: float, verdict: str) -> None:
    (found,) = compare(run(noisy(1.0, 1), better), run(noisy(now, 2), better))
    assert found.verdict == verdict
    assert found.low <= found.new / found.old <= found.high


def test_noise_alone_is_seldom_called_a_difference() -> None:
    """95 % confidence: of 100 pairs that differ by chance alone about five may be."""
    called = sum(
        compare(run(noisy(1.0, seed)), run(noisy(1.0, 1000 + seed)))[0].verdict
        != "no difference shown"
        for seed in range(100)
    )
    assert called <= 12


def test_the_same_values_get_the_same_answer() -> None:
    old, new = run(noisy(1.0, 1)), run(noisy(1.05, 2))
    assert compare(old, new) == compare(old, new)


@pytest.mark.parametrize("values", [[], [1.0], [1.0] * 4, [0.0] * 9])
def test_too_few_values_are_no_verdict(values: list[float]) -> None:
    (found,) = compare(run(values), run(noisy(9.0, 1)))
    assert found.verdict == "too few values"
    assert "too few values" in shown([found])


@pytest.mark.parametrize("old", [{}, {"samples": {}}, run([1.0], name="attach")])
def test_runs_with_nothing_in_common_are_refused(old: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match="no figure in common"):
        compare(old, run(noisy(1.0, 1)))


def test_another_machine_is_told() -> None:
    here = {"machine": {"cpus": 2, "kernel": "6.18", "python": "3.11.2", "wireguard": "kernel"}}
    there = {"machine": {**here["machine"], "cpus": 8}}
    assert other_machine(here, here) == ""
    assert other_machine(here, there) == "cpus 2 and 8"
