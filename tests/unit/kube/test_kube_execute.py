"""A command in a container: what the API server must be told, and what it may answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from egress_gateway.kube import errors
from egress_gateway.kube.client import Client
from egress_gateway.kube.config import ClusterAccess

SUCCESS = b'\x03{"status": "Success"}'


@asynccontextmanager
async def server(good: str, *, said: tuple[bytes, ...] = (SUCCESS,)) -> AsyncIterator[str]:
    """Lets the token ``good`` in, as kube-apiserver does who accepts any media type."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {good}":
            return web.Response(status=401)
        if request.headers.get("Accept") != "*/*":
            return web.Response(status=406)
        stream = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
        await stream.prepare(request)
        for one in said:
            await stream.send_bytes(one)
        if not said:
            await asyncio.sleep(30)
        await stream.close()
        return stream

    app = web.Application()
    app.router.add_get("/api/v1/namespaces/ns/pods/p/exec", answer)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def client(where: str, known: str, fresh: str) -> Client:
    access = ClusterAccess(server=where, token=lambda anew: fresh if anew else known)
    return Client(access, "test")


async def test_output_error_and_exit_code() -> None:
    said = (b"\x01some ", b"\x02oops", b"\x01text", SUCCESS)
    async with server("t", said=said) as where, client(where, "t", "t") as calling:
        assert await calling.execute("ns", "p", "c", ["true"]) == (0, b"some text", b"oops")


async def test_a_token_that_has_ended_is_asked_for_anew_once() -> None:
    async with server("new") as where:
        async with client(where, "old", "new") as calling:
            assert (await calling.execute("ns", "p", "c", ["true"]))[0] == 0
        async with client(where, "old", "older") as calling:
            with pytest.raises(errors.Unauthorized):
                await calling.execute("ns", "p", "c", ["true"])


async def test_a_command_that_says_nothing_ends_in_time() -> None:
    async with server("t", said=()) as where, client(where, "t", "t") as calling:
        with pytest.raises(errors.Unavailable):
            await calling.execute("ns", "p", "c", ["true"], timeout=0.2)


async def test_nobody_listens() -> None:
    async with server("t") as where:
        pass
    async with client(where, "t", "t") as calling:
        with pytest.raises(errors.Unavailable):
            await calling.execute("ns", "p", "c", ["true"])
