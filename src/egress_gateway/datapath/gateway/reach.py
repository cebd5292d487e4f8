"""Whether hosts on the Internet answer a gateway's secondary address: packets made by hand.

No link has the secondary address, so no ordinary socket can send from it. We send a raw packet from
the gateway's namespace, by the path of pods' translated packets. We read the answer as it comes in
by the pair of links, before the filter drops it because it belongs to no connection. A TCP target
gets a SYN; any answer counts, and an RST ends the exchange (RFC 9293). A STUN server gets one
datagram, and says which address it came from. STUN works over IPv6 too, without extension headers;
TCP and echoes only over IPv4.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.gateway import stun
from egress_gateway.datapath.gateway.ruleset import INSIDE_LINK, REACH_MARK
from egress_gateway.datapath.linux import bpf
from egress_gateway.datapath.linux.echo import checksum, echo_request
from egress_gateway.datapath.linux.netns import NetNS

FIRST_PORT: Final = 900
PORTS: Final = 64
"""Source ports of questions, below all that pods' connections are translated to."""
_IDENTIFIER: Final = 0x6567
_TCP, _UDP, _ICMP = 6, 17, 1
_SYN, _RST, _ACK = 0x02, 0x04, 0x10
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """A host to ask: by TCP, with ``port`` 0 by ICMP echo, with ``stun`` by UDP for the address
    that it sees."""

    address: IPAddress
    port: int = 0
    stun: bool = False

    @classmethod
    def parse(cls, text: str) -> ProbeTarget:
        """``198.51.100.10:443`` or ``198.51.100.10``. Raises ``ValueError``."""
        host, colon, port = text.strip().partition(":")
        number = int(port) if colon else 0
        if colon and not 0 < number < 65536:
            raise ValueError(f"{text!r}: {number} is no port")
        return cls(ipaddress.IPv4Address(host), number)

    def __str__(self) -> str:
        return f"{self.address}:{self.port}" if self.port else str(self.address)


@dataclass(frozen=True, slots=True)
class Answer:
    """``secondary`` was answered by ``target``; ``acknowledge``: what an RST must carry."""

    secondary: IPAddress
    target: ProbeTarget
    port: int
    acknowledge: int
    seen: IPAddress | None = None
    """Of a STUN server: what it saw."""


def question(secondary: IPAddress, target: ProbeTarget, number: int, *, size: int = 0) -> bytes:
    """The packet that asks ``target``, of the same family; ``number`` counts rounds. With ``size``
    a STUN server's has that many bytes, less at most three."""
    if target.stun:
        port = FIRST_PORT + number % PORTS
        asked = stun.request(number.to_bytes(12, "big"), size=size - _headers(secondary))
        return _datagram(secondary, port, target, asked)
    if not target.port:
        return _packet(secondary, target.address, _ICMP, echo_request(_IDENTIFIER, number))
    port = FIRST_PORT + number % PORTS
    return _segment(secondary, port, target, sequence=number & 0xFFFFFFFF, flags=_SYN)


def farewell(answer: Answer) -> bytes | None:
    """The RST that lets a TCP target forget the question."""
    if answer.target.stun or not answer.target.port:
        return None
    at = answer.acknowledge
    return _segment(answer.secondary, answer.port, answer.target, sequence=at, flags=_RST)


def parse(packet: bytes) -> Answer | None:
    """What a packet answers; None if it is no answer to a question of ours."""
    if len(packet) >= 48 and packet[0] >> 4 == 6:
        if packet[6] != _UDP:
            return None
        source6, ours6 = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
        return _stun_answer(source6, ours6, packet[40:])
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    start = (packet[0] & 0x0F) * 4
    source, secondary = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    body = packet[start:]
    if packet[9] == _ICMP and len(body) >= 8:
        kind, _, _, whose = struct.unpack_from("!BBHH", body)
        mine = kind == 0 and whose == _IDENTIFIER
        return Answer(secondary, ProbeTarget(source), 0, 0) if mine else None
    if packet[9] == _TCP and len(body) >= 20:
        port, ours, _, acknowledge = struct.unpack_from("!HHII", body)
        if FIRST_PORT <= ours < FIRST_PORT + PORTS:
            return Answer(secondary, ProbeTarget(source, port), ours, acknowledge)
    if packet[9] == _UDP and len(body) >= 8:
        return _stun_answer(source, secondary, body)
    return None


def _stun_answer(source: IPAddress, secondary: IPAddress, body: bytes) -> Answer | None:
    """Of UDP's header and what follows it."""
    port, ours, _, _ = struct.unpack_from("!HHHH", body)
    found = stun.seen(body[8:])
    if found is None or not FIRST_PORT <= ours < FIRST_PORT + PORTS:
        return None
    return Answer(secondary, ProbeTarget(source, port, stun=True), ours, 0, found.address)


def _headers(address: IPAddress) -> int:
    """Bytes of IP's and UDP's."""
    return 28 if address.version == 4 else 48


def _datagram(source: IPAddress, port: int, target: ProbeTarget, body: bytes) -> bytes:
    length = 8 + len(body)
    head = struct.pack("!HHHH", port, target.port, length, 0)
    # RFC 768 and, for IPv6, RFC 8200, section 8.1: the sums of both layouts are the same.
    pseudo = source.packed + target.address.packed + struct.pack("!BBH", 0, _UDP, length)
    total = checksum(pseudo + head + body) or 0xFFFF  # RFC 768: 0 would mean none
    return _packet(source, target.address, _UDP, head[:6] + struct.pack("!H", total) + body)


def _segment(
    source: IPAddress, port: int, target: ProbeTarget, *, sequence: int, flags: int
) -> bytes:
    head = struct.pack("!HHIIBBHHH", port, target.port, sequence, 0, 5 << 4, flags, 1024, 0, 0)
    pseudo = source.packed + target.address.packed + struct.pack("!BBH", 0, _TCP, len(head))
    total = checksum(pseudo + head)
    return _packet(source, target.address, _TCP, head[:16] + struct.pack("!H", total) + head[18:])


def _packet(source: IPAddress, target: IPAddress, protocol: int, body: bytes) -> bytes:
    if source.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + (
            source.packed + target.packed + body
        )
    # The kernel fills in identification and checksum of a raw packet (raw(7)).
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0)
    return head + source.packed + target.packed + body


class Asker:
    """Sockets inside the gateway's namespace. They keep it alive: close soon."""

    def __init__(self, inside: NetNS) -> None:
        self._sockets = inside.run(_open)

    @classmethod
    def open(cls, namespace: Path) -> Asker:
        """Raises ``NoSuchNamespace``."""
        with NetNS.open(namespace) as inside:
            return cls(inside)

    def ask(
        self,
        secondary: IPAddress,
        targets: Iterable[ProbeTarget],
        number: int,
        *,
        size: int = 0,
    ) -> None:
        """Sends question ``number`` from ``secondary``. ``size``: see ``question``."""
        for target in targets:
            self._out(question(secondary, target, number, size=size), target)

    def answers(self) -> list[Answer]:
        """Those that have come since the last call."""
        found = []
        for _, hear in self._sockets.values():
            with contextlib.suppress(BlockingIOError):
                while True:
                    answer = parse(hear.recv(2048))
                    if answer is not None:
                        found.append(answer)
                        if last := farewell(answer):
                            self._out(last, answer.target)
        return found

    def close(self) -> None:
        """The namespace may then go."""
        for pair in self._sockets.values():
            for one in pair:
                one.close()

    def _out(self, packet: bytes, target: ProbeTarget) -> None:
        # A way that refuses to send is a way that does not work: the silence tells.
        with contextlib.suppress(OSError, KeyError):  # KeyError: a kernel without IPv6
            self._sockets[target.address.version][0].sendto(packet, (str(target.address), 0))


def _open() -> dict[int, tuple[socket.socket, socket.socket]]:
    """Of each family that the kernel has: one to send with, one to hear with."""
    found = {4: _open_family(socket.AF_INET, _ETH_P_IP, _PROGRAM)}
    with contextlib.suppress(OSError):
        found[6] = _open_family(socket.AF_INET6, _ETH_P_IPV6, _PROGRAM6)
    return found


def _open_family(
    family: socket.AddressFamily, ethertype: int, program: bpf.Program
) -> tuple[socket.socket, socket.socket]:
    # Raw sockets of IPPROTO_RAW take whole packets, of either family (raw(7), ipv6(7)).
    send = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    send.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, REACH_MARK)
    send.setblocking(False)
    hear = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    bpf.attach(hear, program)
    hear.bind((INSIDE_LINK, ethertype))
    hear.setblocking(False)
    return send, hear


_PROGRAM: Final[bpf.Program] = (
    # Classic BPF (bpf(2)), relative to the IPv4 header: all else stays in the kernel.
    (0x30, 0, 0, 9),  # protocol
    (0x15, 1, 0, _TCP),
    (0x15, 0, 5, _UDP),
    (0xB1, 0, 0, 0),  # X = length of the IPv4 header
    (0x48, 0, 0, 2),  # TCP's or UDP's destination port
    (0x35, 0, 7, FIRST_PORT),
    (0x35, 6, 0, FIRST_PORT + PORTS),
    (0x06, 0, 0, 0xFFFF),
    (0x15, 0, 4, _ICMP),
    (0xB1, 0, 0, 0),
    (0x48, 0, 0, 4),  # ICMP identifier
    (0x15, 0, 1, _IDENTIFIER),
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)


_PROGRAM6: Final[bpf.Program] = (
    # The same of UDP over IPv6.
    (0x30, 0, 0, 6),  # next header
    (0x15, 0, 4, _UDP),
    (0x28, 0, 0, 42),  # UDP's destination port
    (0x35, 0, 2, FIRST_PORT),
    (0x35, 1, 0, FIRST_PORT + PORTS),
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)
