"""Percentiles, outages and tables: what turns samples into figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import Answer, outage, percentile, spread, table

times = st.lists(st.floats(0, 1000, allow_nan=False), min_size=1, max_size=50)


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (95, 95), (99, 99), (100, 100)]
)
def test_a_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], percent) == expected


@given(times, st.floats(0, 100))
def test_a_percentile_was_measured_and_so_many_are_not_above_it(
    samples: list[float], percent: float
) -> None:
    found = percentile(samples, percent)
    assert found in samples
    assert sum(sample <= found for sample in samples) >= percent / 100 * len(samples) - 1e-6


def test_nothing_measured_has_no_figure() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)
    assert spread([], "p50", "max") == {"p50_ms": None, "max_ms": None}


def test_a_spread_is_in_milliseconds() -> None:
    found = spread([0.001, 0.002, 0.010], "p50", "p99", "max")
    assert found == {"p50_ms": 2.0, "p99_ms": 10.0, "max_ms": 10.0}


def answers(*sent_and_answered: tuple[float, float | None]) -> list[Answer]:
    return [Answer(sent, answered) for sent, answered in sent_and_answered]


def test_an_outage_lasts_from_the_event_to_the_next_answer() -> None:
    seen = answers((9.9, 9.95), (10.05, None), (10.3, None), (10.4, 10.45), (10.5, 10.55))
    assert outage(seen, event=10.0, end=11.0) == pytest.approx(0.45)


def test_an_outage_that_begins_later_is_found() -> None:
    """An agent's successor may break what its end did not."""
    seen = answers((10.0, 10.05), (10.1, 10.15), (10.2, None), (11.0, 11.15), (11.2, 11.25))
    assert outage(seen, event=10.0, end=11.5) == pytest.approx(1.0)


def test_an_outage_that_does_not_end_lasts_until_the_end_of_the_look() -> None:
    assert outage(answers((9.9, 9.95), (10.1, None)), event=10.0, end=15.0) == 5.0
    assert outage(answers((10.0, 10.1), (10.2, None)), event=10.0, end=15.0) == pytest.approx(4.9)


def test_the_pause_before_the_end_of_a_look_is_no_outage() -> None:
    """Nothing is sent any more when a look ends."""
    seen = answers((10.0, 10.05), (10.05, 10.1))
    assert outage(seen, event=10.0, end=10.9) == pytest.approx(0.05)


def test_a_table_has_a_line_for_each_row_and_shows_what_is_missing() -> None:
    lines = table(("loss", "p50 ms"), [("power cut", 417.25), ("none", None)]).splitlines()
    assert lines[0].split() == ["loss", "p50", "ms"]
    assert lines[2].split() == ["power", "cut", "417.2"]
    assert lines[3].split() == ["none", "-"]
