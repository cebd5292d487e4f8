"""ICMP echo (RFC 792) as functions over bytes, and the sockets that carry it.

The kernel answers an echo request, whatever programs do: silence means that the machine, or the way
to it, is gone.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Final

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.linux.netns import NetNS

_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_SOL_RAW: Final = 255
_ICMP_FILTER: Final = 1  # linux/icmp.h; a set bit keeps that type away from the socket
_HEADER: Final = struct.Struct("!BBHHH")
_IP: Final = struct.Struct("!BBHHHBBH")
IP_HEADER: Final = 20
"""Bytes of an IPv4 header without options."""


def echo_request(identifier: int, number: int, *, size: int = 0) -> bytes:
    """An echo request of at least ``size`` bytes. The whole number travels as payload, since the
    sequence field has only 16 bits."""
    payload = struct.pack("!Q", number).ljust(size - _HEADER.size, b"\0")
    sequence = number & 0xFFFF
    blank = _HEADER.pack(_ECHO_REQUEST, 0, 0, identifier, sequence) + payload
    return _HEADER.pack(_ECHO_REQUEST, 0, checksum(blank), identifier, sequence) + payload


def packet(
    source: ipaddress.IPv4Address, destination: ipaddress.IPv4Address, message: bytes
) -> bytes:
    """The IPv4 packet (RFC 791) that carries an ICMP ``message``. It must not be fragmented."""
    fields = [0x45, 0, IP_HEADER + len(message), 0, 0x4000, 64, socket.IPPROTO_ICMP, 0]
    addresses = source.packed + destination.packed
    fields[-1] = checksum(_IP.pack(*fields) + addresses)
    return _IP.pack(*fields) + addresses + message


def echo_reply(packet: bytes, identifier: int) -> int | None:
    """The number of the request that an IPv4 packet answers; None if it is not ours."""
    if not packet:
        return None
    body = packet[(packet[0] & 0x0F) * 4 :]
    if len(body) < _HEADER.size + 8:
        return None
    kind, _, _, whose, _ = _HEADER.unpack_from(body)
    if kind != _ECHO_REPLY or whose != identifier:
        return None
    return int.from_bytes(body[_HEADER.size : _HEADER.size + 8])


def checksum(message: bytes) -> int:
    """RFC 1071."""
    padded = message + b"\0" * (len(message) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def open_socket() -> socket.socket:
    """A non-blocking socket of the caller's namespace that hears echo replies only. Raises
    ``PermissionError`` without CAP_NET_RAW."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    everything_but_replies = 0xFFFFFFFF & ~(1 << _ECHO_REPLY)
    opened.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", everything_but_replies))
    opened.setblocking(False)
    return opened


def open_through(netns: NetNS, link: str, source: IPAddress) -> socket.socket:
    """A socket inside ``netns`` that sends by ``link`` alone, from ``source``. It keeps the
    namespace alive: close it before the namespace is to go. Raises ``OSError``."""

    def opened() -> socket.socket:
        made = open_socket()
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
            made.bind((str(source), 0))
        except OSError:
            made.close()
            raise
        return made

    return netns.run(opened)
