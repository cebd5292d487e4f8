"""Checks continually which addresses of this gateway the Internet sees.

Every ``interval`` seconds the agent asks each STUN server from each configuration's addresses, IPv4
and IPv6, by the path of pods' packets. The majority of the answers counts, so a server that is
wrong or down does no harm. If servers saw the right address before and now see none or another one,
the gateway asks pods to leave it. Node agents never leave the last gateway for it. If no server
ever answered, there is no verdict: these servers may be out of reach. A configuration may name
servers of its own, which count for it alone.

Every other round also sends a packet as large as pods' largest. A path that silently drops large
packets hangs connections, and no small packet shows it. If servers answer none of that size from
the start, there is no verdict either: they may never answer such packets. Routers may cut the
packet into fragments, so a narrow path that reports its MTU is fine.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from egress_gateway.api.types import (
    INTERNET_UNREACHABLE,
    LARGE_LOST,
    NOT_VERIFIED,
    GatewayVeto,
    SeenAddress,
)
from egress_gateway.api.validation import host_and_port
from egress_gateway.datapath.addresses import ALWAYS_REFUSED, IPAddress, IPNetwork
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.gateway.namespace import NAMESPACE
from egress_gateway.datapath.gateway.reach import Answer, Asker, ProbeTarget
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
_RETRY_SECONDS: Final = 60.0
"""Before a configuration's own server is looked for again that has no address."""
_NAMES_SECONDS: Final = 2.0
"""What a round waits for names."""
_RESOLVERS: Final = 4

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
        """Whether large packets are lost that arrived before, while small ones arrive."""
        return self.large_seen and self.large_misses >= MISSES and not self.silent

    @property
    def silent(self) -> bool:
        """Whether nobody answers, again and again."""
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
    secondary6: IPv6Address | None = None
    public6: str = ""
    servers: tuple[Name, ...] = ()
    """Of its own; empty: the agent's."""

    @property
    def ways(self) -> dict[IPAddress, str]:
        """What leaves, and what should be seen of it, where that is known."""
        found: dict[IPAddress, str] = {self.secondary: self.public} if self.public else {}
        if self.secondary6 and self.public6:
            found[self.secondary6] = self.public6
        return found


def own_servers(targets: Iterable[str]) -> tuple[Name, ...]:
    """A configuration's own, without those that are none: the controller says which."""
    found = []
    for text in targets:
        with contextlib.suppress(ValueError):
            found.append(host_and_port(text))
    return tuple(found)


def judged(
    expected: Mapping[str, Expected],
    sights: Mapping[IPAddress, Sight],
    servers: Sequence[Name] = (),
) -> list[GatewayVeto]:
    """Why pods should leave, for each configuration that has a problem: one reason each, IPv4's
    first. Pure."""
    found = []
    for name, one in sorted(expected.items()):
        asked = ", ".join(f"{host}:{port}" for host, port in one.servers or servers)
        said = (
            _amiss(name, sights.get(way), way, public, asked) for way, public in one.ways.items()
        )
        if (veto := next(filter(None, said), None)) is not None:
            found.append(veto)
    return found


def _amiss(
    name: str, sight: Sight | None, way: IPAddress, public: str, asked: str
) -> GatewayVeto | None:
    if sight is None or sight.seen is None or sight.expected != public:
        return None
    if sight.silent:
        text = f"none of {asked} answers {way}, and they did before"
        return _veto(INTERNET_UNREACHABLE, text, name)
    if str(sight.seen) != public:
        return _veto(NOT_VERIFIED, f"the Internet sees {sight.seen} in place of {public}", name)
    if sight.large_lost:
        text = f"packets of full size from {public} get no answer, small ones do"
        return _veto(LARGE_LOST, text, name)
    return None


def _veto(reason: str, message: str, name: str) -> GatewayVeto:
    return GatewayVeto(reason=reason, message=message, static_gateway_configuration=name)


def reported(
    expected: Mapping[str, Expected], sights: Mapping[IPAddress, Sight]
) -> list[SeenAddress]:
    """What was seen of each configuration. An address that was not asked for is left out, and so is
    IPv6 that nobody ever answered. Pure."""
    found = []
    for name, one in sorted(expected.items()):
        four, six = (
            sight if sight and (sight.seen or sight.silent) else None
            for sight in (
                sights.get(one.secondary),
                sights.get(one.secondary6) if one.secondary6 else None,
            )
        )
        six = six if six and six.seen else None
        if four or six:
            found.append(
                SeenAddress(
                    static_gateway_configuration=name,
                    expected_ip=four.expected if four else "",
                    seen_ip=four.shown if four else "",
                    expected_ip_v6=six.expected if six else "",
                    seen_ip_v6=six.shown if six else "",
                    large_lost=any(s.large_lost for s in (four, six) if s),
                )
            )
    return found


def probe_targets(
    one: Expected,
    servers: Sequence[Name],
    addresses: Mapping[Name, Iterable[IPAddress]],
    refused: Sequence[IPNetwork] = (),
) -> list[ProbeTarget]:
    """Whom to ask of one configuration: ``servers``, unless it has its own. Its own must not be
    where its pods may not go: whoever writes a configuration is no guest of the node's network.
    Pure."""
    return [
        ProbeTarget(address, server[1], stun=True)
        for server in one.servers or servers
        for address in addresses.get(server, ())
        if not (one.servers and any(address in n for n in (*refused, *ALWAYS_REFUSED)))
    ]


class ServerAddresses:
    """Addresses of servers by their names, looked up regularly. ``servers``: the agent's own, which
    come first and are looked for at once; the last result counts while the resolver is silent."""

    def __init__(self, servers: Sequence[Name]) -> None:
        self.known: dict[Name, tuple[IPAddress, ...]] = {}
        self._servers = servers
        self._tried: dict[Name, float] = {}
        """When a name was last looked for."""
        self._asked: dict[Name, asyncio.Task[tuple[IPAddress, ...]]] = {}
        self._names = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="names")
        """Threads of their own: others do not wait for a resolver."""

    async def look_up(self, servers: set[Name]) -> None:
        """Those of ``servers`` that are due. A name that is answered late, or never, keeps no other
        waiting: whoever writes a configuration names servers."""
        loop = asyncio.get_running_loop()
        self.known = {s: found for s, found in self.known.items() if s in servers}
        self._tried = {s: at for s, at in self._tried.items() if s in servers}
        for server in sorted(servers, key=lambda s: (s not in self._servers, s)):
            since = loop.time() - self._tried.get(server, float("-inf"))
            if server not in self._asked and since >= self._pause(server):
                self._tried[server] = loop.time()
                self._asked[server] = loop.create_task(_resolve(self._names, *server))
        if self._asked:
            await asyncio.wait(self._asked.values(), timeout=_NAMES_SECONDS)
        for server, task in [(s, t) for s, t in self._asked.items() if t.done()]:
            del self._asked[server]
            if (addresses := task.result()) and server in servers:
                self.known[server] = addresses

    def _pause(self, server: Name) -> float:
        """Seconds between two looks for a name."""
        if server in self.known:
            return _RESOLVE_SECONDS
        return 0.0 if server in self._servers else _RETRY_SECONDS


class Verification:
    """``expected`` tells what is served, by name. ``size``: bytes of pods' largest packets now.
    ``refused``: where a configuration's own servers must not be."""

    def __init__(
        self,
        servers: Sequence[Name],
        expected: Callable[[], Mapping[str, Expected]],
        *,
        interval: float,
        size: Callable[[], int] = lambda: 0,
        refused: Sequence[IPNetwork] = (),
        namespace: Path = netns.DIRECTORY / NAMESPACE,
    ) -> None:
        self._size = size
        self._refused = refused
        self._servers = servers
        self._expected = expected
        self._interval = interval
        self._namespace = namespace
        self._sights: dict[IPAddress, Sight] = {}
        self._by: dict[IPAddress, tuple[Name, ...]] = {}
        self._addresses = ServerAddresses(servers)
        self._number = 0
        self._rounds = 0

    @property
    def seen(self) -> list[SeenAddress]:
        """What the report says."""
        return reported(self._expected(), self._sights)

    @property
    def vetoes(self) -> list[GatewayVeto]:
        """Of gateways' own configurations that the Internet sees under a wrong address, or not at
        all."""
        return judged(self._expected(), self._sights, self._servers)

    async def round(self) -> None:
        """Asks, and judges; takes ``interval`` seconds, or fewer if something seems to be wrong
        for the first time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._interval
        served = self._expected().values()
        expected = {way: ip for one in served for way, ip in one.ways.items()}
        addresses = expected.keys()
        # Servers that are new have answered nobody yet, whatever others did before them.
        before, self._by = self._by, {way: one.servers for one in served for way in one.ways}
        known = {a: sight for a, sight in self._sights.items() if before.get(a) == self._by.get(a)}
        self._sights = {a: known.get(a) or Sight() for a in addresses}
        await self._addresses.look_up({s for one in served for s in one.servers or self._servers})
        targets = {
            way: probe_targets(one, self._servers, self._addresses.known, self._refused)
            for one in served
            for way in one.ways
        }
        answers = await self._ask(addresses, targets) if any(targets.values()) else None
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
        self, addresses: Sequence[IPAddress], targets: Mapping[IPAddress, Sequence[ProbeTarget]]
    ) -> None:
        """At first, now and then, and again at once where that was not answered."""
        self._rounds += 1
        regular = self._rounds % _LARGE_EVERY == 0
        due = [a for a in addresses if regular or self._sights[a].large_pressing]
        size = self._size()
        if not size or not due:
            return
        answers = await self._ask(due, targets, size=size)
        for address in due if answers is not None else ():
            self._sights[address].large(bool(saw(answers or (), address)))

    async def _ask(
        self,
        addresses: Iterable[IPAddress],
        targets: Mapping[IPAddress, Sequence[ProbeTarget]],
        *,
        size: int = 0,
    ) -> list[Answer] | None:
        """None if nothing could be asked."""
        try:
            asker = await asyncio.to_thread(Asker.open, self._namespace)
        except (DatapathError, OSError):
            return None  # the structure pass makes the namespace, and tells what hinders it
        found: list[Answer] = []
        wanted = {
            (address, target)
            for address in addresses
            for target in targets[address]
            if address.version == target.address.version
        }
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


def saw(answers: Iterable[Answer], address: IPAddress) -> list[IPAddress]:
    """What each server saw of ``address``: one word each, the last. Pure."""
    said = {a.target: a.seen for a in answers if a.secondary == address and a.seen}
    return list(said.values())


async def _resolve(names: Executor, host: str, port: int) -> tuple[IPAddress, ...]:
    """The first address of each family that there is."""
    look = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_DGRAM)
    try:
        found = await asyncio.get_running_loop().run_in_executor(names, look)
    except (OSError, UnicodeError) as error:  # the latter of what can be no name
        log.info("cannot resolve a verify target", extra={"host": host, "error": str(error)})
        return ()
    addresses = [ipaddress.ip_address(entry[4][0]) for entry in found]
    firsts = (next((a for a in addresses if a.version == v), None) for v in (4, 6))
    return tuple(filter(None, firsts))
