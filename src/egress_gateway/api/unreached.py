"""Gateways that nodes do not reach, as the PodEndpoints of a configuration tell. Pure.

Pods there are served by another gateway, and have none to move to if that is lost too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from egress_gateway.api.types import PodEndpoint, UnreachedReason

_NAMED: Final = 3
_WORDS: Final[Mapping[UnreachedReason, tuple[str, str]]] = {
    "TunnelsUnanswered": ("get no answer from it", "check that UDP {port} passes both ways"),
    "LargePacketsLost": (
        "lose large packets on the way to it",
        "check the MTU between, and what drops large UDP packets",
    ),
}


@dataclass(frozen=True, slots=True)
class Unreached:
    """One gateway, and the ``nodes`` that do not reach it of the ``of`` that have pods."""

    nodes: tuple[str, ...]
    of: int
    reasons: frozenset[UnreachedReason]

    @property
    def everywhere(self) -> bool:
        """No node gets an answer: it serves nobody."""
        return len(self.nodes) == self.of and self.reasons == {"TunnelsUnanswered"}

    @property
    def evidence(self) -> str:
        """For a person: which nodes, and what they see."""
        named = ", ".join(self.nodes[:_NAMED]) + (" …" if len(self.nodes) > _NAMED else "")
        what = " or ".join(_WORDS[reason][0] for reason in self._ordered)
        return f"{len(self.nodes)} of {self.of} nodes with pods {what} ({named})"

    def mend(self, port: int) -> str:
        """For a person: what to look at; ``port`` is the UDP port of the configuration."""
        return ", and ".join(_WORDS[reason][1] for reason in self._ordered).format(port=port)

    @property
    def _ordered(self) -> list[UnreachedReason]:
        return sorted(self.reasons, reverse=True)


def unreached(
    endpoints: Iterable[PodEndpoint], *, up: Collection[str] | None = None
) -> dict[str, Unreached]:
    """By gateway, from the ``endpoints`` of one configuration. ``up``: nodes that are; what others
    have said is of the past. None: all are."""
    told = [e for e in endpoints if e.status.state and (up is None or e.spec.node_name in up)]
    nodes: dict[str, set[str]] = defaultdict(set)
    reasons: dict[str, set[UnreachedReason]] = defaultdict(set)
    for endpoint in told:
        for one in endpoint.status.unreached_gateways:
            nodes[one.gateway].add(endpoint.spec.node_name)
            reasons[one.gateway].add(one.reason)
    of = len({e.spec.node_name for e in told})
    return {
        gateway: Unreached(tuple(sorted(found)), of, frozenset(reasons[gateway]))
        for gateway, found in sorted(nodes.items())
    }
