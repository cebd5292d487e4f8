"""Limits the connections of each pod and configuration, so that none uses up what all share.

Pods of one configuration share the ports of its address towards each destination, and all
configurations of a gateway share its connection table. The agent counts connections. It puts a pod
that has too many into a set in the kernel. Such a pod can open no new connection until it has a
tenth less; existing ones continue. Between two counts the kernel limits how many a pod may open.
Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.gateway.load import Full
from egress_gateway.datapath.gateway.served import ServedConfiguration


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """``pod``: connections of one pod; ``share``: percent of the connection table that one
    configuration may fill; ``rate``: connections that a pod may begin in a second. 0: no limit."""

    pod: int = 0
    share: int = 0
    rate: int = 0


@dataclass(frozen=True, slots=True)
class Excess:
    """Who has too many: pods by zone and address, and zones, each with how many."""

    pods: Mapping[tuple[int, IPAddress], int] = field(default_factory=dict)
    zones: Mapping[int, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.pods or self.zones)


def excess(
    sources: Mapping[tuple[int, IPAddress], int],
    table: int,
    limits: ConnectionLimits,
    before: Excess,
) -> Excess:
    """``table``: entries that the connection table holds at most; ``before``: the last answer."""
    totals: Counter[int] = Counter()
    for (zone, _), number in sources.items():
        totals[zone] += number
    share = table * limits.share // 100
    return Excess(
        {
            pod: number
            for pod, number in sources.items()
            if limits.pod and number >= _bar(limits.pod, pod in before.pods)
        },
        {
            zone: number
            for zone, number in totals.items()
            if share and number >= _bar(share, zone in before.zones)
        },
    )


def _bar(limit: int, held: bool) -> int:
    return limit - limit // 10 if held else limit


def full(found: Excess, served: Iterable[ServedConfiguration]) -> Full:
    """The same as the kernel's sets have it."""
    interfaces = {one.in_zone: [s.interface for s in one.servers] for one in served}
    return Full(
        frozenset(
            (name, address) for zone, address in found.pods for name in interfaces.get(zone, ())
        ),
        frozenset(name for zone in found.zones for name in interfaces.get(zone, ())),
    )
