"""Answers AdmissionReviews over TLS. What we cannot judge is an error, and so a refusal to the
pod's creator: the API server sends us only pods that must not start unjudged.
"""

from __future__ import annotations

import json
import logging
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from prometheus_client import Counter, Gauge

from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import ApiError, NotFound
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import NAMESPACES, Namespace
from egress_gateway.webhook.certificates import Generation
from egress_gateway.webhook.keeper import annotation
from egress_gateway.webhook.registration import PATH
from egress_gateway.webhook.review import ReviewError, asks_default, review

log = logging.getLogger(__name__)

REVIEWS: Final = Counter(
    "egress_gateway_webhook_reviews_total", "Pods that were judged, by outcome.", ["outcome"]
)
ENDS: Final = Gauge(
    "egress_gateway_webhook_certificate_ends_timestamp_seconds",
    "When the certificate that is served ends; it is renewed a month before.",
)
_LARGEST: Final = 8 << 20
"""Bytes; the API server takes no object larger than 3 MiB."""

Lookup = Callable[[str], Awaitable[str]]
"""A Namespace's annotation. Raises ``ApiError``."""


class Namespaces:
    """The cache answers what it knows; before "no default" is believed the API server is asked,
    since this replica may have heard less than the one that registered the Namespace."""

    def __init__(self, client: Client, cache: Cache[Namespace]) -> None:
        self._client = client
        self._cache = cache

    async def default(self, name: str) -> str:
        """Raises ``ApiError``."""
        known = annotation(self._cache.get("", name))
        if known:
            return known
        try:
            found = await self._client.get(NAMESPACES, name)
        except NotFound:
            return ""  # it is going, and its pods with it
        return annotation(found)


class Server:
    """``port`` 0 picks a free one (see ``port`` after ``start``)."""

    def __init__(self, *, address: str, port: int, default: Lookup) -> None:
        self.port = port
        self._address = address
        self._default = default
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        app = web.Application(client_max_size=_LARGEST)
        app.router.add_post(PATH, self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        self.started = False

    def use(self, generation: Generation) -> None:
        """New connections get this certificate; those that are open go on."""
        # Python's ssl reads keys from files alone: one that is in memory and has no name.
        file = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            with open(file, "wb", closefd=False) as out:
                out.write(generation.certificate + generation.key)
            self._tls.load_cert_chain(f"/proc/self/fd/{file}")
        finally:
            os.close(file)
        ENDS.set(generation.ends)

    async def start(self) -> None:
        """Raises ``OSError`` when the port is taken."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._address, self.port, ssl_context=self._tls)
        await site.start()
        if not self.port:
            self.port = self._runner.addresses[0][1]
        self.started = True

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            document = json.loads(await request.read())
            namespace = asks_default(document)
            answer = review(document, default=await self._default(namespace) if namespace else "")
        except (ReviewError, ValueError) as error:
            return _failed(400, f"no review of a pod: {error}")
        except ApiError as error:
            return _failed(503, f"the pod's Namespace cannot be read: {error}")
        REVIEWS.labels("changed" if "patch" in answer["response"] else "unchanged").inc()
        return _json(answer)


def _json(answer: dict[str, Any]) -> web.Response:
    return web.Response(body=json.dumps(answer).encode(), content_type="application/json")


def _failed(status: int, reason: str) -> web.Response:
    REVIEWS.labels("failed").inc()
    log.warning("review failed", extra={"error": reason})
    return web.Response(status=status, text=f"static egress gateway: {reason}\n")
