"""Delays grow, stay within bounds and differ between participants."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.service.backoff import Backoff, delay


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_half_certain_half_random_never_above_the_limit(failures: int, chance: float) -> None:
    whole = delay(failures, 0.1, 30.0, lambda: 1.0)
    seconds = delay(failures, 0.1, 30.0, lambda: chance)
    assert whole / 2 <= seconds <= whole <= 30.0


def test_success_starts_over() -> None:
    backoff = Backoff(1, 60, lambda: 1.0)
    assert [backoff.failed() for _ in range(3)] == [1, 2, 4]
    backoff.succeeded()
    assert backoff.failed() == 1
