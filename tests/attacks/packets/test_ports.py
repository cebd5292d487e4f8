"""Anybody who reaches a node's ports: half requests, huge ones, slow ones, many of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import TypeVar

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from egress_gateway.service import metrics
from egress_gateway.service.errors import OperatorError
from egress_gateway.service.health import HealthServer
from egress_gateway.service.metrics import MetricsServer
from egress_gateway.service.selfsigned import load_pem
from egress_gateway.service.server import REFUSED, BoundedServer, Limits
from egress_gateway.service.strangers import MANY, PortsFloodWatch
from egress_gateway.webhook import certificates


def counted(reason: str) -> float:
    """Refusals of all ports for ``reason`` so far."""
    (family,) = REFUSED.collect()
    return sum(
        s.value
        for s in family.samples
        if s.name.endswith("_total") and s.labels["reason"] == reason
    )


S = TypeVar("S", bound=BoundedServer)
T = TypeVar("T")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def started(server: S) -> AsyncIterator[S]:
    await server.start()
    try:
        yield server
    finally:
        await server.close()


def probed(limits: Limits) -> contextlib.AbstractAsyncContextManager[HealthServer]:
    return started(HealthServer(port=0, limits=limits))


async def ready(server: HealthServer) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{server.port}/readyz") as answer,
    ):
        return answer.status


async def in_time(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer to the first who was quick enough: a server that cuts whoever takes half a second
    cuts honest ones too, on a machine that does other things for so long."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                return await ask()


async def opened(server: HealthServer, sent: bytes = b"") -> Streams:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    await writer.drain()
    return reader, writer


async def is_cut(streams: Streams) -> bool:
    """Returns when the other end has gone; whether it went without an answer."""
    reader, writer = streams
    try:
        async with asyncio.timeout(180):
            return await reader.read() == b""
    except ConnectionError:
        return True
    finally:
        writer.close()


async def test_places_held_open_do_not_keep_a_probe_out() -> None:
    before = counted("too_many")
    async with probed(Limits(connections=8, seconds=600)) as server:
        held = [await opened(server, b"GET /readyz HTTP/1.1\r\n") for _ in range(64)]
        assert await ready(server) == 200
        more = [await opened(server, b"GET /readyz HTTP/1.1\r\n") for _ in range(8)]
        assert await ready(server) == 200
        assert await is_cut(held[0]), "the one that waited longest went"
        assert counted("too_many") >= before + 64
        for _, writer in (*held, *more):
            writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET",
        b"GET /readyz HTTP/1.1\r\nHost: x\r\n",
        b"POST /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
        b"POST /readyz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",
    ],
)
async def test_half_a_request_is_cut_in_time(sent: bytes) -> None:
    async with probed(Limits(seconds=0.5)) as server:
        before = counted("too_slow")
        streams = await opened(server, sent)
        if await is_cut(streams):
            assert counted("too_slow") > before
        assert await in_time(lambda: ready(server)) == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /readyz HTTP/1.1\r\nX: " + b"a" * 60_000,
        b"GET /" + b"a" * 60_000,
        b"\x16\x03\x01" + bytes(60_000),
        b"GET /readyz HTTP/1.1\r\n" + b"A: b\r\n" * 10_000,
        b"POST /readyz HTTP/1.1\r\nContent-Length: 900000\r\n\r\n" + b"x" * 60_000,
    ],
)
async def test_a_large_request_is_cut_at_once(sent: bytes) -> None:
    before = counted("too_large") + counted("malformed")
    async with probed(Limits(seconds=600)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        async with asyncio.timeout(180):
            try:
                answer = await reader.read()
            except ConnectionError:
                answer = b""
        assert b"200 OK" not in answer
        assert counted("too_large") + counted("malformed") > before
        writer.close()
        assert await ready(server) == 200


async def test_a_connection_carries_one_request() -> None:
    async with probed(Limits(seconds=600)) as server:
        request = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"
        reader, writer = await opened(server, request)
        async with asyncio.timeout(180):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer.lower()
        writer.close()


async def test_a_port_that_is_taken_is_one_line() -> None:
    async with probed(Limits()) as server:
        second = HealthServer(port=server.port)
        with pytest.raises(OperatorError, match=f"port {server.port}") as caught:
            await second.start()
        assert len(str(caught.value).splitlines()) == 1


async def test_a_handler_that_hangs_is_cut() -> None:
    server = BoundedServer("probes", port=0, address="127.0.0.1", limits=Limits(seconds=0.5))

    ended = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    server.add_route("/gw/{uid}", hang)
    await server.start()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://127.0.0.1:{server.port}/gw/x")
    async with asyncio.timeout(180):
        await ended.wait()
    await server.close()


async def status(url: str, token: str = "") -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session:
        async with session.get(url, headers=headers) as answer:
            return answer.status


class Dear(Collector):
    """Metrics that take a while to write."""

    def __init__(self) -> None:
        self.times = 0

    def collect(self) -> Iterator[Metric]:
        self.times += 1
        began = time.monotonic()
        while time.monotonic() < began + 0.05:
            pass
        yield GaugeMetricFamily("dear", "Dear", value=1)


async def test_whole_requests_for_metrics_do_not_keep_the_process_busy() -> None:
    """Tunnels are watched in the same process: what it writes out for strangers, it is late by."""
    dear, registry = Dear(), CollectorRegistry()
    registry.register(dear)
    async with started(MetricsServer(port=0, address="127.0.0.1", registry=registry)) as server:
        url = f"http://127.0.0.1:{server.port}/metrics"
        for _ in range(5):
            answers = await asyncio.gather(*(status(url) for _ in range(8)))
            assert set(answers) == {200}
        assert 1 <= dear.times < 20, "most of the forty got the page that there was"


async def test_made_up_tokens_do_not_reach_the_api_server_in_a_flood(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    asked: list[str] = []

    async def review(token: str) -> bool | None:
        asked.append(token)
        return True if token == "collector" else None

    server = MetricsServer(port=0, address="127.0.0.1", registry=CollectorRegistry(), review=review)
    async with started(server):
        url = f"https://127.0.0.1:{server.port}/metrics"
        assert await status(url, "collector") == 200
        before = counted("no_token"), counted("too_often")
        answers = [await status(url, f"forged-{n}") for n in range(15)]
        assert (answers[0], answers[-1]) == (401, 429)
        assert counted("no_token") >= before[0] + 9
        assert counted("too_often") >= before[1] + 6
        assert len(asked) == 10, "ten at once, those that were good among them"
        monkeypatch.setattr(metrics, "time", SimpleNamespace(monotonic=lambda: 1060.0))
        await asyncio.gather(*(status(url, f"more-{n}") for n in range(15)))
        assert await status(url, "collector") == 200, "who was good once is asked about again"
        assert asked[-1] == "collector"


HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""The beginning of a ClientHello."""


async def page(_: web.Request) -> web.Response:
    return web.Response(text="page")


async def over_tls(port: int) -> str:
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"https://127.0.0.1:{port}/", ssl=trusting) as answer,
    ):
        return await answer.text()


def secured(limits: Limits) -> contextlib.AbstractAsyncContextManager[BoundedServer]:
    made = certificates.make(["localhost"], now=time.time(), validity=3600)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_pem(context, made.certificate, made.key)
    server = BoundedServer("webhook", port=0, address="127.0.0.1", limits=limits, tls=context)
    server.add_route("/", page)
    return started(server)


@pytest.mark.parametrize("sent", [b"", HELLO, b"GET / HTTP/1.1\r\n\r\n"])
async def test_whoever_never_shakes_hands_has_a_place_like_others(sent: bytes) -> None:
    """Else any number of them would be held for as long as a handshake may take."""
    before = counted("too_many") + counted("no_tls")
    async with secured(Limits(connections=8, seconds=600)) as server:
        held = []
        for _ in range(32):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(sent)
            held.append((reader, writer))
        assert await over_tls(server.port) == "page"
        for streams in held[:24]:
            await is_cut(streams)
        assert counted("too_many") + counted("no_tls") >= before + 24
        for _, writer in held:
            writer.close()


async def test_a_handshake_that_is_half_done_is_cut_in_time() -> None:
    async with secured(Limits(seconds=0.5)) as server:
        streams = await asyncio.open_connection("127.0.0.1", server.port)
        streams[1].write(HELLO)
        assert await is_cut(streams)
        assert await in_time(lambda: over_tls(server.port)) == "page"


async def test_a_request_that_trickles_is_cut_in_time() -> None:
    """However steadily it goes on."""
    async with probed(Limits(seconds=0.5)) as server:
        reader, writer = await opened(server, b"GET /readyz HTTP/1.1\r\nX: ")
        ended = asyncio.ensure_future(reader.read())
        while not ended.done():
            writer.write(b"a")
            await asyncio.wait([ended], timeout=0.02)
        with contextlib.suppress(ConnectionError):
            assert b"200" not in await ended
        writer.close()
        assert await in_time(lambda: ready(server)) == 200


LENGTHS = b"POST /readyz HTTP/1.1\r\nHost: x\r\n"
GARBAGE = {
    "not HTTP": b"\x00\xff\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100),
    "two lengths": LENGTHS + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a length below zero": LENGTHS + b"Content-Length: -5\r\n\r\n",
    "a length beyond all": LENGTHS + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "length and chunks": LENGTHS
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks": LENGTHS + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "a chunk beyond all": LENGTHS + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
    "gzip that is none": LENGTHS
    + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\n\x1f\x8bxxx",
    "brotli": LENGTHS + b"Content-Encoding: br\r\nContent-Length: 5\r\n\r\nhello",
    "zstandard": LENGTHS + b"Content-Encoding: zstd\r\nContent-Length: 5\r\n\r\nhello",
    "a header with a zero byte": b"GET /readyz HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
    "a path that is none": b"GET //%zz/..%2f\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "two types": LENGTHS + b"Content-Type: a/b\r\nContent-Type: c/d\r\nContent-Length: 0\r\n\r\n",
}


async def body_of(request: web.Request) -> web.Response:
    return web.Response(text=f"{len(await request.read())}")


@pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_is_a_refusal_of_the_senders_and_writes_nothing_into_the_log(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A traceback for each would fill a node's disk, and hide what counts."""
    before = counted("malformed")
    server = BoundedServer("probes", port=0, address="127.0.0.1", limits=Limits(seconds=600))
    server.add_route("/readyz", body_of, method="POST")
    async with started(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        async with asyncio.timeout(180):
            answer = await reader.read()
        writer.close()
    assert answer.startswith((b"HTTP/1.0 4", b"HTTP/1.1 4")), answer
    assert counted("malformed") == before + 1
    assert [r for r in caplog.records if r.levelno >= logging.INFO] == []


async def test_a_body_that_ends_early_writes_nothing_into_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = BoundedServer("probes", port=0, address="127.0.0.1", limits=Limits(seconds=600))
    server.add_route("/readyz", body_of, method="POST")
    async with started(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(LENGTHS + b"Content-Length: 100\r\n\r\nhalf")
        writer.write_eof()
        async with asyncio.timeout(180):
            assert b" 200 " not in await reader.read()
        writer.close()
    assert [r for r in caplog.records if r.levelno >= logging.INFO] == []


async def test_a_fault_of_our_own_is_still_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(_: web.Request) -> web.Response:
        raise ZeroDivisionError

    server = BoundedServer("probes", port=0, address="127.0.0.1")
    server.add_route("/", broken)
    async with started(server):
        assert await status(f"http://127.0.0.1:{server.port}/") == 500
    assert [r.exc_info[0] for r in caplog.records if r.exc_info] == [ZeroDivisionError]


async def test_what_is_no_request_is_counted_and_a_flood_of_it_is_told() -> None:
    told: list[str] = []
    watch = PortsFloodWatch(told.append)
    before = counted("malformed")
    async with probed(Limits(seconds=600)) as server:
        for _ in range(MANY):
            reader, writer = await opened(server, b"\x00\xff not HTTP\r\n\r\n")
            async with asyncio.timeout(180):
                assert (await reader.read()).startswith(b"HTTP/1.0 400")
            writer.close()
        assert await ready(server) == 200
    assert counted("malformed") == before + MANY
    watch.look()
    assert len(told) == 1
    assert f"{MANY} requests" in told[0]
    watch.look()
    assert len(told) == 1, "nothing came since"
