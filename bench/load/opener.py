"""New connections from pods' namespaces as fast as they are answered, and who answers them.

In a pod: ``Opener``. In the lab's Internet: ``python -m bench.load.opener ADDRESS``, which listens
on ``PORTS`` with TCP and echoes UDP there, until its standard input ends. Many ports, because one
address has 64,512 source ports towards one destination, and what is closed keeps its port in
connection tracking for ten seconds.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import resource
import select
import socket
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

from egress_gateway.datapath.linux.netns import NetNS

PORTS: Final = range(9000, 9064)
PATIENCE: Final = 0.95
"""Seconds; what is answered later was lost once: a SYN is sent again after 1 s."""
_WORD: Final = b"new flow"
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: close(2) sends RST, so that no connection waits for two minutes in TIME_WAIT."""
_TICK: Final = 0.05
_AHEAD: Final = 512
"""Sockets made ahead of their use, over all pods."""

Kind = Literal["tcp", "udp"]


@dataclass(slots=True)
class Opened:
    """What came of it: seconds from the first packet to its answer, and those without one."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0


class Opener:
    """``kind`` flows from ``paths`` (network namespaces) in turn, each from a socket of its own."""

    def __init__(self, paths: list[str], destination: str, kind: Kind) -> None:
        self._spaces = [NetNS.open(path) for path in paths]
        self._batch = max(_AHEAD // len(paths), 1)
        self._ready: dict[int, deque[socket.socket]] = {turn: deque() for turn in range(len(paths))}
        self._kind = kind
        self._turns = itertools.cycle(range(len(paths)))
        self._targets = itertools.cycle((destination, port) for port in PORTS)
        self._events = select.epoll()
        self._waiting: dict[int, tuple[socket.socket, float]] = {}

    def run(self, seconds: float, at_once: int) -> Opened:
        """Keeps ``at_once`` of them waiting for an answer for ``seconds``."""
        allow_files(at_once + self._batch * len(self._spaces))
        found, end, swept = Opened(), time.monotonic() + seconds, time.monotonic()
        try:
            while (now := time.monotonic()) < end:
                while len(self._waiting) < at_once:
                    self._begin(found)
                self._hear(found)
                if now - swept > _TICK:
                    swept = now
                    self._give_up(found, now)
            return found
        finally:
            self._close()

    def _begin(self, found: Opened) -> None:
        opened = self._socket(next(self._turns))
        started = time.monotonic()
        code = opened.connect_ex(next(self._targets))
        if code not in (0, errno.EINPROGRESS):
            found.failed += 1
            opened.close()
            return
        if self._kind == "udp":
            with contextlib.suppress(OSError):
                opened.send(_WORD)
        self._waiting[opened.fileno()] = opened, started
        self._events.register(
            opened.fileno(), select.EPOLLIN if self._kind == "udp" else select.EPOLLOUT
        )

    def _hear(self, found: Opened) -> None:
        events = self._events.poll(_TICK)
        now = time.monotonic()
        for descriptor, _ in events:
            opened, started = self._waiting.pop(descriptor)
            if opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                found.failed += 1
            else:
                found.seconds.append(now - started)
            opened.close()

    def _give_up(self, found: Opened, now: float) -> None:
        for descriptor, (opened, started) in list(self._waiting.items()):
            if now - started > PATIENCE:
                del self._waiting[descriptor]
                found.failed += 1
                opened.close()

    def _socket(self, turn: int) -> socket.socket:
        ready = self._ready[turn]
        if not ready:
            # A namespace is entered by a thread of its own: once for many sockets.
            ready.extend(self._spaces[turn].run(self._made))
        return ready.popleft()

    def _made(self) -> list[socket.socket]:
        return [_socket(self._kind) for _ in range(self._batch)]

    def _close(self) -> None:
        ahead = itertools.chain.from_iterable(self._ready.values())
        for opened in (*ahead, *(waiting for waiting, _ in self._waiting.values())):
            opened.close()
        self._events.close()
        for space in self._spaces:
            space.close()


def _socket(kind: Kind) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    made.setblocking(False)
    if kind == "tcp":
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return made


def allow_files(count: int) -> None:
    """Raises the limit of open files, as far as it may be, to hold ``count`` more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def answer(address: str) -> None:
    """Accepts and closes, echoes datagrams; until standard input ends."""
    events = select.epoll()
    listeners, echoes = {}, {}
    for port in PORTS:
        listener = socket.create_server((address, port), backlog=4096)
        listener.setblocking(False)
        listeners[listener.fileno()] = listener
        echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        echo.bind((address, port))
        echo.setblocking(False)
        echoes[echo.fileno()] = echo
    for descriptor in (*listeners, *echoes):
        events.register(descriptor, select.EPOLLIN)
    events.register(sys.stdin.fileno(), select.EPOLLIN)
    print("listening", flush=True)
    while True:
        for descriptor, _ in events.poll():
            if descriptor == sys.stdin.fileno():
                return
            with contextlib.suppress(OSError):
                while descriptor in listeners:
                    listeners[descriptor].accept()[0].close()
                while descriptor in echoes:
                    word, sender = echoes[descriptor].recvfrom(64)
                    echoes[descriptor].sendto(word, sender)


if __name__ == "__main__":
    answer(sys.argv[1])
