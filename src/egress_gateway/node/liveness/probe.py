"""Probes gateways: one ICMP echo stream per node and gateway, whatever the number of pods.

The gateway's kernel answers, so its silence means that the machine or the path to it is gone, not
that a program on it restarts. The tunnels' packets take the same path.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable

from egress_gateway.datapath.linux import echo
from egress_gateway.node.liveness.health import GatewayHealth, Rules, State

log = logging.getLogger(__name__)

Changed = Callable[[str, State, State], None]
"""``(address, old, new)``; must not block. Both are "lost": it answers again, in its hold-down."""


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
        """``callback`` is called for each gateway whose state changes."""
        self._callbacks.append(callback)

    def watch(self, addresses: Iterable[str]) -> None:
        """Exactly these IPv4 addresses from now on; what is known of the others is forgotten."""
        wanted = set(addresses)
        for address in self._gateways.keys() - wanted:
            del self._gateways[address]
        for address in sorted(wanted - self._gateways.keys()):
            self._gateways[address] = GatewayHealth(self._rules)
            self._probe(address, asyncio.get_running_loop().time())

    def doubt(self, address: str) -> float:
        """As ``GatewayHealth`` has it, in the loop's time."""
        gateway = self._gateways.get(address)
        return gateway.doubt if gateway else 0.0

    def proven(self, address: str) -> None:
        """A pod's tunnel to this address has had a handshake."""
        if gateway := self._gateways.get(address):
            before = gateway.state
            gateway.proven(asyncio.get_running_loop().time())
            self._report(address, before, gateway.state)

    def gateways(self) -> dict[str, GatewayHealth]:
        """What is known of each address."""
        return dict(self._gateways)

    def states(self) -> dict[str, State]:
        """By address."""
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
            self._socket.sendto(echo.echo_request(self._identifier, number), (address, 0))
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
            number = echo.echo_reply(packet, self._identifier)
            if gateway is None or number is None:
                continue
            before, doubt = gateway.state, gateway.doubt
            gateway.answered(number, now)
            self._report(address, before, gateway.state, again=gateway.doubt < doubt)

    def _report(self, address: str, before: State, after: State, *, again: bool = False) -> None:
        if before == after and not again:
            return
        if before != after and (before != "unknown" or after == "lost"):
            level = logging.WARNING if after == "lost" else logging.INFO
            log.log(level, "gateway is %s", after, extra={"gateway": address})
        for callback in self._callbacks:
            callback(address, before, after)


def _open() -> socket.socket:
    try:
        return echo.open_socket()
    except PermissionError as error:
        raise PermissionError(
            "cannot probe gateways: opening an ICMP socket was refused; run with CAP_NET_RAW"
        ) from error
