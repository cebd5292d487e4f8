"""Networks beyond the virtual network: what-is-my-IP hosts, echo ports, and a packet observer.

Each site is a network namespace behind one link. The observer counts every packet that arrives
over that link, by source, destination and protocol, before anything else can touch it; so "never
a packet from a wrong address" is read off the wire and not off the requests that succeeded.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from typing import Any, cast

from aiohttp import web

from egress_gateway_lab.fabric.linux.namespace import Namespace
from egress_gateway_lab.fabric.linux.nftables import Nftables
from egress_gateway_lab.fabric.settings import SiteSettings

log = logging.getLogger(__name__)

HTTP_PORT = 80
ECHO_PORT = 7
STUN_PORTS = (3478, 19302)
_STUN_COOKIE = bytes.fromhex("2112a442")

_OBSERVER = """
table ip observer {
  set seen {
    type ipv4_addr . ipv4_addr . inet_proto
    size 65536
    flags dynamic
    counter
  }
  chain arrivals {
    type filter hook prerouting priority raw;
    iifname "eth0" update @seen { ip saddr . ip daddr . ip protocol }
  }
}
table ip6 observer {
  set seen {
    type ipv6_addr
    size 65536
    flags dynamic
    counter
  }
  chain arrivals {
    type filter hook prerouting priority raw;
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept
    iifname "eth0" update @seen { ip6 saddr }
  }
}
"""

IPAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Request:
    """A request that a what-is-my-IP host answered. ``time`` is ``time.monotonic()``."""

    time: float
    source: IPAddress
    port: int
    destination: IPAddress
    host: str
    path: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class Seen:
    """Packets that arrived over the site's link."""

    source: IPv4Address
    destination: IPv4Address
    protocol: str
    packets: int


class Site:
    """One network with its hosts. ``requests`` are the newest, oldest first."""

    def __init__(self, settings: SiteSettings, *, log_requests: int) -> None:
        self.settings = settings
        self.requests: deque[Request] = deque(maxlen=log_requests)
        self._by_source: Counter[IPAddress] = Counter()
        self._namespace: Namespace | None = None
        self._observer: Nftables | None = None
        self._runner: web.AppRunner | None = None
        self._echoes: list[asyncio.Server] = []
        self._datagrams: list[asyncio.DatagramTransport] = []

    @property
    def namespace(self) -> Namespace:
        if self._namespace is None:
            raise RuntimeError("this site is not started")
        return self._namespace

    def count_by_source(self) -> dict[IPAddress, int]:
        """Requests answered so far, by source address."""
        return dict(self._by_source)

    def packets(self, destination: IPv4Address | None = None) -> list[Seen]:
        """Every packet that arrived so far, counted; to one host or to all. Blocks for a
        millisecond."""
        if self._observer is None:
            return []
        listed = self._observer.query("list set ip observer seen")
        seen = [_seen(item) for item in listed[0]["set"].get("elem", [])]
        return [one for one in seen if destination is None or one.destination == destination]

    def packets6(self) -> dict[IPv6Address, int]:
        """IPv6 packets that arrived so far, by source. Blocks for a millisecond."""
        if self._observer is None:
            return {}
        listed = self._observer.query("list set ip6 observer seen")
        elements = [item["elem"] for item in listed[0]["set"].get("elem", [])]
        return {IPv6Address(e["val"]): int(e["counter"]["packets"]) for e in elements}

    def unexpected(self, destination: IPv4Address, expected: Collection[IPv4Network]) -> list[Seen]:
        """Packets to ``destination`` from any source outside ``expected``."""
        return [
            one
            for one in self.packets(destination)
            if not any(one.source in network for network in expected)
        ]

    def prepare(self) -> Namespace:
        """Makes the namespace and starts to observe it. Blocks."""
        self._namespace = Namespace.create()
        self._observer = self._namespace.run(Nftables)
        self._observer.run(_OBSERVER)
        return self._namespace

    async def serve(self) -> None:
        """Opens the hosts' ports; their addresses must be there."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None)
        await self._runner.setup()
        addresses: list[IPAddress] = [host.address for host in self.settings.hosts]
        if self.settings.near6 is not None:
            addresses += [host.address6 for host in self.settings.hosts if host.address6]
        for streams, echo, datagrams in self.namespace.run(lambda: _open(addresses)):
            await web.SockSite(self._runner, streams).start()
            self._echoes.append(await asyncio.start_server(_echo, sock=echo))
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                _DatagramEcho, sock=datagrams
            )
            self._datagrams.append(transport)
        for stun in self.namespace.run(lambda: _open_stun(addresses)):
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                _StunServer, sock=stun
            )
            self._datagrams.append(transport)

    async def close(self) -> None:
        for transport in self._datagrams:
            transport.close()
        for server in self._echoes:
            server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._observer is not None:
            self._observer.close()
        if self._namespace is not None:
            self._namespace.close()

    async def _answer(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        source, port = request.transport.get_extra_info("peername")[:2]
        self._note(
            Request(
                time=time.monotonic(),
                source=ip_address(source),
                port=port,
                destination=ip_address(request.transport.get_extra_info("sockname")[0]),
                host=request.headers.get("Host", ""),
                path=request.path_qs,
                user_agent=request.headers.get("User-Agent", ""),
            )
        )
        return web.Response(text=f"{source}\n")

    def _note(self, request: Request) -> None:
        self.requests.append(request)
        self._by_source[request.source] += 1


def _seen(element: dict[str, Any]) -> Seen:
    inner = element["elem"]
    source, destination, protocol = inner["val"]["concat"]
    packets = int(inner["counter"]["packets"])
    return Seen(IPv4Address(source), IPv4Address(destination), str(protocol), packets)


def _open(
    addresses: Iterable[IPAddress],
) -> list[tuple[socket.socket, socket.socket, socket.socket]]:
    return [
        (
            _listen(address, HTTP_PORT, socket.SOCK_STREAM),
            _listen(address, ECHO_PORT, socket.SOCK_STREAM),
            _listen(address, ECHO_PORT, socket.SOCK_DGRAM),
        )
        for address in addresses
    ]


def _open_stun(addresses: Iterable[IPAddress]) -> list[socket.socket]:
    return [_listen(a, port, socket.SOCK_DGRAM) for a in addresses for port in STUN_PORTS]


def _listen(address: IPAddress, port: int, kind: socket.SocketKind) -> socket.socket:
    opened = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, kind)
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind((str(address), port))
    if kind == socket.SOCK_STREAM:
        opened.listen(1024)
    return opened


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass  # The peer has gone.
    finally:
        writer.close()


class _DatagramEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's own transport does not derive from the class that describes it.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(data, addr)


class _StunServer(_DatagramEcho):
    """Answers Binding requests (RFC 8489) with the address that they came from."""

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if len(data) < 20 or data[:2] != b"\0\1" or data[4:8] != _STUN_COOKIE:
            return
        source = ip_address(addr[0])
        key = _STUN_COOKIE + data[8:20]
        hidden = bytes(a ^ b for a, b in zip(source.packed, key, strict=False))
        port = addr[1] ^ int.from_bytes(_STUN_COOKIE[:2], "big")
        value = struct.pack("!BBH", 0, 1 if source.version == 4 else 2, port) + hidden
        attribute = struct.pack("!HH", 0x20, len(value)) + value
        head = struct.pack("!HH", 0x101, len(attribute)) + data[4:20]
        self._transport.sendto(head + attribute, addr)
