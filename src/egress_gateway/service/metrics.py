"""Metrics on a port of their own, for readers who may have them.

Metrics contain names of configurations and pods. So an administrator can turn them off, or require
a token of each reader. The process then asks the API server, as is usual: TokenReview says whose
token it is, SubjectAccessReview whether that account may ``get`` the non-resource URL ``/metrics``.
Tokens need TLS. The certificate is made at start; it proves no identity, but hides the token.
"""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from aiohttp import web
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Metric,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from egress_gateway.service.bucket import Bucket
from egress_gateway.service.server import BoundedServer, Limits

disable_created_metrics()  # type: ignore[no-untyped-call]
# They double the series of a scrape, and Prometheus has its own way of seeing a restart.

K = TypeVar("K")
V = TypeVar("V")

Review = Callable[[str], Awaitable[bool | None]]
"""Whether the bearer of a token may read metrics; None: the token belongs to nobody. Raises
``ExpectedError`` when that cannot be found out."""

_LIMITS: Final = Limits(connections=16, size=16384, seconds=20.0)
"""A token has some 1,200 bytes; writing out 10,000 series takes a while."""
_REMEMBERED: Final = 60.0
"""Seconds for which a good answer counts: a scrape each 15 s asks once a minute."""
_TOKENS: Final = 64
"""That were good once: a reader who comes back is asked about whatever others do."""
_ASKED: Final = (1.0, 10.0)
"""Reviews a second, and at once, of tokens from one address that were never good. Each costs the
API server two requests."""
_ADDRESSES: Final = 256
_PART: Final = 0.1
"""Of one processor, the most that writing metrics takes: readers who ask more often get the page
that there is. A page of 10,000 series takes a tenth of a second, and everything else of the process
waits for it."""


class MetricsServer(BoundedServer):
    """``review`` None: everybody may read, over plain HTTP."""

    def __init__(
        self,
        *,
        port: int,
        address: str = "0.0.0.0",  # noqa: S104  (collectors come from anywhere)
        registry: CollectorRegistry = REGISTRY,
        review: Review | None = None,
    ) -> None:
        super().__init__(
            "metrics",
            port=port,
            address=address,
            limits=_LIMITS,
            tls=_tls() if review else None,
        )
        self._registry = registry
        self._review = review
        self._allowed: dict[bytes, float] = {}
        """Good tokens, and when that was found out."""
        self._asking: dict[str, Bucket] = {}
        self._page = b""
        self._fresh_until = float("-inf")
        self.add_route("/metrics", self._metrics)

    async def _metrics(self, request: web.Request) -> web.Response:
        if self._review is not None and (refused := await self._refusal(request, self._review)):
            return refused
        return web.Response(body=self._written(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _written(self) -> bytes:
        began = time.monotonic()
        if began >= self._fresh_until:
            self._page = generate_latest(self._registry)
            ended = time.monotonic()
            self._fresh_until = ended + (ended - began) / _PART
        return self._page

    async def _refusal(self, request: web.Request, review: Review) -> web.Response | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return web.Response(status=401, text="a bearer token is needed\n")
        known = hashlib.sha256(token.encode()).digest()
        now = time.monotonic()
        if known in self._allowed and now - self._allowed[known] < _REMEMBERED:
            return None
        if known not in self._allowed and not self._turn(request.remote or "").take_now(now):
            return web.Response(status=429, text="too many tokens from this address\n")
        allowed = await review(token)
        if not allowed:
            self._allowed.pop(known, None)
        if allowed is None:
            return web.Response(status=401, text="the token belongs to nobody\n")
        if not allowed:
            text = "not allowed to get the non-resource URL /metrics (RBAC: nonResourceURLs)\n"
            return web.Response(status=403, text=text)
        _make_room(self._allowed, known, _TOKENS)
        self._allowed[known] = now
        return None

    def _turn(self, address: str) -> Bucket:
        if address not in self._asking:
            _make_room(self._asking, address, _ADDRESSES)
            self._asking[address] = Bucket(*_ASKED)
        return self._asking[address]


def _make_room(kept: dict[K, V], key: K, most: int) -> None:
    """Takes ``key`` out, and the oldest one if there are ``most`` others."""
    kept.pop(key, None)
    if len(kept) >= most:
        del kept[next(iter(kept))]


class _All(Collector):
    def __init__(self, collectors: Sequence[Collector | CollectorRegistry]) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        for one in self._collectors:
            yield from one.collect()


def together(*collectors: Collector | CollectorRegistry) -> CollectorRegistry:
    """One registry that asks all of them at each scrape."""
    made = CollectorRegistry(auto_describe=False)
    made.register(_All(collectors))
    return made


@asynccontextmanager
async def serving(
    port: int, review: Review | None = None, snapshots: Sequence[Collector] = ()
) -> AsyncIterator[None]:
    """Metrics on ``port`` while inside; nowhere if it is 0. It adds ``snapshots`` to what the
    process counts."""
    if not port:
        yield
        return
    server = MetricsServer(port=port, review=review, registry=together(REGISTRY, *snapshots))
    async with server.serving():
        yield


def _tls() -> ssl.SSLContext:
    from egress_gateway.service.selfsigned import context  # X.509: 20 ms, for those who ask for it

    return context("egress-gateway-metrics")
