"""The small HTTP server that every component runs: ``/healthz``, ``/readyz``, ``/metrics``.

``/healthz`` is about the process (a failing check asks for a restart), ``/readyz`` about its
work. Both name the failing check and its reason in the body, so that ``kubectl describe``
shows them in the probe's Event. Extra routes (the load balancer's ``/gw/<uid>``) are added
before ``start``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

Check = Callable[[], str | None]
"""None when all is well, else the reason in words."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HealthServer:
    """``port`` 0 picks a free one (see ``port`` after ``start``)."""

    def __init__(
        self,
        *,
        port: int,
        address: str = "0.0.0.0",  # noqa: S104  (kubelets and load balancers probe it)
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self.port = port
        self._address = address
        self._registry = registry
        self._live: dict[str, Check] = {}
        self._ready: dict[str, Check] = {}
        self._app = web.Application()
        self._app.router.add_get("/healthz", self._healthz)
        self._app.router.add_get("/readyz", self._readyz)
        self._app.router.add_get("/metrics", self._metrics)
        self._runner: web.AppRunner | None = None

    def add_check(self, name: str, check: Check, *, live: bool = False) -> None:
        """Adds to ``/readyz``, and to ``/healthz`` too with ``live``."""
        self._ready[name] = check
        if live:
            self._live[name] = check

    def add_route(self, path: str, handler: Handler) -> None:
        """A GET route; ``path`` in aiohttp's syntax."""
        self._app.router.add_get(path, handler)

    async def start(self) -> None:
        """Raises ``OSError`` when the port is taken."""
        self._runner = web.AppRunner(self._app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._address, self.port, reuse_address=True)
        await site.start()
        if not self.port:
            self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return _verdict(self._live)

    async def _readyz(self, _: web.Request) -> web.Response:
        return _verdict(self._ready)

    async def _metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def _verdict(checks: dict[str, Check]) -> web.Response:
    failed = {name: reason for name, check in checks.items() if (reason := check())}
    text = "".join(f"{name}: {reason}\n" for name, reason in failed.items()) or "ok\n"
    return web.Response(text=text, status=503 if failed else 200)
