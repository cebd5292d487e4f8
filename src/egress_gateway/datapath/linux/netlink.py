"""Netlink, the little of it that we need: messages as values and one socket that asks.

Why our own: a pod's attach makes some fifteen requests while the container waits. Over pyroute2
(0.9) each takes 0.6 to 1 ms of one interpreter lock shared by all pods that start, and its import
adds 36 MB to every agent; here a request takes some 20 µs, and a batch is one system call.
All raw netlink of the project passes through this file. Formats: linux/netlink.h, netlink(7).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from egress_gateway.datapath.errors import DatapathError, KernelRefused
from egress_gateway.datapath.linux.netns import NetNS

ROUTE: Final = 0
NETFILTER: Final = 12
GENERIC: Final = 16

REQUEST: Final = 0x1
ACK: Final = 0x4
DUMP: Final = 0x300
CREATE: Final = 0x400
EXCLUSIVE: Final = 0x200
REPLACE: Final = 0x100
NESTED: Final = 0x8000

_ERROR: Final = 2
_DONE: Final = 3
_DUMP_INTERRUPTED: Final = 0x10
_ACK_TLVS: Final = 0x200
_CAPPED: Final = 0x100
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP: Final = 1
_EXT_ACK: Final = 11
_STRICT_CHECK: Final = 12
_DUMP_ATTEMPTS: Final = 8


class Message(msgspec.Struct, frozen=True):
    """One request, or one answer: type, flags, and the bytes after the netlink header."""

    kind: int
    flags: int
    payload: bytes


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = 4 + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + b"\0" * (-length % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NESTED, b"".join(parts))


def u32(kind: int, value: int) -> bytes:
    """An attribute of 32 bits, in the machine's byte order."""
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    """An attribute of a text that ends with a zero."""
    return attribute(kind, value.encode() + b"\0")


def attributes(payload: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by type; of a repeated one the last."""
    return dict(each_attribute(payload, offset))


def each_attribute(payload: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Attributes in order. Stops at a malformed length, as the kernel's own parser does."""
    while offset + 4 <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < 4 or offset + length > len(payload):
            return
        yield kind & 0x3FFF, payload[offset + 4 : offset + length]
        offset += (length + 3) & ~3


class NetlinkError(KernelRefused):
    """The kernel's answer to a request was an error."""


class Overrun(DatapathError):
    """Notices of the kernel are lost; what comes next is whole again."""


class _Interrupted(Exception):
    """A dump was interrupted by a change and must be asked for again."""


class NetlinkSocket:
    """A netlink socket of one namespace. Thread-safe: requests take turns."""

    def __init__(self, family: int, netns: NetNS | None = None) -> None:
        self._socket = netns.run(lambda: _open(family)) if netns else _open(family)
        self._lock = threading.Lock()
        self._sequence = itertools.count(1)

    def close(self) -> None:
        """The socket keeps its namespace alive until then."""
        self._socket.close()

    def fileno(self) -> int:
        """For an event loop: readable when notices wait. See ``listen``."""
        return self._socket.fileno()

    def ask(self, message: Message, doing: str) -> None:
        """One request that is answered by an acknowledgement. Raises ``NetlinkError``."""
        refused = self.batch([message])[0]
        if refused:
            raise NetlinkError(doing, refused[0], refused[1])

    def batch(self, messages: Sequence[Message]) -> list[tuple[int, str] | None]:
        """Sends all in one call; for each None or (errno, the kernel's explanation)."""
        with self._lock:
            sequences = [next(self._sequence) for _ in messages]
            outcome: dict[int, tuple[int, str] | None] = {}
            for start in range(0, len(messages), 64):
                chunk = list(zip(sequences, messages, strict=True))[start : start + 64]
                self._socket.send(b"".join(_encode(s, m, ACK) for s, m in chunk))
                pending = {s for s, _ in chunk}
                while pending:
                    for sequence, message in self._receive():
                        if sequence in pending and message.kind == _ERROR:
                            outcome[sequence] = _error(message)
                            pending.discard(sequence)
            return [outcome[s] for s in sequences]

    def query(self, message: Message, doing: str) -> list[Message]:
        """A dump, or a single get; retried when a change interrupts it."""
        for _ in range(_DUMP_ATTEMPTS):
            answers: list[Message] = []
            try:
                self.scan(message, doing, answers.append)
            except _Interrupted:
                continue
            return answers
        raise NetlinkError(doing, errno.EINTR, "interrupted by changes again and again")

    def scan(self, message: Message, doing: str, consume: Callable[[Message], None]) -> None:
        """A dump too large to be kept: each answer is consumed as it comes."""
        dump = message.flags & DUMP == DUMP
        interrupted = False
        with self._lock:
            sequence = next(self._sequence)
            self._socket.send(_encode(sequence, message, 0 if dump else ACK))
            while True:
                for answered, answer in self._receive():
                    if answered != sequence:
                        continue
                    interrupted |= bool(answer.flags & _DUMP_INTERRUPTED)
                    if answer.kind in (_ERROR, _DONE):
                        refused = _error(answer) if answer.kind == _ERROR else None
                        if refused:
                            raise NetlinkError(doing, *refused)
                        if interrupted:
                            raise _Interrupted
                        return
                    consume(answer)

    def listen_to(self, *groups: int, buffer: int) -> None:
        """From now on the kernel's notices of ``groups`` wait here, up to ``buffer`` bytes."""
        # SO_RCVBUFFORCE: without privileges the machine's limit holds.
        with contextlib.suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, 33, buffer)
        for group in groups:
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def listen(self, seconds: float) -> list[Message]:
        """Notices, waiting at most so long for the first; none if none came. Raises
        ``Overrun`` when the buffer was full and notices are lost. Not beside requests."""
        with self._lock:
            # NB: select(2) refuses descriptors from 1,024 on, which an agent of many pods has.
            waiting = select.poll()
            waiting.register(self._socket, select.POLLIN)
            if not waiting.poll(seconds * 1000):
                return []
            try:
                return [message for _, message in self._receive()]
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    raise Overrun("the kernel's notices came faster than they were read") from None
                raise

    def _receive(self) -> Iterator[tuple[int, Message]]:
        buffer = self._socket.recv(1 << 17)
        offset = 0
        while offset + 16 <= len(buffer):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(buffer, offset)
            yield sequence, Message(kind, flags, buffer[offset + 16 : offset + length])
            offset += (length + 3) & ~3


def _open(family: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
    opened.bind((0, 0))
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    opened.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
    if family == ROUTE:
        opened.setsockopt(_SOL_NETLINK, _STRICT_CHECK, 1)
    return opened


def _encode(sequence: int, message: Message, extra: int) -> bytes:
    length = 16 + len(message.payload)
    flags = message.flags | REQUEST | extra
    header = _HEADER.pack(length, message.kind, flags, sequence, 0)
    return header + message.payload + b"\0" * (-length % 4)


def _error(message: Message) -> tuple[int, str] | None:
    code = -struct.unpack_from("=i", message.payload)[0]
    if code == 0:
        return None
    explanation = ""
    if message.flags & _ACK_TLVS:
        # After the code comes the request's header, with its payload unless capped.
        request = 16 if message.flags & _CAPPED else struct.unpack_from("=I", message.payload, 4)[0]
        found = attributes(message.payload, 4 + ((request + 3) & ~3))
        explanation = found.get(1, b"").rstrip(b"\0").decode(errors="replace")
    return code, explanation
