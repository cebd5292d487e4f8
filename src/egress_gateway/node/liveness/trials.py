"""Tries the paths to gateways that pods could move to, so that a loss of redundancy is known.

A trial is a WireGuard handshake with an attached pod's key, and two echoes, from a socket of the
agent. Every gateway of a configuration knows every pod's key, so nothing has to be made for it, on
either side. What it takes from the pod is nothing: a key is tried only where the pod has no tunnel,
and the session ends with a keepalive, after which the gateway owes nobody anything.

NB: a gateway holds one session a pod. A trial where the pod has a tunnel would take it over, so
``may_try`` is asked again before each packet, and the attachment changes before its link does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from egress_gateway.datapath.addresses import ECHO_ADDRESS
from egress_gateway.datapath.linux import echo
from egress_gateway.datapath.wireguard.initiator import Initiator, Session, receiver
from egress_gateway.datapath.wireguard.mtu import OVERHEAD_V4
from egress_gateway.node.attachment.model import PodConfiguration
from egress_gateway.node.liveness.pathhealth import TunnelPath
from egress_gateway.node.liveness.paths import path_of
from egress_gateway.node.liveness.pathtrial import (
    INTERVAL,
    GatewayTrials,
    Outcome,
    PathTrials,
    Verdict,
    may_try,
)
from egress_gateway.node.sandboxes.sandbox import NodeKernel, Sandbox

log = logging.getLogger(__name__)

_LOOK: Final = 0.5
ANSWER: Final = 2.0
"""Seconds that an answer may take."""
_SMALL, _FULL = 1, 2
"""Numbers of the echoes."""
_QUEUED: Final = 8
_ALIGNED: Final = 16
"""WireGuard fills packets up to a multiple of these bytes."""


class Trials:
    """``sandboxes`` names the node's."""

    def __init__(self, kernel: NodeKernel, sandboxes: Callable[[], Iterable[Sandbox]]) -> None:
        self._kernel = kernel
        self._sandboxes = sandboxes
        self._gateways: dict[str, GatewayTrials] = {}
        self._last: dict[TunnelPath, str] = {}
        """By path, the sandbox whose key was last used."""
        self._socket = _Socket(kernel)

    def verdicts(self, configuration: PodConfiguration) -> dict[str, Verdict]:
        """What is known of the path to each gateway that is to stay, by its node's name."""
        port = configuration.server.port if configuration.server else 0
        found: dict[str, Verdict] = {}
        for gateway in configuration.gateways:
            if not gateway.leaving:
                known = self._of(TunnelPath(gateway.address, port))
                found[gateway.name] = known.verdict if known else ""
        return found

    def _of(self, path: TunnelPath) -> PathTrials | None:
        gateway = self._gateways.get(path.address)
        return gateway.paths.get(path) if gateway else None

    async def run(self) -> None:
        """Works until cancelled."""
        trying: dict[str, asyncio.Task[None]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    possible = self._sort()
                    if not possible:
                        self._socket.close()
                    now = asyncio.get_running_loop().time()
                    for address, gateway in self._gateways.items():
                        if address in trying and not trying[address].done():
                            continue
                        paths = {p for p in possible if p.address == address}
                        if (path := gateway.due(now, paths)) is not None:
                            sandbox = self._turn(path)
                            trying[address] = group.create_task(self._try(gateway, path, sandbox))
                    await asyncio.sleep(_LOOK)
        finally:
            self._socket.close()

    def _sort(self) -> set[TunnelPath]:
        """Paths that some pod's key may try. Forgets those that nobody asks for."""
        listed: set[TunnelPath] = set()
        possible: set[TunnelPath] = set()
        used: set[TunnelPath] = set()
        known: dict[int, set[TunnelPath]] = {}  # pods of one configuration share it
        for sandbox in self._present():
            state = sandbox.attachment
            paths = known.get(id(state.configuration))
            if paths is None:
                paths = known[id(state.configuration)] = _paths(state.configuration)
                listed |= paths
            if state.active is not None and state.verified:
                used.add(path_of(state.active))
                possible |= {p for p in paths - possible if may_try(state, p.address)}
        self._keep(listed)
        for path in used & listed:
            self._gateways[path.address].paths[path].in_use()
        return possible

    def _keep(self, listed: set[TunnelPath]) -> None:
        """Knows exactly these paths from now on."""
        now = asyncio.get_running_loop().time()
        for path in listed:
            if path.address not in self._gateways:
                earlier = INTERVAL * random.random()  # noqa: S311  (spreads load)
                self._gateways[path.address] = GatewayTrials(now - earlier)
            self._gateways[path.address].paths.setdefault(path, PathTrials())
        for address, gateway in list(self._gateways.items()):
            for path in gateway.paths.keys() - listed:
                del gateway.paths[path]
                self._last.pop(path, None)
            if not gateway.paths:
                del self._gateways[address]

    def _present(self) -> Iterator[Sandbox]:
        return (s for s in self._sandboxes() if not s.gone and not s.superseded)

    def _turn(self, path: TunnelPath) -> Sandbox:
        """A sandbox whose key may try ``path``. Another one each time, so that one that the gateway
        does not know proves nothing."""
        able = (
            s
            for s in self._present()
            if s.attachment.verified
            and path in _paths(s.attachment.configuration)
            and may_try(s.attachment, path.address)
        )
        ordered = sorted(able, key=lambda s: s.attachment.id)
        last = self._last.get(path, "")
        following = [s for s in ordered if s.attachment.id > last]
        chosen = (following or ordered)[0]
        self._last[path] = chosen.attachment.id
        return chosen

    async def _try(self, gateway: GatewayTrials, path: TunnelPath, sandbox: Sandbox) -> None:
        outcome = await self._outcome(path, sandbox)
        known = gateway.paths.get(path)
        before = known.verdict if known else ""
        if outcome is not None:
            gateway.note(path, outcome, asyncio.get_running_loop().time())
        if known is not None and known.verdict != before and (before or known.verdict != "reached"):
            level = logging.INFO if known.verdict == "reached" else logging.WARNING
            fields = {"gateway": path.address, "port": path.port, "result": known.verdict}
            log.log(level, "tried a path that no pod uses", extra=fields)

    async def _outcome(self, path: TunnelPath, sandbox: Sandbox) -> Outcome | None:
        """None: the trial could not be made, or had to be given up."""
        state = sandbox.attachment
        server = state.configuration.server
        if server is None or not await self._socket.open():
            return None
        if not may_try(sandbox.attachment, path.address):
            return None
        try:
            begun = Initiator(
                private_key=state.private_key, server_key=server.public_key, now=time.time()
            )
        except ValueError:  # a key that is none
            return None
        with self._socket.hearing(begun.index, path.address) as heard:
            self._socket.send(path, begun.initiation)
            try:
                async with asyncio.timeout(ANSWER):
                    session: Session | None = None
                    while session is None:
                        datagram = await heard.get()
                        if begun.put_off(datagram):
                            return "reached"
                        session = begun.answered(datagram)
            except TimeoutError:
                return "silent"
            return await self._echoes(path, sandbox, session, heard)

    async def _echoes(
        self, path: TunnelPath, sandbox: Sandbox, session: Session, heard: asyncio.Queue[bytes]
    ) -> Outcome | None:
        source = next((a for a in sandbox.attachment.addresses if ":" not in a), None)
        if source is None:
            return "reached"
        # NB: a flow each. Connection tracking drops the second of two packets of one new ICMP flow
        # that a kernel takes from its tunnel at once.
        identifiers = {n: random.getrandbits(15) * 2 + n % 2 for n in (_SMALL, _FULL)}
        address = ipaddress.IPv4Address(source)
        full = self._kernel.facts.mtu - OVERHEAD_V4
        answered: set[int] = set()
        for number, size in ((_SMALL, 0), (_FULL, full - full % _ALIGNED - echo.IP_HEADER)):
            request = echo.echo_request(identifiers[number], number, size=size)
            if not may_try(sandbox.attachment, path.address):
                return None
            self._socket.send(path, session.seal(echo.packet(address, ECHO_ADDRESS, request)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER):
                while len(answered) < 2:
                    reply = session.open(await heard.get()) or b""
                    for number, identifier in identifiers.items():
                        if echo.echo_reply(reply, identifier) == number:
                            answered.add(number)
        if answered and may_try(sandbox.attachment, path.address):
            # The gateway has sent something: without an answer it would begin handshakes.
            self._socket.send(path, session.seal(b""))
        return "narrow" if answered == {_SMALL} else "reached"


class _Socket(asyncio.DatagramProtocol):
    """From which trials go: one a node, so that gateways track one flow a node and server."""

    def __init__(self, kernel: NodeKernel) -> None:
        self._kernel = kernel
        self._transport: asyncio.DatagramTransport | None = None
        self._port = 0
        self._heard: dict[int, tuple[str, asyncio.Queue[bytes]]] = {}

    async def open(self) -> bool:
        """Whether it is open now. Its port is one of those for tunnels: firewalls let it through
        where they let tunnels through."""
        if self._transport is not None:
            return True
        port = self._kernel.free_port()
        try:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.create_datagram_endpoint(
                lambda: self,
                local_addr=("0.0.0.0", port),  # noqa: S104  (as tunnels' sockets)
            )
        except OSError as error:
            self._kernel.release_port(port)
            log.debug("no socket for trials", extra={"error": str(error)})
            return False
        if self._transport is not None:  # another trial was faster
            transport.close()
            self._kernel.release_port(port)
            return True
        self._transport, self._port = transport, port
        return True

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._kernel.release_port(self._port)
            self._transport = None

    def send(self, path: TunnelPath, datagram: bytes) -> None:
        """Whatever refuses to send is silence too."""
        if self._transport is not None:
            self._transport.sendto(datagram, path)

    @contextlib.contextmanager
    def hearing(self, index: int, address: str) -> Iterator[asyncio.Queue[bytes]]:
        """What comes from ``address`` for the attempt ``index``."""
        queue: asyncio.Queue[bytes] = asyncio.Queue(_QUEUED)
        self._heard[index] = address, queue
        try:
            yield queue
        finally:
            del self._heard[index]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        address, queue = self._heard.get(receiver(data) or 0, ("", None))
        if queue is not None and addr[0] == address and not queue.full():
            queue.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        log.debug("trial not sent", extra={"error": str(exc)})


def _paths(configuration: PodConfiguration) -> set[TunnelPath]:
    """To its gateways that are to stay."""
    server = configuration.server
    staying = (g.address for g in configuration.gateways if not g.leaving)
    return {TunnelPath(address, server.port) for address in staying} if server else set()
