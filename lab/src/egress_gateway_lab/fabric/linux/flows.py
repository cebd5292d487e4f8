"""The kernel's connection tracking table, read and pruned over netlink.

Only what the fabric asks for is decoded: addresses, destination port and mark. A flow is deleted
by the tuple and id that the kernel gave for it, so a newer flow of the same tuple survives.
Formats: linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

_NETLINK_NETFILTER: Final = 12
_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_TUPLE_ORIG, _TUPLE_REPLY, _MARK, _ID = 1, 2, 8, 12
_NESTED: Final = 0x8000
_HEADER: Final = struct.Struct("=IHHII")
_FAMILY: Final = struct.Struct("=BBH")


@dataclass(frozen=True, slots=True)
class Flow:
    """A tracked connection. Without translation the reply is the mirror of the original."""

    protocol: int
    source: IPv4Address
    destination: IPv4Address
    destination_port: int
    reply_source: IPv4Address
    reply_destination: IPv4Address
    mark: int


def prune(stale: Callable[[Flow], bool]) -> int:
    """Deletes the flows that ``stale`` names, in the caller's network namespace; how many."""
    deleted = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as link:
        link.bind((0, 0))
        for flow, identity in list(_dump(link)):
            if stale(flow):
                deleted += _delete(link, identity)
    return deleted


def flows() -> list[Flow]:
    """All IPv4 flows of the caller's network namespace."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as link:
        link.bind((0, 0))
        return [flow for flow, _ in _dump(link)]


def _send(link: socket.socket, kind: int, flags: int, body: bytes) -> None:
    payload = _FAMILY.pack(socket.AF_INET, 0, 0) + body
    link.send(_HEADER.pack(_HEADER.size + len(payload), kind, flags | _REQUEST, 1, 0) + payload)


def _messages(link: socket.socket) -> Iterator[tuple[int, bytes]]:
    while True:
        block = link.recv(1 << 18)
        offset = 0
        while offset < len(block):
            length, kind, *_ = _HEADER.unpack_from(block, offset)
            yield kind, block[offset + _HEADER.size : offset + length]
            offset += (length + 3) & ~3


def _dump(link: socket.socket) -> Iterator[tuple[Flow, bytes]]:
    _send(link, _GET, _DUMP, b"")
    for kind, body in _messages(link):
        if kind == _DONE:
            return
        if kind == _ERROR:
            _raise(body)
            return
        attributes = _attributes(body[_FAMILY.size :])
        flow = _flow(attributes)
        if flow is not None:
            yield flow, _identity(attributes)


def _delete(link: socket.socket, identity: bytes) -> int:
    _send(link, _DELETE, _ACK, identity)
    kind, body = next(_messages(link))
    assert kind == _ERROR
    (code,) = struct.unpack_from("=i", body)
    if code in (0, -2):  # gone by itself counts as gone
        return int(code == 0)
    _raise(body)
    return 0


def _raise(body: bytes) -> None:
    (code,) = struct.unpack_from("=i", body)
    if code:
        raise OSError(-code, f"connection tracking: {os.strerror(-code)}")


def _attributes(body: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = body[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    padding = b"\0" * (-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), kind) + value + padding


def _identity(attributes: dict[int, bytes]) -> bytes:
    identity = _attribute(_TUPLE_ORIG | _NESTED, attributes[_TUPLE_ORIG])
    if _ID in attributes:
        identity += _attribute(_ID, attributes[_ID])
    return identity


def _flow(attributes: dict[int, bytes]) -> Flow | None:
    original, reply = _tuple(attributes.get(_TUPLE_ORIG)), _tuple(attributes.get(_TUPLE_REPLY))
    if original is None or reply is None:
        return None
    source, destination, protocol, port = original
    mark = int.from_bytes(attributes.get(_MARK, b""), "big")
    return Flow(protocol, source, destination, port, reply[0], reply[1], mark)


def _tuple(body: bytes | None) -> tuple[IPv4Address, IPv4Address, int, int] | None:
    """Source, destination, protocol, destination port."""
    if body is None:
        return None
    parts = _attributes(body)
    addresses, protocol = _attributes(parts.get(1, b"")), _attributes(parts.get(2, b""))
    if len(addresses.get(1, b"")) != 4 or len(addresses.get(2, b"")) != 4:
        return None
    port = int.from_bytes(protocol.get(3, b""), "big")
    return IPv4Address(addresses[1]), IPv4Address(addresses[2]), protocol[1][0], port
