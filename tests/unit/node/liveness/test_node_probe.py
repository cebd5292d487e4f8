"""ICMP echo, byte by byte."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.datapath.linux.echo import checksum, echo_reply, echo_request

IP_HEADER = bytes([0x45]) + bytes(19)


def reply_to(request: bytes) -> bytes:
    """What a kernel answers: the request with type 0."""
    return IP_HEADER + b"\0" + request[1:]


@given(st.integers(0, 0xFFFF), st.integers(1, 2**40))
def test_reply_carries_the_number(identifier: int, number: int) -> None:
    request = echo_request(identifier, number)
    assert checksum(request) == 0
    assert echo_reply(reply_to(request), identifier) == number


def test_other_packets_are_not_ours() -> None:
    request = echo_request(7, 1)
    assert echo_reply(IP_HEADER + request, 7) is None  # a request
    assert echo_reply(reply_to(request), 8) is None  # another program's
    assert echo_reply(reply_to(request)[:30], 7) is None
    assert echo_reply(b"", 7) is None


@given(st.binary(max_size=60))
def test_garbage_is_survived(packet: bytes) -> None:
    found = echo_reply(packet, 7)
    assert found is None or len(packet) >= 16  # ICMP's header (RFC 792) and our number


def test_ip_options_are_skipped() -> None:
    packet = bytes([0x46]) + bytes(23) + b"\0" + echo_request(7, 9)[1:]
    assert echo_reply(packet, 7) == 9


def test_known_checksum() -> None:
    """RFC 1071's own example."""
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == socket.htons(
        struct.unpack("=H", struct.pack("!H", 0x220D))[0]
    )
