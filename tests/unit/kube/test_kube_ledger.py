"""Events are written once, counted after that, and bounded."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.kube.event_ledger import REPEAT, Ledger, Subject
from egress_gateway.kube.resources import Reference

WALL = datetime(2026, 1, 1, tzinfo=UTC)


def subject(name: str = "a", message: str = "m") -> Subject:
    return Subject(Reference(kind="Pod", namespace="n", name=name), "Warning", "Why", message)


def write(ledger: Ledger, now: float) -> int:
    entry = ledger.due(now)
    assert entry is not None
    ledger.wrote(entry, entry.name or "event", entry.count, now)
    return entry.count


def test_the_first_is_due_at_once_and_repeats_wait_and_are_counted() -> None:
    ledger = Ledger()
    ledger.note(subject(), WALL)
    assert write(ledger, 0) == 1
    for _ in range(50):
        ledger.note(subject(), WALL)
    assert ledger.due(REPEAT - 0.1) is None
    assert ledger.next_due() == REPEAT
    assert write(ledger, REPEAT) == 51
    assert ledger.due(1000) is None
    assert ledger.next_due() is None


def test_a_repeat_during_the_write_is_not_lost() -> None:
    ledger = Ledger()
    ledger.note(subject(), WALL)
    entry = ledger.due(0)
    assert entry is not None
    count = entry.count
    ledger.note(subject(), WALL)
    ledger.wrote(entry, "event", count, 0)
    assert write(ledger, REPEAT) == 2


def test_another_message_is_another_event() -> None:
    ledger = Ledger()
    assert ledger.note(subject(message="x"), WALL) == 1
    assert ledger.note(subject(message="y"), WALL) == 1
    assert ledger.note(subject(message="x"), WALL) == 2


def test_full_of_unwritten_events_it_drops_and_counts() -> None:
    ledger = Ledger(capacity=2)
    assert ledger.note(subject("a"), WALL)
    assert ledger.note(subject("b"), WALL)
    assert not ledger.note(subject("c"), WALL)
    assert ledger.dropped == 1
    write(ledger, 0)
    assert ledger.note(subject("c"), WALL), "a written Event makes room"


def test_an_overlong_message_is_cut_to_what_the_server_takes() -> None:
    ledger = Ledger()
    ledger.note(subject(message="é" * 2000), WALL)
    entry = ledger.due(0)
    assert entry is not None
    assert len(entry.subject.message.encode()) <= 1024
    assert entry.subject.message.endswith("…")


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=60))
def test_what_is_not_dropped_is_counted_exactly(steps: list[tuple[str, bool]]) -> None:
    ledger, noted, written, now = Ledger(capacity=3), 0, 0, 0.0

    def write_one() -> bool:
        nonlocal written
        entry = ledger.due(now)
        if entry is None:
            return False
        written += entry.count - entry.written
        ledger.wrote(entry, "event", entry.count, now)
        return True

    for name, writes in steps:
        now += 1
        noted += ledger.note(subject(name), WALL) > 0
        if writes:
            write_one()
    now += REPEAT
    while write_one():
        pass
    assert written == noted
    assert noted + ledger.dropped == len(steps)
