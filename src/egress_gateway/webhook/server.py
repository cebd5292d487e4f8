"""Answers AdmissionReviews over TLS. What we cannot judge is an error, and so a refusal to the
pod's creator: the API server sends us only pods that must not start unjudged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web
from prometheus_client import Counter, Gauge

from egress_gateway.kube.client import Client
from egress_gateway.kube.errors import ApiError, NotFound
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import NAMESPACES, Namespace
from egress_gateway.service.bucket import Bucket
from egress_gateway.service.selfsigned import load_pem
from egress_gateway.service.server import BoundedServer, Limits
from egress_gateway.webhook.certificates import Generation
from egress_gateway.webhook.keeper import annotation
from egress_gateway.webhook.registration import PATH
from egress_gateway.webhook.review import ReviewError, asks_default, review

log = logging.getLogger(__name__)

REVIEWS: Final = Counter(
    "egress_gateway_webhook_reviews_total", "Pods that the webhook judged, by outcome.", ["outcome"]
)
ENDS: Final = Gauge(
    "egress_gateway_webhook_certificate_ends_timestamp_seconds",
    "When the certificate that the webhook serves ends. It renews it a month before.",
)
INSTRUMENTS: Final = (REVIEWS, ENDS)
_LARGEST: Final = 4 << 20
"""Bytes; the API server takes no object larger than 3 MiB."""
_SMALL: Final = 256 << 10
"""Bytes of a review that needs no turn; ordinary pods have some 10 KiB."""
_LINES: Final = (1.0, 10.0)
"""Of failed reviews in the log, a second and at once: anybody can send what fails. The API server
tells the pod's creator of each of its own."""
_LIMITS: Final = Limits(connections=256, size=_LARGEST + 16384, seconds=15.0)
"""The API server waits ten seconds for us."""

Lookup = Callable[[str], Awaitable[str]]
"""A Namespace's annotation. Raises ``ApiError``."""


class Namespaces:
    """Answers from the cache. Before it believes "no default" it asks the API server, because
    this replica may know less than the one that registered the Namespace."""

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


class _Metadata(msgspec.Struct):
    namespace: Any = None
    annotations: Any = None


class _Spec(msgspec.Struct, rename="camel"):
    host_network: Any = None
    node_selector: Any = None
    init_containers: Any = None


class _Pod(msgspec.Struct):
    metadata: _Metadata | None = None
    spec: _Spec | None = None


class _Request(msgspec.Struct, rename="camel"):
    uid: Any = None
    kind: Any = None
    operation: Any = None
    sub_resource: Any = None
    namespace: Any = None
    object: _Pod | None = None


class _Review(msgspec.Struct, rename="camel"):
    """The fields that we read of an AdmissionReview. The decoder skips everything else without
    building it: three megabytes of brackets cost no more than these fields."""

    api_version: Any = None
    kind: Any = None
    request: _Request | None = None


def parse(body: bytes) -> Any:
    """The document that ``review`` judges. Raises ``ReviewError``."""
    try:
        return msgspec.to_builtins(msgspec.json.decode(body, type=_Review))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReviewError(str(error)) from None
    except RecursionError:
        raise ReviewError("it is nested too deeply") from None


class WebhookServer:
    """``port`` 0 picks a free one (see ``port`` after ``start``)."""

    def __init__(self, *, address: str, port: int, default: Lookup, wait_image: str = "") -> None:
        self._default = default
        self._wait_image = wait_image
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._server = BoundedServer(
            "webhook", address=address, port=port, limits=_LIMITS, tls=self._tls
        )
        self._server.add_route(PATH, self._answer, method="POST")
        self._large = asyncio.Lock()
        self._lines = Bucket(*_LINES)
        self.started = False

    @property
    def port(self) -> int:
        """The one that it listens on, once it has started."""
        return self._server.port

    def use(self, generation: Generation) -> None:
        """New connections get this certificate; those that are open go on."""
        load_pem(self._tls, generation.certificate, generation.key)
        ENDS.set(generation.ends)

    async def start(self) -> None:
        """Raises ``OperatorError`` when the port is taken."""
        await self._server.start()
        self.started = True

    async def close(self) -> None:
        """Refuses new connections, and ends those that are open."""
        await self._server.close()

    async def _answer(self, request: web.Request) -> web.Response:
        async with contextlib.AsyncExitStack() as turn:
            body = await self._read(request, turn)
            if body is None:
                return self._failed(413, f"a review has at most {_LARGEST} bytes")
            try:
                document = parse(bytes(body))
                namespace = asks_default(document)
                default = await self._default(namespace) if namespace else ""
                answer = review(document, default=default, wait_image=self._wait_image)
            except ReviewError as error:
                return self._failed(400, f"no review of a pod: {error}")
            except ApiError as error:
                return self._failed(503, f"the pod's Namespace cannot be read: {error}")
        REVIEWS.labels("changed" if "patch" in answer["response"] else "unchanged").inc()
        return _json(answer)

    def _failed(self, status: int, reason: str) -> web.Response:
        REVIEWS.labels("failed").inc()
        if self._lines.take_now(time.monotonic()):
            log.warning("review failed", extra={"error": reason[:500]})
        return web.Response(status=status, text=f"static egress gateway: {reason[:500]}\n")

    async def _read(
        self, request: web.Request, turn: contextlib.AsyncExitStack
    ) -> bytearray | None:
        """The body, None if it is too large. Large ones are read one after the other: until its
        turn comes the sender is not read from."""
        body, waited = bytearray(), False
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > _LARGEST:
                return None
            if len(body) > _SMALL and not waited:
                await turn.enter_async_context(self._large)
                waited = True
        return body


def _json(answer: dict[str, Any]) -> web.Response:
    return web.Response(body=json.dumps(answer).encode(), content_type="application/json")
