"""Azure's own word for when to try again is kept, whatever it said no for."""

from __future__ import annotations

import pytest

from egress_gateway.cloud import errors
from egress_gateway.cloud.protocol import CreatePrefix
from egress_gateway.controller.apply import FailedStep
from egress_gateway.controller.planning.wanted import Names, Step, Wanted
from egress_gateway.controller.refusals import RefusalBackoff

WANTED = [Wanted(uid="a", names=Names.of("a"))]
STEP = Step(CreatePrefix(name="p", size=31), frozenset({"a"}))


@pytest.mark.parametrize("kind", [errors.Conflict, errors.Throttled, errors.Unavailable])
@pytest.mark.parametrize("seconds", [3.0, 10.0, 90.0])
def test_whoever_is_told_when_does_not_ask_before(
    kind: type[errors.CloudError], seconds: float
) -> None:
    backoff = RefusalBackoff(limit=30, clock=lambda: 0.0)
    for _ in range(5):
        refusal = FailedStep(STEP, kind("not now", code="RetryableError", retry_after=seconds))
        setback = backoff.judge("np", [refusal], WANTED)
        assert setback is not None
        assert setback.seconds >= seconds


def test_a_lost_race_is_nobody_s_news_and_is_run_again_at_once() -> None:
    backoff = RefusalBackoff(limit=30, clock=lambda: 0.0)
    refusal = FailedStep(STEP, errors.Conflict("lost", code="PreconditionFailed"))
    first, second, third = (backoff.judge("np", [refusal], WANTED) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert (first.seconds, second.seconds) == (0.2, 0.4)
    assert not first.problems
    assert third.problems["a"].reason == "Conflict"
