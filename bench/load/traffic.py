"""Steady requests from pods' namespaces, sent on time whether or not earlier ones were answered.

``Requests``: a new TCP connection and an HTTP GET each, answered with the address that the
Internet saw; one thread a pod. ``Datagrams``: one UDP datagram each, echoed by
``bench.load.opener``; one thread for hundreds of pods. A request without an answer after
``PATIENCE`` has failed; no retransmission of SYN (after 1 s) can save it, so an outage shows as
what it is.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import random
import selectors
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

from bench.load.opener import PORTS
from egress_gateway.datapath.linux.netns import NetNS

PATIENCE: Final = 0.95
_HTTP: Final = 80
_NUMBER: Final = struct.Struct("!Q")
_TICK: Final = 0.02

Sent = list[Any]
"""[sent, answered or None, source or None]"""


def ask_once(path: str, destination: str) -> str | None:
    """The address that ``destination`` sees of a namespace; None without an answer."""

    def ask() -> str | None:
        try:
            with socket.create_connection((destination, _HTTP), timeout=2) as connection:
                connection.sendall(_request(destination, "/bench"))
                text = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
        except OSError:
            return None
        return _source(text)

    with NetNS.open(path) as space:
        return space.run(ask)


def _request(host: str, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


def _source(text: str) -> str:
    return text.rpartition("\r\n\r\n")[2].strip()


@dataclass(slots=True)
class _Pending:
    connection: socket.socket
    entry: Sent
    reply: bytes = b""
    asked: bool = False


@dataclass(slots=True)
class _Flow:
    """The requests of one pod; its thread stays in the pod's namespace."""

    destination: str
    rate: float
    stopping: threading.Event
    sent: list[Sent] = field(default_factory=list)

    def run(self) -> None:
        period, pending = 1 / self.rate, selectors.DefaultSelector()
        due = time.monotonic() + random.random() * period
        while not self.stopping.is_set():
            now = time.monotonic()
            if now >= due:
                due += period
                self._begin(pending, now)
            self._progress(pending, max(0.0, min(due - time.monotonic(), _TICK)))
        deadline = time.monotonic() + PATIENCE
        while pending.get_map() and time.monotonic() < deadline:
            self._progress(pending, _TICK)
        for key in list(pending.get_map().values()):
            key.data.connection.close()
        pending.close()

    def _begin(self, pending: selectors.BaseSelector, now: float) -> None:
        entry: Sent = [now, None, None]
        self.sent.append(entry)
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.setblocking(False)
        code = connection.connect_ex((self.destination, _HTTP))
        if code not in (0, errno.EINPROGRESS):
            connection.close()
            return
        pending.register(connection, selectors.EVENT_WRITE, _Pending(connection, entry))

    def _progress(self, pending: selectors.BaseSelector, wait: float) -> None:
        for key, _ in pending.select(wait):
            one: _Pending = key.data
            try:
                done = self._step(pending, one)
            except OSError:
                done = True
            if done:
                pending.unregister(one.connection)
                one.connection.close()
        now = time.monotonic()
        for key in list(pending.get_map().values()):
            if now - key.data.entry[0] > PATIENCE:
                pending.unregister(key.data.connection)
                key.data.connection.close()

    def _step(self, pending: selectors.BaseSelector, one: _Pending) -> bool:
        """Moves one request on; True when it is over."""
        if not one.asked:
            code = one.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, "connect")
            one.connection.send(_request(self.destination, "/bench"))
            one.asked = True
            pending.modify(one.connection, selectors.EVENT_READ, one)
            return False
        chunk = one.connection.recv(4096)
        one.reply += chunk
        if chunk:
            return False
        if one.reply:
            one.entry[1] = time.monotonic()
            one.entry[2] = _source(one.reply.decode(errors="replace"))
        return True


class Requests:
    """HTTP requests from a few pods (``paths``: namespaces by pod)."""

    def __init__(self, paths: dict[str, str], destination: str, rate: float) -> None:
        self._stopping = threading.Event()
        self._flows = {pod: _Flow(destination, rate, self._stopping) for pod in paths}
        self._threads = [
            threading.Thread(target=_inside, args=(paths[pod], flow), daemon=True)
            for pod, flow in self._flows.items()
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def answered(self, since: float) -> list[str]:
        return [pod for pod, flow in self._flows.items() if _after(flow.sent, since)]

    def stop(self) -> dict[str, list[Sent]]:
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE + 2)
        return {pod: flow.sent for pod, flow in self._flows.items()}


def _inside(path: str, flow: _Flow) -> None:
    with NetNS.open(path) as space:
        space.run(flow.run)


def _after(sent: list[Sent], since: float) -> bool:
    for when, answered, _ in reversed(sent):
        if when <= since:
            return False
        if answered is not None:
            return True
    return False


class Datagrams:
    """UDP echo from many pods. Sockets are opened inside, used from one thread."""

    def __init__(self, paths: dict[str, str], destination: str, rate: float) -> None:
        self._period = 1 / rate
        self._stopping = threading.Event()
        self._sent: dict[str, list[Sent]] = {pod: [] for pod in paths}
        self._sockets = {pod: _datagram_socket(path, destination) for pod, path in paths.items()}
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def answered(self, since: float) -> list[str]:
        return [pod for pod, sent in self._sent.items() if _after(sent, since)]

    def stop(self) -> dict[str, list[Sent]]:
        self._stopping.set()
        self._thread.join(PATIENCE + 5)
        for opened in self._sockets.values():
            opened.close()
        return self._sent

    def _run(self) -> None:
        waiting = selectors.DefaultSelector()
        for pod, opened in self._sockets.items():
            waiting.register(opened, selectors.EVENT_READ, pod)
        now = time.monotonic()
        queue = [(now + random.random() * self._period, pod) for pod in self._sockets]
        heapq.heapify(queue)
        while not self._stopping.is_set():
            while queue[0][0] <= time.monotonic():
                due, pod = queue[0]
                heapq.heapreplace(queue, (due + self._period, pod))
                self._send(pod)
            self._receive(waiting, max(0.0, min(queue[0][0] - time.monotonic(), _TICK)))
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self._receive(waiting, _TICK)
        waiting.close()

    def _send(self, pod: str) -> None:
        sent = self._sent[pod]
        number = _NUMBER.pack(len(sent))
        sent.append([time.monotonic(), None, None])
        with contextlib.suppress(OSError):
            self._sockets[pod].send(number)

    def _receive(self, waiting: selectors.BaseSelector, wait: float) -> None:
        for key, _ in waiting.select(wait):
            with contextlib.suppress(OSError):
                while True:
                    (number,) = _NUMBER.unpack(key.fileobj.recv(64))  # type: ignore[union-attr]
                    entry = self._sent[key.data][number]
                    now = time.monotonic()
                    if now - entry[0] <= PATIENCE:
                        entry[1] = now


def _datagram_socket(path: str, destination: str) -> socket.socket:
    def opened() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.connect((destination, PORTS[0]))
        return made

    with NetNS.open(path) as space:
        return space.run(opened)
