"""The API server's port on the host's loopback: bytes both ways, and no cluster, no answer."""

from __future__ import annotations

import asyncio
import socket

from egress_gateway_lab.realcluster.relay import Relay


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(1000):
        writer.write(chunk)
    writer.close()


async def test_bytes_go_both_ways_until_either_side_ends() -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    listening = socket.create_server(("127.0.0.1", 0))
    relay = Relay(listening)
    await relay.start()
    relay.target = server.sockets[0].getsockname()[:2]
    reader, writer = await asyncio.open_connection(*listening.getsockname()[:2])
    for size in (1, 100_000):
        writer.write(b"x" * size)
        assert await reader.readexactly(size) == b"x" * size
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await relay.stop()
    server.close()


async def test_without_a_cluster_connections_are_closed_at_once() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    relay = Relay(listening)
    await relay.start()
    reader, writer = await asyncio.open_connection(*listening.getsockname()[:2])
    assert await reader.read() == b""
    writer.close()
    await relay.stop()


async def test_deleting_the_cluster_ends_what_is_connected() -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    listening = socket.create_server(("127.0.0.1", 0))
    relay = Relay(listening)
    await relay.start()
    relay.target = server.sockets[0].getsockname()[:2]
    reader, writer = await asyncio.open_connection(*listening.getsockname()[:2])
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    relay.drop()
    assert await reader.read() == b""
    writer.close()
    await relay.stop()
    server.close()
