"""Which addresses a pod was allowed, when; and what was sent from others. Pure.

A pod may use an address from the moment at which somebody asks for it, and for ``settle`` seconds
after it was taken away. While the agent of its node could not hear (it was stopped, dead, or cut
from the API server) nobody can expect it to know, so that time does not count. What a pod was
never allowed is wrong at any time, whoever is deaf.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Final

SETTLE: Final = 2.0
"""Seconds in which whoever hears of a change has acted on it."""
NEVER: Final = math.inf


@dataclass(slots=True)
class _Permission:
    network: IPv4Network
    since: float
    until: float = NEVER


@dataclass(slots=True)
class _Deafness:
    since: float
    until: float = NEVER


@dataclass(frozen=True, slots=True)
class Wrong:
    """Packets of a pod from an address that it was not allowed. ``at``: the first, Unix seconds."""

    pod: str
    source: IPv4Address
    protocol: str
    at: float
    last: float
    packets: int


@dataclass(slots=True)
class _Pod:
    worker: str
    permissions: list[_Permission] = field(default_factory=list)


class Ledger:
    """Moments are Unix seconds, as the packets' are."""

    def __init__(self, *, settle: float = SETTLE) -> None:
        self._settle = settle
        self._pods: dict[str, _Pod] = {}
        self._deaf: dict[str, list[_Deafness]] = {}

    def begins(self, pod: str, worker: str) -> None:
        self._pods[pod] = _Pod(worker)

    def allow(self, pod: str, networks: Iterable[IPv4Network], at: float) -> None:
        """These too, from now on; called before anybody is asked for them."""
        known = self._pods[pod].permissions
        for network in networks:
            if not any(p.network == network and p.until == NEVER for p in known):
                known.append(_Permission(network, at))

    def keep(self, pod: str, networks: Collection[IPv4Network], at: float) -> None:
        """These alone from now on; called after whoever decides has said so."""
        for permission in self._pods[pod].permissions:
            if permission.network not in networks and permission.until == NEVER:
                permission.until = at

    def deaf(self, worker: str, at: float) -> object:
        """The agent of the worker hears nothing until ``hears`` is called with what this
        returns."""
        begun = _Deafness(at)
        self._deaf.setdefault(worker, []).append(begun)
        return begun

    def hears(self, deafness: object, at: float) -> None:
        assert isinstance(deafness, _Deafness)
        deafness.until = at

    def allowed(self, pod: str, source: IPv4Address, at: float) -> bool:
        found = self._pods.get(pod)
        if found is None:
            return False
        return any(
            p.since <= at <= self._horizon(found.worker, p.until)
            for p in found.permissions
            if source in p.network
        )

    def _horizon(self, worker: str, until: float) -> float:
        """Until when a permission that ended at ``until`` may still be used."""
        horizon = until + self._settle
        for deafness in sorted(self._deaf.get(worker, ()), key=lambda d: d.since):
            if deafness.since <= horizon and until <= deafness.until:
                horizon = max(horizon, deafness.until + self._settle)
        return horizon

    def judged(self, seen: Iterable[Seen]) -> list[Wrong]:
        """What was not allowed, by pod, source and protocol."""
        first: dict[tuple[str, IPv4Address, str], float] = {}
        last: dict[tuple[str, IPv4Address, str], float] = {}
        packets: Counter[tuple[str, IPv4Address, str]] = Counter()
        for one in seen:
            if self.allowed(one.pod, one.source, one.at):
                continue
            key = one.pod, one.source, one.protocol
            first[key] = min(first.get(key, NEVER), one.at)
            last[key] = max(last.get(key, 0), one.at)
            packets[key] += one.packets
        return [
            Wrong(*key, at=at, last=last[key], packets=packets[key])
            for key, at in sorted(first.items(), key=lambda item: item[1])
        ]


@dataclass(frozen=True, slots=True)
class Seen:
    """Packets that arrived on the Internet for the address of ``pod`` at about the same time."""

    pod: str
    source: IPv4Address
    protocol: str
    at: float
    packets: int
