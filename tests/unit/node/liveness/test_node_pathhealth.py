"""Whether a tunnel's way works: echoes sent and answered, times given."""

from __future__ import annotations

from egress_gateway.node.liveness.pathhealth import HURRY, INTERVAL, PATIENCE, PathHealth


def alive(*, misses: int = 4) -> tuple[PathHealth, float]:
    """A way whose first echo has been answered, and the time at which the next is due."""
    health = PathHealth(misses)
    health.answer(health.send(0.0))
    return health, INTERVAL


def test_an_answered_way_is_asked_at_leisure() -> None:
    health, due = alive()
    assert health.due_in(0.0) == INTERVAL
    assert health.due_in(due) == 0.0
    assert not health.suspect


def test_silence_hurries_and_then_is_suspect_within_half_a_second() -> None:
    health, now = alive()
    started = now
    while not health.suspect:
        health.send(now)
        now += max(health.due_in(now), 0.001)
    assert health.sent - health.answered == 4
    assert now - started <= PATIENCE + 4 * HURRY
    # The silence may have begun right after the last answer.
    assert INTERVAL + now - started < 0.5


def test_a_way_that_never_answered_is_suspect_until_it_is_proven() -> None:
    """It may have died before the first answer, or while there was no agent."""
    health, now = PathHealth(), 0.0
    while not health.suspect:
        health.send(now)
        assert health.due_in(now) > HURRY, "its gateway may know no echoes"
        now += health.due_in(now)
    assert health.sent == 4
    health.proven()
    for step in range(100):
        health.send(now + step * INTERVAL)
        assert not health.suspect
    health.answer(health.sent)
    for _ in range(4):
        health.send(now)
    assert health.suspect, "it answers after all"


def test_a_late_answer_ends_the_hurry() -> None:
    health, now = alive()
    health.send(now)
    last = health.send(now + PATIENCE)
    health.answer(last)
    assert health.silent_since is None
    assert health.due_in(now + PATIENCE) == INTERVAL


def test_a_caller_that_was_late_raises_no_alarm() -> None:
    health, now = alive()
    health.send(now)
    # Ten seconds without a processor: one echo is out, and one is no proof.
    assert not health.suspect
    assert health.due_in(now + 10) == 0.0


def test_after_a_proof_it_counts_anew() -> None:
    health, now = alive()
    for _ in range(4):
        health.send(now)
    assert health.suspect
    health.fresh()
    assert not health.suspect
    health.answer(2)
    assert not health.suspect


def test_many_ways_share_what_a_few_would_send() -> None:
    health, _ = alive()
    health.interval = 4 * INTERVAL
    health.send(10.0)
    health.answer(2)
    assert abs(health.due_in(10.0) - 4 * INTERVAL) < 1e-9
    # Silence hurries all the same.
    health.send(20.0)
    assert health.due_in(20.0) <= PATIENCE
