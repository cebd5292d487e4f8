"""Checks continually which addresses of this gateway the Internet sees.

Every ``interval`` seconds the agent asks each STUN server from each configuration's address, by the
path of pods' packets. The majority of the answers counts, so a server that is wrong or down does no
harm. If servers saw the right address before and now see none or another one, the gateway asks pods
to leave it. Node agents never leave the last gateway for it. If no server ever answered, there is
no verdict: these servers may be out of reach.

Every other round also sends a packet as large as pods' largest. A path that silently drops large
packets hangs connections, and no small packet shows it. If servers answer none of that size from
the start, there is no verdict either: they may never answer such packets. Routers may cut the
packet into fragments, so a narrow path that reports its MTU is fine.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from egress_gateway.api.types import (
    INTERNET_UNREACHABLE,
    LARGE_LOST,
    NOT_VERIFIED,
    GatewayVeto,
    SeenAddress,
)
from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.gateway.reach import Answer, Asker, ProbeTarget
from egress_gateway.datapath.gateway.side import NAMESPACE
from egress_gateway.datapath.linux import netns

log = logging.getLogger(__name__)

_TRIES: Final = 3
"""Datagrams to each server in one round: each may be lost."""
_LOOK_SECONDS: Final = 0.5
_LARGE_EVERY: Final = 2
"""Rounds from one question of full size to the next."""
MISSES: Final = 2
"""Rounds without an answer after which there is none."""
_HURRY: Final = 2.0
"""Seconds between a round that found something wrong and the one that makes sure."""
_RESOLVE_SECONDS: Final = 300.0

Name = tuple[str, int]


@dataclass(slots=True)
class Sight:
    """The state of one address. Pure. ``seen`` None: no server has answered yet. ``expected``: what
    should be seen, as it was known at the last round."""

    seen: IPAddress | None = None
    expected: str = ""
    misses: int = 0
    strange: int = 0
    """Rounds in a row in which another address was seen: one is a change that is under way."""
    large_seen: bool = False
    """A packet of full size has been answered."""
    large_misses: int = 0
    """Questions of full size in a row that nobody answered, while small ones were."""

    def round(self, answers: Sequence[IPAddress], expected: str) -> None:
        """One round is over; ``answers``: what each server that answered saw."""
        if expected != self.expected:
            self.expected, self.seen, self.strange = expected, None, 0
        if not answers:
            self.misses += 1
            return
        self.misses = 0
        found = Counter(answers).most_common(1)[0][0]
        self.strange = self.strange + 1 if str(found) != expected else 0
        if not self.strange or self.strange >= MISSES:
            self.seen = found

    def large(self, answered: bool) -> None:
        """A question of full size was answered, or was not while a small one was."""
        self.large_seen = self.large_seen or answered
        self.large_misses = 0 if answered else self.large_misses + 1

    @property
    def large_pressing(self) -> bool:
        """Whether to ask now: it never was, or one question was not answered."""
        return self.large_misses == 1 or not (self.large_seen or self.large_misses)

    @property
    def large_lost(self) -> bool:
        return self.large_seen and self.large_misses >= MISSES and not self.silent

    @property
    def silent(self) -> bool:
        return self.misses >= MISSES

    @property
    def shown(self) -> str:
        """As a report has it."""
        return "" if self.seen is None or self.silent else str(self.seen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a configuration's packets leave with here, and what the Internet should see of it
    (empty: nothing is known of that)."""

    secondary: IPv4Address
    public: str = ""


def judged(
    expected: Mapping[str, Expected], sights: Mapping[IPv4Address, Sight], asked: str
) -> list[GatewayVeto]:
    """Why pods should leave, for each configuration that has a problem. Pure."""
    found = []
    for name, one in sorted(expected.items()):
        sight = sights.get(one.secondary)
        if sight is None or sight.seen is None or sight.expected != one.public or not one.public:
            continue
        if sight.silent:
            text = f"none of {asked} answers {one.secondary}, and they did before"
            found.append(_veto(INTERNET_UNREACHABLE, text, name))
        elif str(sight.seen) != one.public:
            text = f"the Internet sees {sight.seen} in place of {one.public}"
            found.append(_veto(NOT_VERIFIED, text, name))
        elif sight.large_lost:
            text = f"packets of full size from {one.public} get no answer, small ones do"
            found.append(_veto(LARGE_LOST, text, name))
    return found


def _veto(reason: str, message: str, name: str) -> GatewayVeto:
    return GatewayVeto(reason=reason, message=message, static_gateway_configuration=name)


class Verification:
    """``expected`` tells what is served, by name. ``size``: bytes of pods' largest packets."""

    def __init__(
        self,
        servers: Sequence[Name],
        expected: Callable[[], Mapping[str, Expected]],
        *,
        interval: float,
        size: int = 0,
        namespace: Path = netns.DIRECTORY / NAMESPACE,
    ) -> None:
        self._size = size
        self._servers = servers
        self._expected = expected
        self._interval = interval
        self._namespace = namespace
        self._sights: dict[IPv4Address, Sight] = {}
        self._resolved: dict[Name, IPv4Address] = {}
        self._resolve_at = float("-inf")
        self._number = 0
        self._rounds = 0

    @property
    def seen(self) -> list[SeenAddress]:
        """What the report says. An address that was not asked for is left out."""
        return [
            SeenAddress(
                static_gateway_configuration=name,
                expected_ip=sight.expected,
                seen_ip=sight.shown,
                large_lost=sight.large_lost,
            )
            for name, one in sorted(self._expected().items())
            if (sight := self._sights.get(one.secondary)) and (sight.seen or sight.silent)
        ]

    @property
    def vetoes(self) -> list[GatewayVeto]:
        asked = ", ".join(f"{host}:{port}" for host, port in self._servers)
        return judged(self._expected(), self._sights, asked)

    async def round(self) -> None:
        """Asks, and judges; takes ``interval`` seconds, or fewer if something seems to be wrong
        for the first time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._interval
        expected = {one.secondary: one.public for one in self._expected().values() if one.public}
        addresses = expected.keys()
        self._sights = {a: self._sights.get(a) or Sight() for a in addresses}
        targets = await self._targets()
        answers = await self._ask(addresses, targets) if addresses and targets else None
        if answers is not None:
            for address, sight in self._sights.items():
                sight.round(saw(answers, address), expected[address])
            await self._large([a for a in addresses if saw(answers, a)], targets)
        if any(
            1 in (sight.misses, sight.strange, sight.large_misses)
            for sight in self._sights.values()
        ):
            until = min(until, loop.time() + _HURRY)
        await asyncio.sleep(max(until - loop.time(), 0.0))

    async def _large(
        self, addresses: Sequence[IPv4Address], targets: Sequence[ProbeTarget]
    ) -> None:
        """At first, now and then, and again at once where that was not answered."""
        self._rounds += 1
        regular = self._rounds % _LARGE_EVERY == 0
        due = [a for a in addresses if regular or self._sights[a].large_pressing]
        if not self._size or not due:
            return
        answers = await self._ask(due, targets, size=self._size)
        for address in due if answers is not None else ():
            self._sights[address].large(bool(saw(answers or (), address)))

    async def _targets(self) -> list[ProbeTarget]:
        """Resolves names regularly; the last result counts while the resolver does not answer."""
        loop = asyncio.get_running_loop()
        missing = [s for s in self._servers if s not in self._resolved]
        if missing or loop.time() >= self._resolve_at:
            self._resolve_at = loop.time() + _RESOLVE_SECONDS
            for server in self._servers:
                if (address := await _resolve(*server)) is not None:
                    self._resolved[server] = address
        return [ProbeTarget(a, port, stun=True) for (_, port), a in self._resolved.items()]

    async def _ask(
        self, addresses: Iterable[IPv4Address], targets: Sequence[ProbeTarget], *, size: int = 0
    ) -> list[Answer] | None:
        """None if nothing could be asked."""
        try:
            asker = await asyncio.to_thread(Asker.open, self._namespace)
        except (DatapathError, OSError):
            return None  # the structure pass makes the namespace, and tells what hinders it
        found: list[Answer] = []
        wanted = {(address, target) for address in addresses for target in targets}
        try:
            for _ in range(_TRIES):
                self._number += 1
                for address, target in wanted - {(a.secondary, a.target) for a in found}:
                    asker.ask(address, [target], self._number, size=size)
                await asyncio.sleep(_LOOK_SECONDS)
                found += asker.answers()
                if not wanted - {(a.secondary, a.target) for a in found}:
                    break
            return found
        finally:
            asker.close()


def saw(answers: Iterable[Answer], address: IPv4Address) -> list[IPAddress]:
    """What each server saw of ``address``: one word each, the last. Pure."""
    said = {a.target: a.seen for a in answers if a.secondary == address and a.seen}
    return list(said.values())


async def _resolve(host: str, port: int) -> IPv4Address | None:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_DGRAM)
    except OSError as error:
        log.info("cannot resolve a verify target", extra={"host": host, "error": str(error)})
        return None
    return IPv4Address(found[0][4][0]) if found else None
