"""Packets of a link, for a person with tcpdump or Wireshark: a pcap file of bounded size.

The form is that of libpcap's files (draft-ietf-opsawg-pcap), with nanoseconds and link type RAW:
each record begins with IP's header, so links with and without Ethernet look alike.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.errors import KernelRefused
from egress_gateway.datapath.linux import bpf

_MAGIC_NANOSECONDS: Final = 0xA1B23C4D
_LINKTYPE_RAW: Final = 101
_ETH_P_ALL: Final = 0x0003
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_TIMESTAMPNS: Final = 35
_BUFFER: Final = 4 * 1024 * 1024
_LARGEST: Final = 65535


class CaptureLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The first that is reached ends a capture. ``snaplen``: bytes that are kept of a packet."""

    seconds: float
    packets: int
    size: int
    snaplen: int


class Captured(msgspec.Struct, frozen=True, kw_only=True):
    """``missed``: packets that came faster than they could be read."""

    pcap: bytes
    packets: int
    missed: int
    ended: str


def header(snaplen: int) -> bytes:
    """The start of a pcap file with nanoseconds and raw IP packets of at most ``snaplen`` bytes
    (draft-ietf-opsawg-pcap)."""
    return struct.pack("=IHHiIII", _MAGIC_NANOSECONDS, 2, 4, 0, 0, snaplen, _LINKTYPE_RAW)


def record(packet: bytes, length: int, nanoseconds: int) -> bytes:
    """``length``: what the packet had before it was cut."""
    second, rest = divmod(nanoseconds, 1_000_000_000)
    return struct.pack("=IIII", second, rest, len(packet), length) + packet


def capture(
    links: Sequence[str], addresses: Sequence[IPAddress], limits: CaptureLimits
) -> Captured:
    """Packets of ``links`` of the thread's namespace from or to ``addresses`` (none: all of them).
    Raises ``KernelRefused``."""
    parts = [header(limits.snaplen)]
    size, until, missed = len(parts[0]), time.monotonic() + limits.seconds, 0
    with contextlib.ExitStack() as stack:
        heard = [stack.enter_context(_opened(link, addresses)) for link in links]
        ended = "time"
        while (left := until - time.monotonic()) > 0:
            packet = _next(heard, left, limits.snaplen)
            if packet is None:
                continue
            if size + len(packet) > limits.size:
                ended = "size"
                break
            parts.append(packet)
            size += len(packet)
            if len(parts) > limits.packets:
                ended = "packets"
                break
        for one in heard:
            statistics = one.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
            missed += struct.unpack("=II", statistics)[1]
    return Captured(pcap=b"".join(parts), packets=len(parts) - 1, missed=missed, ended=ended)


def _opened(link: str, addresses: Sequence[IPAddress]) -> socket.socket:
    # Protocol 0 until the filter is there: nothing else is heard even for an instant.
    hearing = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    try:
        bpf.attach(hearing, bpf.hosts(addresses))
        hearing.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        hearing.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        hearing.bind((link, _ETH_P_ALL))
    except OSError as error:
        hearing.close()
        raise KernelRefused(f"listen on {link}", error.errno or 0) from error
    return hearing


def _next(heard: Sequence[socket.socket], seconds: float, snaplen: int) -> bytes | None:
    """The next record; None if it is no IP packet, or none came."""
    ready, _, _ = select.select(heard, [], [], min(seconds, 1.0))
    if not ready:
        return None
    room = socket.CMSG_SPACE(16)
    data, told, _, _ = ready[0].recvmsg(_LARGEST, room)
    if not data or data[0] >> 4 not in (4, 6):
        return None
    stamp = next(
        (struct.unpack("=qq", value[:16]) for _, kind, value in told if kind == _SO_TIMESTAMPNS),
        None,
    )
    at = stamp[0] * 1_000_000_000 + stamp[1] if stamp else time.time_ns()
    return record(data[:snaplen], len(data), at)
