"""Long connections from pods' namespaces, each used once a second until it is closed.

A connection is alive as long as what it asks is answered; one that is reset, or stays without an
answer, is counted where it stands. One thread for all of them.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import selectors
import socket
import threading
import time
from dataclasses import dataclass
from typing import Final

from bench.load.opener import allow_files
from egress_gateway.datapath.linux.netns import NetNS

_ECHO: Final = 7
_WORD: Final = b"still here\n"
_TICK: Final = 0.02


@dataclass(slots=True)
class _Connection:
    opened: socket.socket
    asked: float = 0.0
    """When what was answered last had been asked, or what waits for an answer was."""
    answered: float = 0.0
    """The moment of asking of the last question that was answered."""
    waiting: int = 0
    """Bytes that are still to come."""
    over: bool = False


class LongLived:
    """``count`` connections, spread over ``paths`` (namespaces by pod), to an echo of TCP."""

    def __init__(self, paths: dict[str, str], destination: str, count: int, period: float) -> None:
        allow_files(count)
        self._period = period
        self._stopping = threading.Event()
        self._known: list[_Connection] = []
        for index, path in enumerate(paths.values()):
            mine = count // len(paths) + (index < count % len(paths))
            self._known += [_Connection(s) for s in _connect(path, destination, mine)]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def alive(self, since: float) -> int:
        """Connections that answered something asked after ``since``, and are not over."""
        return sum(c.answered >= since and not c.over for c in self._known)

    def stop(self) -> int:
        """Closes them; returns how many were over before."""
        self._stopping.set()
        self._thread.join(5)
        over = sum(c.over for c in self._known)
        for connection in self._known:
            connection.opened.close()
        return over

    def _run(self) -> None:
        events = selectors.DefaultSelector()
        now = time.monotonic()
        queue: list[tuple[float, int]] = []
        for number, connection in enumerate(self._known):
            events.register(connection.opened, selectors.EVENT_READ, connection)
            queue.append((now + self._period * number / len(self._known), number))
        heapq.heapify(queue)
        while not self._stopping.is_set():
            while queue and queue[0][0] <= time.monotonic():
                due, number = queue[0]
                heapq.heapreplace(queue, (due + self._period, number))
                _ask(self._known[number])
            wait = queue[0][0] - time.monotonic() if queue else _TICK
            for key, _ in events.select(max(0.0, min(wait, _TICK))):
                if not _hear(key.data):
                    events.unregister(key.fileobj)
        events.close()


def _ask(connection: _Connection) -> None:
    if connection.over or connection.waiting:
        return
    try:
        connection.opened.send(_WORD)
    except OSError:
        connection.over = True
        return
    connection.asked, connection.waiting = time.monotonic(), len(_WORD)


def _hear(connection: _Connection) -> bool:
    """False when nothing more will come."""
    try:
        heard = connection.opened.recv(4096)
    except BlockingIOError:
        return True
    except OSError:
        heard = b""
    if not heard:
        connection.over = True
        return False
    connection.waiting -= len(heard)
    if connection.waiting <= 0:
        connection.waiting, connection.answered = 0, connection.asked
    return True


def _connect(path: str, destination: str, count: int) -> list[socket.socket]:
    """Raises ``OSError`` if one of them cannot be opened."""

    def opened() -> list[socket.socket]:
        made = []
        for _ in range(count):
            made.append(_patiently(destination))
            made[-1].setblocking(False)
        return made

    with NetNS.open(path) as space:
        return space.run(opened)


def _patiently(destination: str) -> socket.socket:
    # A burst of a thousand may fill the listener's queue for a moment.
    for attempt in range(3):
        with contextlib.suppress(TimeoutError):
            return socket.create_connection((destination, _ECHO), timeout=3 + attempt)
    raise OSError(errno.ETIMEDOUT, f"no connection to {destination}:{_ECHO}")
