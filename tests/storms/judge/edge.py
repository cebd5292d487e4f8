"""The Internet's edge: every packet to a storm's pods' addresses, and whoever answers them there.

Each pod has an address of the Internet to itself (``TALKS``), so a packet's destination tells whose
it is, whatever its source. A packet socket sees it before any server does, with the kernel's time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
import subprocess
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Coroutine, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final

from egress_gateway.datapath.linux.netns import NetNS
from tests.storms.judge.ledger import Seen
from tests.storms.judge.talker import WORD

TALKS: Final = IPv4Network("198.51.100.128/25")
ROUTER: Final = IPv4Address("198.51.100.1")
"""The lab's router, which tells of what it could not deliver (ICMP errors)."""
_BUCKET: Final = 0.05
_ETH_P_IP: Final = 0x0800
_SO_RCVBUFFORCE: Final = 33
_SO_TIMESTAMPNS: Final = 35
_SO_ATTACH_FILTER: Final = 26
_IP_PKTINFO: Final = 8
_PACKET_STATISTICS: Final = 6
_SOL_PACKET: Final = 263
_PUSH: Final = 0.1
_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp"}


@dataclass(slots=True)
class Life:
    """What a pod was last seen to hear. Moments are Unix seconds."""

    source: IPv4Address
    """Of its last word."""
    heard: list[int]
    """By socket: the one for life, the one that is new every other second."""
    heard_at: list[float]
    asked: int = 0
    asked_at: float = 0.0
    loaded: int = 0
    loaded_at: float = 0.0

    def since(self) -> float:
        """The moment of the oldest proof that something works: the weakest link."""
        return min(*self.heard_at, self.asked_at, self.loaded_at)


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Edge:
    """An async context manager. ``internet``: the path of the site's network namespace."""

    def __init__(self, internet: str) -> None:
        self._internet = internet
        self._space: NetNS | None = None
        self._servers: list[asyncio.Server] = []
        self._talks: set[asyncio.Task[None]] = set()
        self._sockets: list[socket.socket] = []
        self._capture: socket.socket | None = None
        self._names: dict[IPv4Address, str] = {}
        self._seen: Counter[tuple[int, int, int, int]] = Counter()
        self._streams: dict[tuple[str, int, str], float] = {}
        self._pushing: asyncio.Task[None] | None = None
        self._streaks: dict[tuple[int, int], deque[tuple[float, str]]] = {}
        """Of TCP, the last segments by destination and source, in words."""
        self._flows: set[tuple[int, int, bytes]] = set()
        """TCP connections so far: destination, source, ports."""
        self._forgotten: set[tuple[int, int, bytes]] = set()
        self.lives: dict[str, Life] = {}
        self.lost = 0
        """Packets that the kernel could not keep for us: nothing can be said of them."""

    async def __aenter__(self) -> Edge:
        self._space = NetNS.open(self._internet)
        self._space.run(_takes_all)
        loop = asyncio.get_running_loop()
        self._capture = self._space.run(_capturing)
        beats, streams = self._space.run(lambda: (_datagrams(7), _datagrams(82)))
        asked, pushed = self._space.run(lambda: (_listening(8080), _listening(8081)))
        self._sockets = [self._capture, beats, streams]
        loop.add_reader(self._capture, self._read)
        loop.add_reader(beats, _echo, beats)
        loop.add_reader(streams, self._hello, streams)
        self._servers = [
            await asyncio.start_server(self._until_the_end(_answer), sock=asked),
            await asyncio.start_server(self._until_the_end(push), sock=pushed),
        ]
        self._pushing = asyncio.create_task(self._push_streams(streams))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._pushing is not None
        assert self._space is not None
        for server in self._servers:
            server.close()
        for task in (going := {self._pushing, *self._talks}):
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)
        await asyncio.sleep(0)  # what was cut off is closed by then
        for opened in self._sockets:
            asyncio.get_running_loop().remove_reader(opened)
            opened.close()
        self._space.close()

    def _until_the_end(self, talk: Talk) -> Talk:
        """``talk``, known to whoever ends it all. Its connection is cut off when it ends badly: the
        other side may be dead, and take nothing of what is still to be sent."""

        async def talking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._talks.add(task)
            try:
                await talk(reader, writer)
                writer.close()
            except (OSError, TimeoutError, asyncio.CancelledError):
                # No error: asyncio would log each connection's.
                writer.transport.abort()
            finally:
                self._talks.discard(task)

        return talking

    def address(self, pod: str) -> IPv4Address:
        """The address that is this pod's and nobody else's; its next life has another."""
        address = TALKS[len(self._names) + 1]
        self._names[address] = pod
        return address

    def seen(self) -> Iterator[Seen]:
        """All that arrived so far, each at the end of its twentieth of a second: what is allowed
        within it is not sent before. The router's own errors are nobody's."""
        for (destination, source, protocol, bucket), packets in list(self._seen.items()):
            whence = IPv4Address(source)
            if protocol == 1 and whence == ROUTER:
                continue
            name = self._names.get(IPv4Address(destination), "nobody")
            known = _PROTOCOLS.get(protocol, str(protocol))
            yield Seen(name, whence, known, (bucket + 1) * _BUCKET, packets)

    def _denied(self, packet: bytes, destination: int, source: int) -> bool:
        """A bare reset (RFC 9293, 3.5.2) of a connection that its machine has forgotten: the
        machine sent it, which had no pod any more whose it was."""
        header = (packet[0] & 15) * 4
        flow = destination, source, packet[header : header + 4]
        if packet[header + 13] & 0x3F == 0x04 and flow in self._forgotten:
            return True
        self._flows.add(flow)
        return False

    def rebooted(self, pods: Collection[str]) -> None:
        """The machine of these pods lost what it knew of the connections that they had."""
        self._forgotten |= {f for f in self._flows if self._names.get(IPv4Address(f[0])) in pods}

    def segments(self, pod: str, source: IPv4Address, at: float) -> list[str]:
        """TCP segments of about that time, as far as they are remembered."""
        return [
            words
            for (destination, whence), kept in self._streaks.items()
            if whence == int(source) and self._names.get(IPv4Address(destination)) == pod
            for when, words in kept
            if abs(when - at) < 2 * _BUCKET
        ]

    @property
    def packets(self) -> int:
        return sum(self._seen.values())

    def _read(self) -> None:
        assert self._capture is not None
        with contextlib.suppress(BlockingIOError):
            for _ in range(200):
                packet, extra, _, _ = self._capture.recvmsg(256, 64)
                self.note(packet, _moment(extra))

    def note(self, packet: bytes, at: float) -> None:
        """One packet of IPv4 that arrived at that moment, Unix seconds."""
        protocol = packet[9]
        source, destination = struct.unpack_from("!II", packet, 12)
        if protocol == 1 and _tells_of_itself(packet):
            return
        if protocol == 6 and self._denied(packet, destination, source):
            return
        self._seen[destination, source, protocol, int(at / _BUCKET)] += 1
        if protocol == 6:
            kept = self._streaks.setdefault((destination, source), deque(maxlen=50))
            kept.append((at, _segment(packet)))
        if protocol != 17:
            return
        words = packet[(packet[0] & 15) * 4 :]
        if words[2:4] != b"\x00\x07" or len(words) < 8 + WORD.size:
            return
        number, heard, asked, loaded = WORD.unpack_from(words, 8)
        pod, which = self._names.get(IPv4Address(destination), ""), number % 2
        life = self.lives.setdefault(pod, Life(IPv4Address(source), [0, 0], [0.0, 0.0]))
        life.source = IPv4Address(source)
        if heard and heard != life.heard[which]:
            life.heard[which], life.heard_at[which] = heard, at
        if asked and asked != life.asked:
            life.asked, life.asked_at = asked, at
        if loaded and loaded != life.loaded:
            life.loaded, life.loaded_at = loaded, at

    def missed(self) -> int:
        """Packets that came too fast to be kept, since the last question."""
        assert self._capture is not None
        statistics = self._capture.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        _, dropped = struct.unpack("II", statistics)
        self.lost += dropped
        return int(dropped)

    def _hello(self, opened: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                _, (ours, whence) = _received(opened)
                self._streams[whence[0], whence[1], ours] = time.monotonic()

    async def _push_streams(self, opened: socket.socket) -> None:
        """Sends on to whoever spoke within ten seconds, and leaves it to them to answer."""
        while True:
            await asyncio.sleep(_PUSH)
            now = time.monotonic()
            for key, last in list(self._streams.items()):
                if now - last > 10:
                    del self._streams[key]
                with contextlib.suppress(OSError):
                    _send(opened, b"more", key[2], (key[0], key[1]))


def _segment(packet: bytes) -> str:
    """Ports, flags (RFC 9293) and length, in words."""
    header = (packet[0] & 15) * 4
    source, destination = struct.unpack_from("!HH", packet, header)
    flags = "".join(c for n, c in enumerate("FSRPA") if packet[header + 13] >> n & 1)
    length = int.from_bytes(packet[2:4]) - header - (packet[header + 12] >> 4) * 4
    return f"{source}>{destination} {flags} {length} bytes"


def _tells_of_itself(packet: bytes) -> bool:
    """An ICMP error about a packet that was sent to the very address that it comes from: whoever
    has, or had, the address says that there is no way any more. No pod sent it (RFC 792)."""
    inner = (packet[0] & 15) * 4
    kind = packet[inner]
    return kind in (3, 11) and packet[12:16] == packet[inner + 8 + 16 : inner + 8 + 20]


def _moment(extra: list[tuple[int, int, bytes]]) -> float:
    for _, kind, content in extra:
        if kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("qq", content[:16])
            return float(seconds + nanoseconds / 1e9)
    return time.time()


def _takes_all() -> None:
    subprocess.run(["ip", "route", "replace", "local", str(TALKS), "dev", "lo"], check=True)


def _capturing() -> socket.socket:
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    # ld [16]; and mask; jeq network; ret all; ret nothing
    mask, network = int(TALKS.netmask), int(TALKS.network_address)
    program = b"".join(
        struct.pack("HBBI", *line)
        for line in (
            (0x20, 0, 0, 16),
            (0x54, 0, 0, mask),
            (0x15, 0, 1, network),
            (0x06, 0, 0, 0xFFFF),
            (0x06, 0, 0, 0),
        )
    )
    kept = ctypes.create_string_buffer(program)
    opened.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 5, ctypes.addressof(kept))
    )
    opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
    opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    opened.setblocking(False)
    opened.bind(("eth0", _ETH_P_IP))
    return opened


def _datagrams(port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    opened.setblocking(False)
    # The site's own hosts listen on addresses of theirs.
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind(("0.0.0.0", port))
    return opened


def _listening(port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    opened.bind(("0.0.0.0", port))
    opened.listen(256)
    return opened


def _received(opened: socket.socket) -> tuple[bytes, tuple[str, Any]]:
    """What came, our address that it came to, and who sent it."""
    content, extra, _, whence = opened.recvmsg(256, 64)
    ours = next(c[8:12] for _, kind, c in extra if kind == _IP_PKTINFO)
    return content, (socket.inet_ntoa(ours), whence)


def _send(opened: socket.socket, content: bytes, ours: str, whither: Any) -> None:
    control = struct.pack("I4s4s", 0, socket.inet_aton(ours), b"\0\0\0\0")
    opened.sendmsg([content], [(socket.IPPROTO_IP, _IP_PKTINFO, control)], 0, whither)


def _echo(opened: socket.socket) -> None:
    with contextlib.suppress(OSError):
        for _ in range(200):
            content, (ours, whence) = _received(opened)
            _send(opened, content, ours, whence)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(5):
        await reader.readline()
        writer.write(f"{writer.get_extra_info('peername')[0]}\n".encode())
        await writer.drain()


async def push(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 200)
        async with asyncio.timeout(10):
            await writer.drain()
        await asyncio.sleep(_PUSH)
