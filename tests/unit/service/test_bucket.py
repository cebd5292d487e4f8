"""A bucket is never overdrawn, and what it says to wait is enough."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.service.bucket import Bucket


@given(st.lists(st.floats(0, 3), max_size=200), st.integers(1, 20), st.integers(1, 50))
def test_a_bucket_is_never_overdrawn(pauses: list[float], rate: int, burst: int) -> None:
    bucket, now = Bucket(rate, burst), 0.0
    for taken, pause in enumerate(pauses, 1):
        now += pause + bucket.take(now)
        assert taken <= burst + rate * now + 1e-6
