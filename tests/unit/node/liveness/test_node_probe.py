"""ICMP echo, byte by byte, and what is told of a gateway that answers it or does not."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.datapath.linux import echo
from egress_gateway.datapath.linux.echo import checksum, echo_reply, echo_request
from egress_gateway.node.liveness.health import Rules, State
from egress_gateway.node.liveness.probe import Prober

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


class Wire:
    """A socket to a gateway that answers, or does not."""

    def __init__(self) -> None:
        self.answers = True
        self._near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._near.setblocking(False)
        self.fileno = self._near.fileno

    def sendto(self, request: bytes, address: object) -> None:
        if self.answers:
            self._far.send(reply_to(request))

    def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:
        return self._near.recv(size), ("10.0.0.4", 0)

    def close(self) -> None:
        self._near.close()
        self._far.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_lost_gateway_that_answers_again_is_told_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before its hold-down is over: pods that nobody serves need not wait for that."""
    wire, told = Wire(), list[tuple[State, State]]()
    monkeypatch.setattr(echo, "open_socket", lambda: wire)
    prober = Prober(Rules(misses=9, hold_down=600.0), interval=0.002)
    prober.on_change(lambda address, old, new: told.append((old, new)))
    prober.watch(["10.0.0.4"])
    probing = asyncio.create_task(prober.run())
    expected: list[tuple[State, State]] = [("unknown", "alive"), ("alive", "lost")]
    await until(lambda: told == expected[:1])
    for _ in range(2):
        wire.answers = False
        await until(lambda: prober.doubt("10.0.0.4") == math.inf)
        wire.answers = True
        expected.append(("lost", "lost"))
        await until(lambda: told == expected)
    prober.proven("10.0.0.4")
    assert told == [*expected, ("lost", "alive")]
    assert prober.doubt("10.0.0.4") == 0.0
    probing.cancel()
    await asyncio.gather(probing, return_exceptions=True)
