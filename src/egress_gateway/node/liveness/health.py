"""Whether a gateway node answers. A state machine over probe events; it has no clock of its own.

Lost after ``misses`` unanswered probes in a row: silence of the machine, not of a program on it,
or every upgrade would move pods. Back only after it has answered without a gap for a hold-down
that doubles with each loss, so that a flapping gateway moves pods ever more rarely.

NB: a late caller makes no false alarm: only probes that were really sent are counted, and the
caller reports every answer that has arrived before it reports the next probe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from egress_gateway.node.attachment.choose import FLAPS
from egress_gateway.service.backoff import doubled

State = Literal["unknown", "alive", "lost"]

_FORGIVEN_AFTER: Final = 10
"""Hold-downs. A gateway that has lived for longer is forgiven its losses."""
_BORNE: Final = 3
"""Losses in a row after which a gateway in its hold-down is the last choice. Where a network drops
echoes alone, pods would go to and fro between gateways for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Times in seconds."""

    misses: int = 3
    hold_down: float = 3.0
    hold_down_limit: float = 60.0


class GatewayHealth:
    """Of one gateway, as one node sees it. ``usable`` until proven lost."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._sent = 0
        self._answered = 0
        self._losses = 0
        self._since = 0.0
        """When the present state began."""
        self._answering_since: float | None = None
        self._last_sent = 0.0
        self.answers = 0
        """Probes that were answered."""
        self.round_trip: float | None = None
        """Seconds that the last answered probe took."""
        self.state: State = "unknown"

    @property
    def probes(self) -> int:
        """Probes that were sent."""
        return self._sent

    @property
    def usable(self) -> bool:
        """Whether pods may choose it. One that was never asked may be chosen."""
        return self.state != "lost"

    @property
    def doubt(self) -> float:
        """0 if pods may choose it. Infinity while it is silent. Between the two, in its hold-down:
        when it was lost, and ``FLAPS`` if that was so again and again."""
        if self.usable:
            return 0.0
        if self._answering_since is None:
            return math.inf
        return self._since if self._losses <= _BORNE else FLAPS + self._since

    @property
    def hold_down(self) -> float:
        """Seconds of answers that a lost gateway owes."""
        return doubled(max(self._losses, 1), self._rules.hold_down, self._rules.hold_down_limit)

    def sent(self, now: float) -> int:
        """A probe is about to be sent; returns its number. Look at ``state`` afterwards."""
        silent = self._sent - self._answered
        if silent >= self._rules.misses:
            self._answering_since = None
            if self.state != "lost":
                self._forgive(now)
                self._losses += 1
                self._become("lost", now)
        self._sent += 1
        self._last_sent = now
        return self._sent

    def answered(self, number: int, now: float) -> None:
        """The answer to probe ``number`` has come, however late."""
        if not self._answered < number <= self._sent:
            return
        self._answered = number
        self.answers += 1
        if number == self._sent:
            self.round_trip = now - self._last_sent
        if self._answering_since is None:
            self._answering_since = now
        served = self.state == "lost" and now - self._answering_since >= self.hold_down
        if served or self.state == "unknown":
            self._become("alive", now)

    def proven(self, now: float) -> None:
        """A pod's tunnel to it works: if it answers probes too, its hold-down is over."""
        if self.state == "lost" and self._answering_since is not None:
            self._become("alive", now)

    def _forgive(self, now: float) -> None:
        if self.state == "alive" and now - self._since > _FORGIVEN_AFTER * self.hold_down:
            self._losses = 0

    def _become(self, state: State, now: float) -> None:
        self.state = state
        self._since = now
