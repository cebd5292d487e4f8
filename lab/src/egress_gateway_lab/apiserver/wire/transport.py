"""The Kubernetes API over HTTPS, as ``protocols.KubeTransport``."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import aiohttp

from egress_gateway_lab.apiserver.objects import Object
from egress_gateway_lab.protocols import Answer

EXEC_PROTOCOL = "v5.channel.k8s.io"
"""The one whose client can say that its input has ended."""


class KubeError(Exception):
    """The API refused; ``code`` and ``reason`` are the Status', the text its message."""

    def __init__(self, answer: Answer) -> None:
        body = answer.body if isinstance(answer.body, dict) else {}
        super().__init__(body.get("message") or f"HTTP {answer.status}: {answer.body!r}")
        self.code = answer.status
        self.reason: str = body.get("reason", "")
        self.status: Object = body


class HttpTransport:
    """``KubeTransport`` over HTTPS. An async context manager, or ``close()`` it.

    ``server`` is a URL such as ``https://127.0.0.1:6443``; ``tls`` trusts its CA (and may carry a
    client certificate); ``token`` is a bearer token or what returns the current one.
    """

    def __init__(
        self,
        server: str,
        tls: ssl.SSLContext | None,
        token: str | Callable[[], str] | None = None,
        *,
        agent: str = "lab-client",
    ) -> None:
        self.server = server.rstrip("/")
        self._tls: ssl.SSLContext | bool = tls if tls is not None else True
        self._token = token
        self._agent = agent
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> HttpTransport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, connect=10),
                connector=aiohttp.TCPConnector(ssl=self._tls, limit=0),
                headers={"User-Agent": self._agent},
            )
        return self._session

    def _headers(self) -> dict[str, str]:
        token = self._token() if callable(self._token) else self._token
        return {"Authorization": f"Bearer {token}"} if token else {}

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Answer:
        headers = self._headers() | {"Accept": "application/json"}
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = content_type
        async with self._open().request(
            method, self.server + path, params=query, data=content, headers=headers
        ) as response:
            raw = await response.read()
            if response.content_type == "application/json":
                return Answer(response.status, json.loads(raw))
            return Answer(response.status, raw.decode(errors="replace"))

    async def watch(
        self, path: str, *, query: Mapping[str, str] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        parameters = {**(query or {}), "watch": "true"}
        async with self._open().get(
            self.server + path, params=parameters, headers=self._headers()
        ) as response:
            if response.status != 200:
                raw = await response.read()
                raise KubeError(Answer(response.status, json.loads(raw)))
            buffer = b""
            with _hanging_up(response):
                async for chunk in response.content.iter_any():
                    buffer += chunk
                    *lines, buffer = buffer.split(b"\n")
                    for line in lines:
                        if line.strip():
                            yield json.loads(line)

    async def stream(self, path: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """A body piece by piece, for following logs."""
        async with self._open().get(
            self.server + path, params=query, headers=self._headers()
        ) as response:
            if response.status != 200:
                raw = await response.read()
                raise KubeError(Answer(response.status, json.loads(raw)))
            with _hanging_up(response):
                async for chunk in response.content.iter_any():
                    yield chunk

    async def connect(
        self, path: str, query: str, headers: Mapping[str, str] | None = None
    ) -> aiohttp.ClientWebSocketResponse:
        """A WebSocket of exec or attach; ``query`` is already encoded (``command`` repeats)."""
        try:
            return await self._open().ws_connect(
                f"{self.server}{path}?{query}",
                protocols=[EXEC_PROTOCOL, "v4.channel.k8s.io"],
                headers={**self._headers(), **(headers or {})},
                max_msg_size=0,
            )
        except aiohttp.WSServerHandshakeError as error:
            raise KubeError(Answer(error.status, {"message": error.message})) from error


@contextmanager
def _hanging_up(response: aiohttp.ClientResponse) -> Iterator[None]:
    """Ends a stream that its reader leaves, at once: a polite end of TLS would wait for the
    server's answer, in a loop that may not live so long."""
    try:
        yield
    finally:
        connection = response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
