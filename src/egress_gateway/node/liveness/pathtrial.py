"""Whether paths that no pod uses would work: what trials found, and which is next. Pure.

A trial asks a gateway by a handshake and two echoes, small and full-size (``trials``). One that
comes to nothing proves nothing: a gateway may be busy, or learn of a pod late. ``MISSES`` in a row,
with different pods' keys where there are some, do.

Cost: each gateway hears ``INTERVAL`` seconds apart from each node that has pods of it, whatever the
number of their configurations, which take turns. Only what has just changed is asked ``HURRY``
apart, and then a node's other paths to that gateway too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

from egress_gateway.node.attachment.choose import GatewayNode
from egress_gateway.node.attachment.model import Attachment
from egress_gateway.node.liveness.pathhealth import TunnelPath

INTERVAL: Final = 10.0
HURRY: Final = 2.0
MISSES: Final = 3
GRACE: Final = 60.0
"""Seconds of silence that are borne of a path that was never reached: a gateway is listed when its
machine has joined, and answers when its agent has begun."""

Outcome = Literal["reached", "silent", "narrow"]
"""``narrow``: small packets are answered, and full-size ones are not."""
Verdict = Literal["", "reached", "silent", "narrow"]
"""Empty: not known yet."""


@dataclass(slots=True)
class PathTrials:
    """Of one path."""

    verdict: Verdict = ""
    tried: float = float("-inf")
    silent: int = 0
    narrow: int = 0
    """How many in a row."""
    silent_since: float = 0.0
    reached: bool = False
    """At some time."""

    def note(self, outcome: Outcome, now: float) -> bool:
        """Takes a trial into account; whether what was known has changed."""
        before = self.verdict
        self.reached = self.reached or outcome != "silent"
        self.silent_since = self.silent_since if self.silent else now
        self.silent = self.silent + 1 if outcome == "silent" else 0
        if outcome != "silent":
            self.narrow = self.narrow + 1 if outcome == "narrow" else 0
        if self.silent >= MISSES and (self.reached or now - self.silent_since >= GRACE):
            self.verdict = "silent"
        elif self.narrow >= MISSES:
            self.verdict = "narrow"
        elif outcome == "reached" or (outcome == "narrow" and before == "silent"):
            self.verdict = "reached"
        return self.verdict != before and (bool(before) or self.verdict != "reached")

    @property
    def in_doubt(self) -> bool:
        """Whether the last trials differ from the verdict: try again soon."""
        return (self.silent > 0 and self.verdict != "silent") or 0 < self.narrow < MISSES

    def in_use(self) -> None:
        """A pod's own tunnel takes the path, and works."""
        self.silent, self.reached = 0, True
        if self.verdict != "narrow":
            self.verdict = "reached"


@dataclass(slots=True)
class GatewayTrials:
    """Of all paths of one node to one gateway."""

    last: float
    """When a trial ended last; at first random, so that nodes do not ask in step."""
    paths: dict[TunnelPath, PathTrials] = field(default_factory=dict)
    changed: float = float("-inf")
    """When something known of a path was last found to be otherwise."""

    def due(self, now: float, possible: set[TunnelPath]) -> TunnelPath | None:
        """The path to try now, if it is time. ``possible``: those that some pod's key can try."""
        if not possible:
            return None
        known = {path: self.paths[path] for path in possible}
        hurry = any(p.in_doubt or p.tried < self.changed for p in known.values())
        if now < self.last + (HURRY if hurry else INTERVAL):
            return None
        # One that works is not kept waiting by one that never did.
        path = min(
            known, key=lambda p: (not (known[p].in_doubt and known[p].reached), known[p].tried, p)
        )
        known[path].tried = now
        return path

    def note(self, path: TunnelPath, outcome: Outcome, now: float) -> None:
        """The trial of ``path`` has ended."""
        self.last = now
        if path in self.paths and self.paths[path].note(outcome, now):
            self.changed = self.paths[path].tried


def may_try(state: Attachment, address: str) -> bool:
    """Whether the pod has no tunnel at the gateway of ``address`` that a trial with its key would
    take over. One by the load balancer ends at whichever gateway that has chosen."""
    return all(
        isinstance(tunnel.to, GatewayNode) and tunnel.address != address for tunnel in state.tunnels
    )
