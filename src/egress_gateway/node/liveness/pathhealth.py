"""Whether a tunnel's path to its gateway works, both ways. A state machine over echoes; pure.

The echo goes through a pod's own tunnel and is answered by the gateway's kernel behind the
translation. So it finds what a probe of the machine cannot: UDP that is filtered, an interface that
is gone, a session that the gateway has forgotten. Silence is only a suspicion: a flooded tunnel
drops echoes too, so the agent looks for proof (a handshake) before a pod moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

INTERVAL: Final = 0.2
"""Seconds between echoes while all is well."""
PATIENCE: Final = 0.08
"""Seconds that an answer may take before the next echoes hurry."""
HURRY: Final = 0.04


class TunnelPath(NamedTuple):
    """What one configuration's tunnels to one gateway have in common: its address, and the UDP
    port of the server."""

    address: str
    port: int


@dataclass(slots=True)
class PathHealth:
    """Of one path, as one node sees it.

    A path that has never answered is suspected too: it may have died before its first answer, or
    while no agent was there to ask. Once a handshake has proven it, its gateway knows no echoes,
    and it is not judged by them.
    NB: a late caller makes no false alarm: it reports every answer that has come before it asks
    whether the next echo is due, and only echoes that were really sent are counted.
    """

    misses: int = 4
    interval: float = INTERVAL
    """Seconds between echoes while all is well."""
    answers: bool = False
    """The gateway has answered an echo before, of whatever pod."""
    sent: int = 0
    answered: int = 0
    last: float = float("-inf")
    """When the last echo was sent."""
    echoless: bool = False
    """A handshake has proven the path, and no echo was ever answered."""
    silent_since: float | None = None
    """When the oldest echo that is unanswered was sent."""

    def due_in(self, now: float) -> float:
        """Seconds until the next echo; 0: now."""
        hurried = self.silent_since is not None and now - self.silent_since >= PATIENCE
        pause = HURRY if hurried and self.answers else self.interval
        if self.silent_since is not None and not hurried:
            pause = min(pause, self.silent_since + PATIENCE - self.last)
        return max(0.0, self.last + pause - now)

    def send(self, now: float) -> int:
        """An echo is about to be sent; returns its number."""
        self.sent += 1
        self.last = now
        if self.silent_since is None:
            self.silent_since = now
        return self.sent

    def answer(self, number: int) -> None:
        """The answer to echo ``number`` has come, however late."""
        if not self.answered < number <= self.sent:
            return
        self.answered = number
        self.answers, self.echoless = True, False
        self.silent_since = None if number == self.sent else self.last

    @property
    def suspect(self) -> bool:
        """So many echoes in a row went unanswered that somebody should look."""
        return not self.echoless and self.sent - self.answered >= self.misses

    def proven(self) -> None:
        """A handshake has shown that the path works."""
        self.echoless = not self.answers
        self.fresh()

    def fresh(self) -> None:
        """Another pod's tunnel from now on, or the same after it was proven: counts anew."""
        self.answered = self.sent
        self.silent_since = None
