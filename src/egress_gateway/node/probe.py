"""Probes gateways: one ICMP echo stream per node and gateway, whatever the number of pods.

The gateway's kernel answers, so its silence means that the machine or the way to it is gone, not
that a program on it restarts. It is the same way that the tunnels' packets take.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Final

from egress_gateway.node import metrics
from egress_gateway.node.health import GatewayHealth, Rules, State

log = logging.getLogger(__name__)

_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_SOL_RAW: Final = 255
_ICMP_FILTER: Final = 1  # linux/icmp.h; a set bit keeps that type away from the socket
_HEADER: Final = struct.Struct("!BBHHH")

Changed = Callable[[str, State, State], None]
"""``(address, old, new)``; must not block."""


class Prober:
    """``watch`` says which addresses matter; ``state`` answers at once from what is known."""

    def __init__(self, rules: Rules, *, interval: float) -> None:
        self._rules = rules
        self._interval = interval
        self._callbacks: list[Changed] = []
        self._gateways: dict[str, GatewayHealth] = {}
        self._identifier = os.getpid() & 0xFFFF
        self._socket: socket.socket | None = None

    def on_change(self, callback: Changed) -> None:
        self._callbacks.append(callback)

    def watch(self, addresses: Iterable[str]) -> None:
        """Exactly these IPv4 addresses from now on; what is known of the others is forgotten."""
        wanted = set(addresses)
        for address in self._gateways.keys() - wanted:
            del self._gateways[address]
            with contextlib.suppress(KeyError):
                metrics.GATEWAY_USABLE.remove(address)
        for address in sorted(wanted - self._gateways.keys()):
            self._gateways[address] = GatewayHealth(self._rules)
            self._probe(address, asyncio.get_running_loop().time())

    def usable(self, address: str) -> bool:
        """Not known to be lost."""
        gateway = self._gateways.get(address)
        return gateway is None or gateway.usable

    def states(self) -> dict[str, State]:
        return {address: gateway.state for address, gateway in self._gateways.items()}

    async def run(self) -> None:
        """Probes until cancelled. Raises ``PermissionError`` without CAP_NET_RAW."""
        loop = asyncio.get_running_loop()
        self._socket = _open()
        loop.add_reader(self._socket, self._receive)
        try:
            while True:
                # NB: answers that waited while this process did not run count first.
                self._receive()
                for address in list(self._gateways):
                    self._probe(address, loop.time())
                await asyncio.sleep(self._interval)
        finally:
            loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _probe(self, address: str, now: float) -> None:
        if self._socket is None:
            return
        gateway = self._gateways[address]
        before = gateway.state
        number = gateway.sent(now)
        # A link that is down refuses to send; to the pods that is the same silence.
        with contextlib.suppress(OSError):
            self._socket.sendto(echo_request(self._identifier, number), (address, 0))
        self._report(address, before, gateway.state)

    def _receive(self) -> None:
        assert self._socket is not None
        now = asyncio.get_running_loop().time()
        while True:
            try:
                packet, (address, _) = self._socket.recvfrom(2048)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("probe answer lost", extra={"error": str(error)})
                return
            gateway = self._gateways.get(address)
            number = echo_reply(packet, self._identifier)
            if gateway is None or number is None:
                continue
            before = gateway.state
            gateway.answered(number, now)
            self._report(address, before, gateway.state)

    def _report(self, address: str, before: State, after: State) -> None:
        if before == after:
            return
        metrics.GATEWAY_USABLE.labels(address).set(after != "lost")
        if before != "unknown" or after == "lost":
            log.warning("gateway is %s", after, extra={"gateway": address})
        for callback in self._callbacks:
            callback(address, before, after)


def echo_request(identifier: int, number: int) -> bytes:
    """An ICMP echo request (RFC 792). The whole number travels as payload, since the sequence
    field has only 16 bits."""
    payload = struct.pack("!Q", number)
    sequence = number & 0xFFFF
    blank = _HEADER.pack(_ECHO_REQUEST, 0, 0, identifier, sequence) + payload
    return _HEADER.pack(_ECHO_REQUEST, 0, checksum(blank), identifier, sequence) + payload


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


def _open() -> socket.socket:
    try:
        opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    except PermissionError as error:
        raise PermissionError(
            "cannot probe gateways: opening an ICMP socket was refused; run with CAP_NET_RAW"
        ) from error
    everything_but_replies = 0xFFFFFFFF & ~(1 << _ECHO_REPLY)
    opened.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", everything_but_replies))
    opened.setblocking(False)
    return opened
