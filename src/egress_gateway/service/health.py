"""What a kubelet asks every component: ``/healthz`` and ``/readyz``.

``/healthz`` is about the process (a failing check asks for a restart), ``/readyz`` about its
work. Both name the failing check and its reason in the body, so that ``kubectl describe``
shows them in the probe's Event. They answer where the kubelet asks: on loopback for pods in their
node's network, on the pod's address for others. Metrics have a server of their own.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from egress_gateway.service.server import PROBES, BoundedServer, Limits

Check = Callable[[], str | None]
"""None when all is well, else the reason in words."""


class HealthServer(BoundedServer):
    """``port`` 0 picks a free one (see ``port`` after ``start``)."""

    def __init__(self, *, port: int, address: str = "127.0.0.1", limits: Limits = PROBES) -> None:
        super().__init__("probes", port=port, address=address, limits=limits)
        self._live: dict[str, Check] = {}
        self._ready: dict[str, Check] = {}
        self.add_route("/healthz", self._healthz)
        self.add_route("/readyz", self._readyz)

    def add_check(self, name: str, check: Check, *, live: bool = False) -> None:
        """Adds to ``/readyz``, and to ``/healthz`` too with ``live``."""
        self._ready[name] = check
        if live:
            self._live[name] = check

    async def _healthz(self, _: web.Request) -> web.Response:
        return _verdict(self._live)

    async def _readyz(self, _: web.Request) -> web.Response:
        return _verdict(self._ready)


def _verdict(checks: dict[str, Check]) -> web.Response:
    failed = {name: reason for name, check in checks.items() if (reason := check())}
    text = "".join(f"{name}: {reason}\n" for name, reason in failed.items()) or "ok\n"
    return web.Response(text=text, status=503 if failed else 200)
