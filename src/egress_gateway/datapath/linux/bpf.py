"""Classic BPF filters of sockets (bpf(4)): what they leave out never leaves the kernel."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterable
from typing import Final

from egress_gateway.datapath.addresses import IPAddress

Program = tuple[tuple[int, int, int, int], ...]
"""Code, jump if true, jump if false, constant."""
LOAD, LOAD_BYTE, AND, EQUAL, RETURN = 0x20, 0x30, 0x54, 0x15, 0x06
WHOLE: Final = 0x40000
"""Bytes that are let through: all."""
_SO_ATTACH_FILTER: Final = 26


def attach(listening: socket.socket, program: Program) -> None:
    """From now on the socket hears only what ``program`` lets through."""
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    held = ctypes.create_string_buffer(code, len(code))
    given = struct.pack("@HP", len(program), ctypes.addressof(held))
    listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, given)


def hosts(addresses: Iterable[IPAddress]) -> Program:
    """IP packets from or to one of ``addresses``; everything where there is none. Offsets are
    those of IP's header (a packet socket of SOCK_DGRAM)."""
    steps: list[tuple[int, int, int, int]] = []
    for address in addresses:
        for offset in (12, 16) if address.version == 4 else (8, 24):
            steps += _matches(address, offset)
    return (*steps, (RETURN, 0, 0, 0 if steps else WHOLE))


def _matches(address: IPAddress, offset: int) -> list[tuple[int, int, int, int]]:
    words = struct.unpack(f"!{len(address.packed) // 4}I", address.packed)
    left = 2 * len(words) + 1
    steps = [(LOAD_BYTE, 0, 0, 0), (AND, 0, 0, 0xF0), (EQUAL, 0, left, address.version << 4)]
    for number, word in enumerate(words):
        left -= 2
        steps += [(LOAD, 0, 0, offset + 4 * number), (EQUAL, 0, left, word)]
    return [*steps, (RETURN, 0, 0, WHOLE)]
