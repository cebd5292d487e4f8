"""When a tunnel's handshake is started again. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

FIRST_RETRY: Final = 0.25
SOON: Final = 0.022
"""For a pod that starts: its gateway often learns of it just after the first initiation, which then
is lost, and the container waits. More than the 20 ms in which a second one would be refused; a
start takes too long for many of them to meet at one gateway."""
_GROWTH: Final = 1.6
_LOOK_AT_START: Final = 0.003
_LOOK: Final = 0.025
"""Least seconds between looks: while a container waits, and while nobody does. A gateway's
loss moves hundreds of tunnels at once, and every look is processor time."""
_LONGEST: Final = 1.0
"""A gateway that comes back is asked within that time. ``Pacer`` bounds what all pods send."""
SILENCE: Final = 1.5
"""Seconds without a handshake after which another gateway is worth a try."""
_BORNE: Final = 3
"""Silences in a row that are put down to a gateway that has much to do."""
BUSY: Final = 5.5
"""Seconds without a handshake after which a gateway is left that has answered with a cookie: it is
there. It takes twenty initiations a second with cookies from one address (WireGuard's paper, 5.3),
so many pods of a node wait for each other."""


@dataclass(slots=True)
class Schedule:
    """When to look and when to initiate again. Pure; times in seconds of any one clock."""

    started: float
    again_at: float
    delay: float = FIRST_RETRY
    shortest_look: float = _LOOK
    borne: float = SILENCE
    """Seconds without a handshake that are put up with."""

    @classmethod
    def at(cls, now: float, *, starting: bool = False) -> Schedule:
        """``starting``: the pod has had no handshake yet."""
        first = SOON if starting else FIRST_RETRY
        return cls(now, now + first, first, _LOOK_AT_START if starting else _LOOK)

    def due(self, now: float, jitter: float) -> bool:
        """Whether to initiate again now; then the next time is set. ``jitter``: 0 to 1."""
        if now < self.again_at:
            return False
        self.delay = min(self.delay * _GROWTH, _LONGEST)
        self.again_at = now + self.delay * (1 + 0.25 * jitter)
        return True

    def put_off(self, cookie: bool) -> None:
        """Whether the gateway has answered with a cookie: it is there, and has much to do."""
        self.borne = BUSY if cookie else SILENCE

    def silent(self, now: float) -> bool:
        """Whether no handshake came for as long as is borne. ``now``: seconds, monotonic."""
        return now - self.started > self.borne

    def look_after(self, now: float) -> float:
        """Seconds until the next look: often at first, more so when a pod's start waits for it."""
        return min(max(self.shortest_look, (now - self.started) / 20), 0.5)


@dataclass(slots=True)
class Hearing:
    """Tells a gateway that is busy from one that does not answer. Pure.

    Hundreds of pods that turn to one gateway together wait for each other. Who left it for that
    would start again elsewhere, and so would all others: the more there is to do the less is done.
    """

    heard: dict[Hashable, float] = field(default_factory=dict)
    """By the path to a gateway, when a handshake of any pod's was last complete."""
    silences: dict[str, int] = field(default_factory=dict)
    """By sandbox, silences borne since its last handshake."""

    def complete(self, sandbox: str, path: Hashable, now: float) -> None:
        """A handshake over ``path`` at ``now``: the path lives, whatever other pods say."""
        self.heard[path] = now
        self.silences.pop(sandbox, None)

    def since(self, path: Hashable, then: float) -> bool:
        """Whether anybody's handshake was complete after ``then``."""
        return self.heard.get(path, float("-inf")) > then

    def bears(self, sandbox: str, path: Hashable, now: float) -> bool:
        """Whether the sandbox should go on with this gateway although it has heard nothing for
        ``SILENCE``: others have, and it has not been so for long."""
        borne = self.silences.get(sandbox, 0)
        if borne >= _BORNE or not self.since(path, now - SILENCE):
            self.silences.pop(sandbox, None)
            return False
        self.silences[sandbox] = borne + 1
        return True

    def forget(self, sandbox: str) -> None:
        """The sandbox is gone, or has turned to another gateway."""
        self.silences.pop(sandbox, None)
