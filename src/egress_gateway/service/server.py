"""A small HTTP server that strangers may reach: bounded in connections, bytes and time.

aiohttp waits for a request as long as its sender likes and keeps what has come so far. Here a
connection carries one request, which is whole within ``seconds`` and ``size`` bytes, or it is cut.
When all places are taken the connection that has waited longest for its request goes: a stranger
who holds places open cannot keep the next probe out. Whatever is refused is counted, and leaves no
line in the log. A body has its length and its bytes in front: chunks and compression let a sender
make us work for a thousand times what he sends, and nobody who asks us needs them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import hdrs, web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import Counter

from egress_gateway.service.errors import OperatorError

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_PREFIX: Final = "egress_gateway"
_TOO_MANY, _TOO_LARGE, _TOO_SLOW, _NO_TLS = "too_many", "too_large", "too_slow", "no_tls"
_ANSWERED: Final = {
    400: "malformed",
    401: "no_token",
    403: "not_allowed",
    411: "malformed",
    415: "malformed",
    413: _TOO_LARGE,
    429: "too_often",
}
"""Reasons by status; a 404 or 503 to a probe is an answer, and no refusal."""
REFUSED: Final = Counter(
    f"{_PREFIX}_requests_refused_total",
    "Requests and connections that this process refused, by port (probes, balancer, metrics, "
    "webhook or map) and reason: too_many (all places taken; the one that waited longest was cut), "
    "too_large, too_slow, no_tls (the handshake failed), malformed, no_token, not_allowed, "
    "too_often (made-up tokens).",
    ["port", "reason"],
)
INSTRUMENTS: Final = (REFUSED,)


def refused() -> float:
    """How many so far, at all ports of this process."""
    (family,) = REFUSED.collect()
    return sum(s.value for s in family.samples if s.name.endswith("_total"))


def _our_own(record: logging.LogRecord) -> bool:
    """Whether a line of aiohttp's is about more than bytes that a stranger sent."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


_http = log.getChild("http")
_http.addFilter(_our_own)


class _Answers(AbstractAccessLogger):
    """Counts answers that are refusals, also those of aiohttp to what is no request. Its
    ``log_format`` is the port's name."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        if reason := _ANSWERED.get(response.status):
            REFUSED.labels(self.log_format, reason).inc()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of one server. ``seconds`` from the connection's first moment to its last."""

    connections: int = 64
    size: int = 4096
    """Bytes of a request, its headers included."""
    seconds: float = 5.0


PROBES: Final = Limits()
"""A probe is a GET of some 200 bytes."""


class BoundedServer:
    """``port`` 0 picks a free one (see ``port`` after ``start``); ``name`` is the port's in
    metrics."""

    def __init__(
        self,
        name: str,
        *,
        port: int,
        address: str,
        limits: Limits = PROBES,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.port = port
        self._name = name
        self._address = address
        self._limits = limits
        self._tls = tls
        self._app = web.Application(client_max_size=limits.size, middlewares=[_once])
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None
        self._open: dict[_Connection, None] = {}

    def add_route(self, path: str, handler: Handler, *, method: str = "GET") -> None:
        """``path`` in aiohttp's syntax."""
        self._app.router.add_route(method, path, handler)

    async def start(self) -> None:
        """Raises ``OperatorError`` when the port is taken."""
        runner = self._runner = web.AppRunner(
            self._app,
            auto_decompress=False,
            logger=_http,
            access_log_class=_Answers,
            access_log=log,
            access_log_format=self._name,
            keepalive_timeout=0,
            lingering_time=0,
            # A handler ends with its connection; else one that hangs would hold up ``close``.
            handler_cancellation=True,
        )
        await runner.setup()
        assert runner.server is not None
        make = runner.server
        loop = asyncio.get_running_loop()
        try:
            self._listening = await loop.create_server(
                # NB: asyncio's own ``ssl`` would show us connections only once they have shaken
                # hands: those that never do would be nobody's to count.
                lambda: _Connection(make(), self._limits, self._open, self._tls, self._name),
                self._address,
                self.port,
                reuse_address=True,
            )
        except OSError as error:
            await runner.cleanup()
            raise OperatorError(
                f"cannot listen on {self._address} port {self.port}: {error.strerror}; another "
                "program has it, or the address is not this machine's: choose another"
            ) from error
        if not self.port:
            self.port = self._listening.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuses new connections, and ends those that are open."""
        if self._listening is not None:
            self._listening.close()
        if self._runner is not None:
            await self._runner.cleanup()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answers while inside. Raises ``OperatorError`` when the port is taken."""
        await self.start()
        try:
            yield
        finally:
            await self.close()


@web.middleware
async def _once(request: web.Request, handler: Handler) -> web.StreamResponse:
    """No second request: the limits are a connection's."""
    try:
        if hdrs.TRANSFER_ENCODING in request.headers:
            raise web.HTTPLengthRequired
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            raise web.HTTPUnsupportedMediaType
        response = await handler(request)
    except web.HTTPException as error:
        error.force_close()
        raise
    except web.RequestPayloadError:
        response = web.Response(status=400)
    response.force_close()
    return response


class _Connection(asyncio.Protocol):
    """Passes everything on to aiohttp's protocol while the limits hold, by TLS if there is some."""

    def __init__(
        self,
        inner: asyncio.Protocol,
        limits: Limits,
        others: dict[_Connection, None],
        tls: ssl.SSLContext | None,
        port: str,
    ) -> None:
        self._port = port
        self._inner = inner
        self._limits = limits
        self._others = others
        self._tls = tls
        self._securing: asyncio.Task[None] | None = None
        self._begun = False
        """aiohttp's protocol has its transport."""
        self._early: list[bytes] = []
        """What came in the same packet as the end of the handshake."""
        self._bytes = 0
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if len(self._others) >= self._limits.connections:
            next(iter(self._others)).cut(_TOO_MANY)
        self._others[self] = None
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._limits.seconds, self.cut, _TOO_SLOW)
        if self._tls is None:
            self._begin(transport)
            return
        transport.pause_reading()
        self._securing = loop.create_task(self._secure(transport, self._tls))

    async def _secure(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        try:
            secured = await loop.start_tls(
                transport, self, tls, server_side=True, ssl_handshake_timeout=self._limits.seconds
            )
        except OSError:  # ssl.SSLError and the end of the connection among them
            self.cut(_NO_TLS)
            return
        if secured is None or transport.is_closing():
            self.cut(_NO_TLS)
            return
        self._begin(secured)

    def _begin(self, transport: asyncio.Transport) -> None:
        self._begun = True
        self._inner.connection_made(transport)
        while self._early:
            self._inner.data_received(self._early.pop(0))

    def data_received(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > self._limits.size:
            self.cut(_TOO_LARGE)
        elif self._begun:
            self._inner.data_received(data)
        else:
            self._early.append(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._begun else None

    def connection_lost(self, exc: Exception | None) -> None:
        self._others.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
        if self._begun:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def cut(self, reason: str) -> None:
        """Ends it at once, whatever was half done. What is cut already counts once."""
        if self not in self._others:
            return
        del self._others[self]
        REFUSED.labels(self._port, reason).inc()
        if self._transport is not None:
            self._transport.abort()
