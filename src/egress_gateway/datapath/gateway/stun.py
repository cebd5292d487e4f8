"""STUN's Binding request (RFC 8489): one datagram asks, one answers with the address that it saw.

So any public STUN server can say what the Internet sees of a gateway, and needs to know nothing of
us. Only what that takes is here: no credentials, no TCP, no fingerprints.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final, NamedTuple

from egress_gateway.datapath.addresses import IPAddress

PORT: Final = 3478
_COOKIE: Final = 0x2112A442
_REQUEST, _SUCCESS = 0x0001, 0x0101
_MAPPED, _XOR_MAPPED = 0x0001, 0x0020
_PADDING: Final = 0xC0F0
"""Of the range that a server ignores if it does not know it (RFC 8489, section 14)."""
_HEADER: Final = struct.Struct("!HHI12s")
_ATTRIBUTE: Final = struct.Struct("!HH")


class Seen(NamedTuple):
    """What a server answered: to which request, and from which address that came."""

    transaction: bytes
    address: IPAddress


def request(transaction: bytes, *, size: int = 0) -> bytes:
    """A Binding request with twelve bytes of ``transaction``, padded to ``size`` bytes."""
    room = (size - _HEADER.size - _ATTRIBUTE.size) // 4 * 4
    padding = _ATTRIBUTE.pack(_PADDING, room) + bytes(room) if room > 0 else b""
    return _HEADER.pack(_REQUEST, len(padding), _COOKIE, transaction) + padding


def seen(datagram: bytes) -> Seen | None:
    """What a Binding success response says; None of anything else."""
    if len(datagram) < _HEADER.size:
        return None
    kind, length, cookie, transaction = _HEADER.unpack_from(datagram)
    body = datagram[_HEADER.size : _HEADER.size + length]
    if (kind, cookie) != (_SUCCESS, _COOKIE) or len(body) < length:
        return None
    plain = None
    while len(body) >= _ATTRIBUTE.size:
        name, length = _ATTRIBUTE.unpack_from(body)
        value = body[_ATTRIBUTE.size : _ATTRIBUTE.size + length]
        if name == _XOR_MAPPED and (found := _address(value, transaction, hidden=True)):
            return Seen(transaction, found)
        if name == _MAPPED:
            plain = _address(value, transaction, hidden=False)
        body = body[_ATTRIBUTE.size + (length + 3) // 4 * 4 :]
    return Seen(transaction, plain) if plain else None


def response(datagram: bytes, address: IPAddress, port: int) -> bytes | None:
    """What a server answers to a Binding request that came from there; None to anything else."""
    if len(datagram) < _HEADER.size:
        return None
    kind, length, cookie, transaction = _HEADER.unpack_from(datagram)
    if (kind, cookie) != (_REQUEST, _COOKIE) or length != len(datagram) - _HEADER.size:
        return None
    key = struct.pack("!I12s", _COOKIE, transaction)
    hidden = bytes(a ^ b for a, b in zip(address.packed, key, strict=False))
    family = 1 if address.version == 4 else 2
    value = struct.pack("!BBH", 0, family, port ^ (_COOKIE >> 16)) + hidden
    attribute = _ATTRIBUTE.pack(_XOR_MAPPED, len(value)) + value
    return _HEADER.pack(_SUCCESS, len(attribute), _COOKIE, transaction) + attribute


def _address(value: bytes, transaction: bytes, *, hidden: bool) -> IPAddress | None:
    if len(value) not in (8, 20) or value[1] != (1 if len(value) == 8 else 2):
        return None
    packed = value[4:]
    if hidden:
        key = struct.pack("!I12s", _COOKIE, transaction)
        packed = bytes(a ^ b for a, b in zip(packed, key, strict=False))
    return ipaddress.ip_address(packed)
