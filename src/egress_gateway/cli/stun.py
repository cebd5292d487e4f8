"""``egress-gateway stun``: your own server for ``verify_targets``.

It answers Binding requests (RFC 8489) with the address that they came from, and nothing else: no
state, no log of who asked, 32 bytes for at least 20 (44 by IPv6), so that nobody can use it to
flood others. Run it on a machine outside the cluster's network: it reports the address that it
sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
from typing import Any

import click

from egress_gateway.datapath.gateway import stun as protocol


class StunResponder(asyncio.DatagramProtocol):
    """Answers by the transport that it is given."""

    def __init__(self) -> None:
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio with the socket that answers leave by."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Answers a Binding request (RFC 5389) with the address that it came from; IPv4 seen
        through an IPv6 socket is answered as IPv4. Anything else gets no answer."""
        source = ipaddress.ip_address(str(addr[0]).partition("%")[0])
        mapped = getattr(source, "ipv4_mapped", None)
        if (answer := protocol.response(data, mapped or source, addr[1])) is not None:
            self._transport.sendto(answer, addr)


@click.command()
@click.option("--address", default="::", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=protocol.PORT, show_default=True, help="UDP."
)
def stun(address: str, port: int) -> None:
    """Run a STUN server, for gateways' verify_targets."""
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_serve(address, port))


async def _serve(address: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.create_datagram_endpoint(
            StunResponder, local_addr=(address, port)
        )
    except OSError as error:
        raise click.ClickException(f"cannot listen on UDP {address} {port}: {error}") from error
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        await stopped.wait()
    finally:
        transport.close()
