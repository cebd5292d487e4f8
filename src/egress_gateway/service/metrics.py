"""Metrics on a port of their own, for those who may read them.

Names of configurations and pods are in them, so an administrator can turn them off or have each
reader show a token. Then the API server is asked, as the ecosystem does it: TokenReview says who it
is, SubjectAccessReview whether he may ``get`` the non-resource URL ``/metrics``. A token is sent
over TLS alone, with a certificate made at start, which proves nothing and hides the token.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Metric,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from egress_gateway.service.server import Limits, Server

disable_created_metrics()  # type: ignore[no-untyped-call]
# They double the series of a scrape, and Prometheus has its own way of seeing a restart.

Review = Callable[[str], Awaitable[bool | None]]
"""Whether the bearer of a token may read metrics; None: the token is nobody's. Raises
``ExpectedError`` when that cannot be found out."""

_LIMITS: Final = Limits(connections=16, size=16384, seconds=20.0)
"""A token has some 1,200 bytes; writing out 10,000 series takes a while."""
_REMEMBERED: Final = 60.0
"""Seconds for which a good answer counts: a scrape each 15 s asks once a minute."""
_TOKENS: Final = 64
_DAYS: Final = 3650


class MetricsServer(Server):
    """``review`` None: everybody may read, over plain HTTP."""

    def __init__(
        self,
        *,
        port: int,
        address: str = "0.0.0.0",  # noqa: S104  (collectors come from anywhere)
        registry: CollectorRegistry = REGISTRY,
        review: Review | None = None,
    ) -> None:
        tls = _context() if review else None
        super().__init__(port=port, address=address, limits=_LIMITS, tls=tls)
        self._registry = registry
        self._review = review
        self._allowed: dict[bytes, float] = {}
        self.add_route("/metrics", self._metrics)

    async def _metrics(self, request: web.Request) -> web.Response:
        if self._review is not None and (refused := await self._refusal(request, self._review)):
            return refused
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _refusal(self, request: web.Request, review: Review) -> web.Response | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return web.Response(status=401, text="a bearer token is needed\n")
        known = hashlib.sha256(token.encode()).digest()
        now = time.monotonic()
        if self._allowed.get(known, 0.0) > now:
            return None
        allowed = await review(token)
        if allowed is None:
            return web.Response(status=401, text="the token is nobody's\n")
        if not allowed:
            text = "not allowed to get the non-resource URL /metrics (RBAC: nonResourceURLs)\n"
            return web.Response(status=403, text=text)
        self._allowed = {k: t for k, t in self._allowed.items() if t > now}
        if len(self._allowed) < _TOKENS:
            self._allowed[known] = now + _REMEMBERED
        return None


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
    """Metrics on ``port`` while inside; nowhere if it is 0. ``snapshots`` are told beside what the
    process counts."""
    if not port:
        yield
        return
    server = MetricsServer(port=port, review=review, registry=together(REGISTRY, *snapshots))
    await server.start()
    try:
        yield
    finally:
        await server.close()


def _context() -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "egress-gateway-metrics")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_pem(
        context,
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    return context


def load_pem(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Gives ``context`` a certificate chain that never touches a disk."""
    # Python's ssl reads keys from files alone: one that is in memory and has no name.
    file = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as out:
            out.write(certificate + key)
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
