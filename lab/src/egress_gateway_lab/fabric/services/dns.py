"""Azure's DNS server at 168.63.129.16, for the few names that the lab knows.

``respond`` is a function over bytes: A, AAAA and PTR records of zones, an empty answer for other
types of a name that exists, NXDOMAIN for the rest. RFC 1035; every answer is small enough for UDP.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Final, cast

_HEADER: Final = struct.Struct("!6H")
_A, _PTR, _AAAA, _ANY, _IN = 1, 12, 28, 255, 1
_RESPONSE, _AUTHORITATIVE, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x0400, 0x0100, 0x80
_FORMAT_ERROR, _NO_NAME, _NOT_IMPLEMENTED = 1, 3, 4
_TTL: Final = 5
_POINTER_TO_QUESTION: Final = 0xC00C


def respond(
    query: bytes, zone: Mapping[str, IPv4Address], zone6: Mapping[str, IPv6Address] = {}
) -> bytes | None:
    """The answer to one query; None for what is not a query at all."""
    if len(query) < _HEADER.size:
        return None
    identity, flags, questions, *_ = _HEADER.unpack_from(query)
    if flags & _RESPONSE:
        return None
    head = _RESPONSE | _AUTHORITATIVE | _RECURSION_AVAILABLE | (flags & _RECURSION_DESIRED)
    if flags & 0x7800:
        return _HEADER.pack(identity, head | _NOT_IMPLEMENTED, 0, 0, 0, 0)
    parsed = _question(query) if questions == 1 else None
    if parsed is None:
        return _HEADER.pack(identity, head | _FORMAT_ERROR, 0, 0, 0, 0)
    name, kind, end = parsed
    question = query[_HEADER.size : end]
    found, answers = _look_up(name, kind, zone, zone6)
    code = 0 if found else _NO_NAME
    return _HEADER.pack(identity, head | code, 1, len(answers), 0, 0) + question + b"".join(answers)


def _question(query: bytes) -> tuple[str, int, int] | None:
    """Name, type and end of the one question."""
    labels: list[str] = []
    offset = _HEADER.size
    while offset < len(query) and (length := query[offset]) != 0:
        if length > 63 or offset + 1 + length > len(query):
            return None
        labels.append(query[offset + 1 : offset + 1 + length].decode("latin-1").lower())
        offset += 1 + length
    if offset + 5 > len(query):
        return None
    kind, family = struct.unpack_from("!HH", query, offset + 1)
    return (".".join(labels), kind, offset + 5) if family in (_IN, _ANY) else None


def _look_up(
    name: str, kind: int, zone: Mapping[str, IPv4Address], zone6: Mapping[str, IPv6Address]
) -> tuple[bool, list[bytes]]:
    """Whether the name exists, and its records of the type asked for."""
    if name.endswith(".in-addr.arpa"):
        reverse = name.removesuffix(".in-addr.arpa").split(".")[::-1]
        for known, address in zone.items():
            if str(address).split(".") == reverse:
                return True, [_record(_PTR, _encode(known))] if kind in (_PTR, _ANY) else []
        return False, []
    found = zone.get(name)
    if found is None:
        return False, []
    answers = [_record(_A, found.packed)] if kind in (_A, _ANY) else []
    if kind in (_AAAA, _ANY) and name in zone6:
        answers.append(_record(_AAAA, zone6[name].packed))
    return True, answers


def _record(kind: int, value: bytes) -> bytes:
    return struct.pack("!HHHIH", _POINTER_TO_QUESTION, kind, _IN, _TTL, len(value)) + value


def _encode(name: str) -> bytes:
    labels = (label.encode("ascii") for label in name.split("."))
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


class DnsServer:
    """Serves a zone over UDP and TCP. The zone is read at each query, so it may change."""

    def __init__(
        self, zone: Mapping[str, IPv4Address], zone6: Mapping[str, IPv6Address] = {}
    ) -> None:
        self._zone, self._zone6 = zone, zone6
        self._datagrams: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def start(self, address: IPv4Address, port: int = 53) -> None:
        loop = asyncio.get_running_loop()
        self._datagrams, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self._zone, self._zone6), local_addr=(str(address), port)
        )
        self._server = await asyncio.start_server(self._serve, str(address), port)

    async def close(self) -> None:
        if self._datagrams is not None:
            self._datagrams.close()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(10):
                while True:
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    answer = respond(await reader.readexactly(length), self._zone, self._zone6)
                    if answer is None:
                        return
                    writer.write(struct.pack("!H", len(answer)) + answer)
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # The client's own affair.
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, zone: Mapping[str, IPv4Address], zone6: Mapping[str, IPv6Address]) -> None:
        self._zone, self._zone6 = zone, zone6
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's own transport does not derive from the class that describes it.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = respond(data, self._zone, self._zone6)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)
