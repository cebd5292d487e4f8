"""Echoes through tunnels: per node, gateway and configuration one stream, through one pod's tunnel
at a time, in turns, so that every tunnel is checked regularly at no further cost.

Every namespace's socket is closed before its pod may go (``forget``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from egress_gateway.datapath.addresses import ECHO_ADDRESS
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux import echo
from egress_gateway.node.attachment.choose import GatewayNode
from egress_gateway.node.attachment.model import TunnelRecord
from egress_gateway.node.liveness.pathhealth import INTERVAL, PathHealth, TunnelPath
from egress_gateway.node.sandboxes.sandbox import Sandbox
from egress_gateway.service.backoff import doubled

log = logging.getLogger(__name__)

TURN: Final = 2.0
"""Seconds for which one pod's tunnel carries the echoes."""
_AT_FULL_RATE: Final = 5
"""Paths of one node that are asked at full rate. More of them share what those would send, so that
a gateway's load grows with nodes and not with their configurations."""
_IDLE: Final = 0.2
LOST: Final = 10.0
"""Seconds for which a path that was lost is left alone; twice as long the next time."""
_LOST_LIMIT: Final = 300.0
_FORGIVEN: Final = 10
"""A path that has held for this many times its last absence starts again without losses."""


def path_of(tunnel: TunnelRecord) -> TunnelPath:
    """The path that the tunnel takes."""
    return TunnelPath(tunnel.address, tunnel.server.port)


@dataclass(slots=True)
class _Absence:
    until: float
    seconds: float
    losses: int
    """In a row."""


@dataclass(slots=True)
class Stream:
    """The echoes of one path, and the pod whose tunnel carries them for now."""

    health: PathHealth
    sandbox: Sandbox | None = None
    listen_port: int | None = None
    since: float = 0.0
    socket: socket.socket | None = None
    checking: asyncio.Task[None] | None = None
    pods: list[Sandbox] = field(default_factory=list)
    """All with a verified tunnel on the path, be they mute or not."""


Suspected = Callable[[TunnelPath, Sandbox, list[Sandbox]], "asyncio.Task[None]"]


class Paths:
    """``sandboxes`` names the node's; ``on_suspect(path, canary, others)`` starts the search for
    proof and must call ``lost`` or ``proven`` at its end."""

    def __init__(self, sandboxes: Callable[[], Iterable[Sandbox]], *, misses: int = 4) -> None:
        self._sandboxes = sandboxes
        self._misses = misses
        self._streams: dict[TunnelPath, Stream] = {}
        self._absent: dict[TunnelPath, _Absence] = {}
        self._identifier = (os.getpid() ^ 0x5A5A) & 0xFFFF
        self.on_suspect: Suspected | None = None

    @property
    def streams(self) -> list[Stream]:
        """One a path, as they are now."""
        return list(self._streams.values())

    def doubt(self, address: str, port: int) -> float:
        """When the path was lost, in the loop's time; 0 if it never was, or long enough ago to be
        tried again."""
        absence = self._absent.get(TunnelPath(address, port))
        if absence is None or asyncio.get_running_loop().time() >= absence.until:
            return 0.0
        return absence.until - absence.seconds

    def lost(self, path: TunnelPath) -> None:
        """No tunnel of it gets through: new ones go elsewhere for a while, longer each time."""
        now = asyncio.get_running_loop().time()
        before = self._absent.get(path)
        calm = before is None or now - before.until > _FORGIVEN * before.seconds
        losses = 1 if before is None or calm else before.losses + 1
        seconds = doubled(losses, LOST, _LOST_LIMIT)
        self._absent[path] = _Absence(now + seconds, seconds, losses)
        self._searched(path)

    def forgive(self, path: TunnelPath) -> None:
        """A pod that had no better choice has had a handshake there: others may choose it."""
        if absence := self._absent.get(path):
            absence.until = min(absence.until, asyncio.get_running_loop().time())

    def proven(self, path: TunnelPath) -> None:
        """A handshake came through: echoes count anew, through another tunnel if there is one."""
        stream = self._searched(path)
        if stream is not None:
            stream.health.proven()

    def _searched(self, path: TunnelPath) -> Stream | None:
        stream = self._streams.get(path)
        if stream is not None:
            stream.checking = None
            self._close(stream)
        return stream

    def forget(self, sandbox: Sandbox) -> None:
        """The sandbox is about to go, or its tunnel to change."""
        for stream in self._streams.values():
            if stream.sandbox is sandbox:
                self._close(stream)

    async def run(self) -> None:
        """Works until cancelled."""
        try:
            while True:
                self._sort()
                loop = asyncio.get_running_loop()
                waits = [_IDLE]
                for path, stream in list(self._streams.items()):
                    await self._tend(path, stream)
                    waits.append(stream.health.due_in(loop.time()))
                await asyncio.sleep(max(0.005, min(waits)))
        finally:
            for stream in self._streams.values():
                self._close(stream)
                if stream.checking:
                    stream.checking.cancel()

    def _sort(self) -> None:
        """Verified tunnels by the path they take."""
        found: dict[TunnelPath, list[Sandbox]] = {}
        for sandbox in self._sandboxes():
            active = sandbox.attachment.active
            works = sandbox.attachment.verified and not sandbox.gone
            if works and active and isinstance(active.to, GatewayNode):
                found.setdefault(path_of(active), []).append(sandbox)
        for path in self._streams.keys() - found.keys():
            if self._streams[path].checking is None:
                self._close(self._streams.pop(path))
        for path, pods in found.items():
            stream = self._streams.setdefault(path, Stream(PathHealth(self._misses)))
            stream.pods = pods
            stream.health.interval = INTERVAL * max(1.0, len(found) / _AT_FULL_RATE)

    async def _tend(self, path: TunnelPath, stream: Stream) -> None:
        if stream.checking is not None:
            return
        now = asyncio.get_running_loop().time()
        self._choose(stream, now)
        if stream.socket is None:
            await self._open(stream, now)
        if stream.socket is None or stream.sandbox is None:
            return
        # NB: answers that waited while this process did not run count first.
        self._receive(stream)
        if stream.health.suspect and self.on_suspect is not None:
            others = [s for s in stream.pods if s is not stream.sandbox]
            stream.checking = self.on_suspect(path, stream.sandbox, others)
        elif stream.health.due_in(now) <= 0:
            request = echo.echo_request(self._identifier, stream.health.send(now))
            # A link that has just gone refuses to send; that is silence too.
            with contextlib.suppress(OSError):
                stream.socket.sendto(request, (str(ECHO_ADDRESS), 0))

    def _choose(self, stream: Stream, now: float) -> None:
        """The next tunnel in turn, unless the present one is under suspicion."""
        canary = stream.sandbox
        able = [s for s in stream.pods if not s.mute(now)]
        stays = (
            canary is not None
            and canary in able
            and canary.attachment.listen_port == stream.listen_port
        )
        turn = now - stream.since < TURN or len(able) == 1
        if stays and (turn or stream.health.silent_since is not None):
            return
        ordered = sorted(able, key=lambda s: s.attachment.id)
        last = canary.attachment.id if canary else ""
        following = [s for s in ordered if s.attachment.id > last]
        self._close(stream)
        stream.sandbox = next(iter(following or ordered), None)

    async def _open(self, stream: Stream, now: float) -> None:
        sandbox = stream.sandbox
        if sandbox is None:
            return
        state = sandbox.attachment
        listen_port = state.listen_port
        try:
            opened = await sandbox.open_echo()
        except (OSError, DatapathError) as error:
            log.debug("no echo through this tunnel", extra={"pod": state.pod, "error": str(error)})
            stream.sandbox = None
            return
        if sandbox.gone or stream.sandbox is not sandbox or opened is None:
            if opened is not None:
                opened.close()
            return
        stream.socket, stream.since, stream.listen_port = opened, now, listen_port
        stream.health.fresh()

    def _receive(self, stream: Stream) -> None:
        assert stream.socket is not None
        with contextlib.suppress(OSError):
            while True:
                number = echo.echo_reply(stream.socket.recv(2048), self._identifier)
                if number is not None:
                    stream.health.answer(number)

    def _close(self, stream: Stream) -> None:
        if stream.socket is not None:
            stream.socket.close()
        stream.socket, stream.sandbox, stream.listen_port = None, None, None
        stream.health.fresh()
