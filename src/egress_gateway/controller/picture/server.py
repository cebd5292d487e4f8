"""The live map's server: one page, its state as JSON, and the same state as it changes.

For who may forward a port to the controller's pod: it listens on loopback alone, changes nothing,
and reads what the controller's caches hold anyway. A browser is not its user's alone, so:

- only a Host of this machine is answered, so a foreign name that leads here (DNS rebinding) is not;
- other sites' pages are refused, and may not frame, embed or read it;
- the page runs its own script and styles, named by their hashes, and nothing else.

A state is made at most once a second, however many look.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from typing import Final

import msgspec
from aiohttp import web

from egress_gateway.controller.picture.state import State
from egress_gateway.service.server import BoundedServer, Limits

ADDRESS: Final = "127.0.0.1"
_LIMITS: Final = Limits(connections=16, size=16384, seconds=300.0)
"""A stream ends after five minutes, and its browser begins another. Who has looked longest goes
when a seventeenth comes."""
_HOSTS: Final = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_PAUSE: Final = 1.0
"""Seconds that a state lasts at least."""
_SILENCE: Final = 15.0
"""Seconds after which a stream says that it lives."""


@cache
def page() -> bytes:
    """The whole page."""
    return files(__package__).joinpath("page.html").read_bytes()


@cache
def policy() -> str:
    """The page's Content-Security-Policy: its own script and style by their hashes."""
    text = page().decode()

    def hashes(tag: str) -> str:
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digests = (hashlib.sha256(one.encode()).digest() for one in inside)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class PictureServer(BoundedServer):
    """``state`` answers what is so at this moment. ``port`` 0 picks a free one."""

    def __init__(self, *, port: int, state: Callable[[], State], limits: Limits = _LIMITS) -> None:
        super().__init__("map", port=port, address=ADDRESS, limits=limits)
        self._state = state
        self._made = float("-inf")
        self._json = b""
        self._streams: set[asyncio.Task[None]] = set()
        self.add_route("/", self._page)
        self.add_route("/state.json", self._once)
        self.add_route("/events", self._events)

    async def _page(self, request: web.Request) -> web.Response:
        if refused := _refusal(request):
            return refused
        return web.Response(body=page(), content_type="text/html", charset="utf-8", headers=_safe())

    async def _once(self, request: web.Request) -> web.Response:
        if refused := _refusal(request):
            return refused
        return web.Response(body=self._now(), content_type="application/json", headers=_safe())

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if refused := _refusal(request):
            return refused
        stream = web.StreamResponse(headers={**_safe(), "Content-Type": "text/event-stream"})
        await stream.prepare(request)
        telling = asyncio.create_task(self._tell(stream))
        self._streams.add(telling)
        try:
            await asyncio.wait([telling])
        finally:
            telling.cancel()
            self._streams.discard(telling)
        return stream

    async def close(self) -> None:
        """A process that ends waits for no stream, which would go on for minutes."""
        for telling in self._streams:
            telling.cancel()
        await super().close()

    async def _tell(self, stream: web.StreamResponse) -> None:
        """Each state that differs from the last one, for as long as somebody hears it."""
        last, spoken = b"", time.monotonic()
        while True:
            now = self._now()
            if now != last:
                await stream.write(b"data: " + now + b"\n\n")
                last, spoken = now, time.monotonic()
            elif time.monotonic() - spoken > _SILENCE:
                await stream.write(b": nothing new\n\n")
                spoken = time.monotonic()
            await asyncio.sleep(_PAUSE)

    def _now(self) -> bytes:
        if time.monotonic() - self._made >= _PAUSE:
            self._json = msgspec.json.encode(self._state())
            self._made = time.monotonic()
        return self._json


def _refusal(request: web.Request) -> web.Response | None:
    if not _HOSTS.fullmatch(request.headers.get("Host", "")):
        text = "this page is for this machine's own names: http://127.0.0.1 or http://localhost\n"
        return web.Response(status=421, text=text, headers=_safe())
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return web.Response(status=403, text="not for other sites' pages\n", headers=_safe())
    return None


def _safe() -> dict[str, str]:
    return {
        "Content-Security-Policy": policy(),
        "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


@asynccontextmanager
async def serving(port: int, state: Callable[[], State]) -> AsyncIterator[None]:
    """The map on ``port`` while inside; nowhere if it is 0."""
    if not port:
        yield
        return
    server = PictureServer(port=port, state=state)
    await server.start()
    try:
        yield
    finally:
        await server.close()
