"""Which Events to write when, without I/O.

A new Event is due at once; a repeat raises the count of the one that exists and is due no sooner
than ``REPEAT`` seconds after its last write, so that a fault that happens fifty times a second
costs one request in five seconds. Memory is bounded: the Events that were quiet longest are
forgotten, and what comes while everything is still waiting to be written is dropped and counted.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NamedTuple

from egress_gateway.kube.clock import timestamp
from egress_gateway.kube.resources import Reference

EventType = Literal["Normal", "Warning"]

REPEAT: Final = 5.0
CAPACITY: Final = 1000
MESSAGE_MAX: Final = 1024
"""Bytes that the API server accepts in a message."""


class Subject(NamedTuple):
    """What makes two Events the same one."""

    target: Reference
    type: EventType
    reason: str
    message: str


@dataclass(slots=True)
class Entry:
    """An Event that occurred ``count`` times; the server knows of ``written`` times.

    ``name`` is empty until the server holds it."""

    subject: Subject
    first: str
    last: str
    count: int = 1
    written: int = 0
    name: str = ""
    not_before: float = float("-inf")

    @property
    def pending(self) -> bool:
        """Whether occurrences are not written yet."""
        return self.count > self.written


class Ledger:
    """Times ``now`` are seconds of one monotonic clock; ``wall`` is what Events show."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Subject, Entry] = OrderedDict()
        self.dropped = 0

    def note(self, subject: Subject, wall: datetime) -> int:
        """An Event happened; how often it did so far, 0 if there was no room for it."""
        subject = subject._replace(message=_cut(subject.message))
        entry = self._entries.get(subject)
        if entry is not None:
            entry.count += 1
            entry.last = timestamp(wall)
            self._entries.move_to_end(subject)
            return entry.count
        if len(self._entries) >= self._capacity and not self._forget_one():
            self.dropped += 1
            return 0
        self._entries[subject] = Entry(subject, timestamp(wall), timestamp(wall))
        return 1

    def due(self, now: float) -> Entry | None:
        """An Event to write now, the longest waiting first."""
        return next((e for e in self._entries.values() if e.pending and e.not_before <= now), None)

    def next_due(self) -> float | None:
        """When ``due`` will have something; None if nothing waits."""
        return min((e.not_before for e in self._entries.values() if e.pending), default=None)

    def wrote(self, entry: Entry, name: str, count: int, now: float) -> None:
        """The server holds ``entry`` as ``name`` with ``count``."""
        entry.name, entry.written, entry.not_before = name, count, now + REPEAT

    def lost(self, entry: Entry) -> None:
        """The server no longer holds it (Events live about an hour): write it anew."""
        entry.name = ""

    def refused(self, entry: Entry) -> None:
        """The server will not take it: forget it."""
        self._entries.pop(entry.subject, None)
        self.dropped += 1

    def _forget_one(self) -> bool:
        quiet = next((e for e in self._entries.values() if not e.pending), None)
        if quiet is None:
            return False
        del self._entries[quiet.subject]
        return True


def _cut(message: str) -> str:
    encoded = message.encode()
    if len(encoded) <= MESSAGE_MAX:
        return message
    return encoded[: MESSAGE_MAX - 3].decode("utf-8", "ignore") + "…"
