"""Requests to the API server, typed by ``Resource``.

Two connection pools: a bounded one for requests, so that a burst of work does not become a burst of
TLS handshakes, and one for watches, each of which holds a connection for its whole life. Every
refusal becomes an ``ApiError`` that names the request. The client retries a 429 as the server asks,
and a 401 once with a new token. It retries nothing else: caches, queues and their callers own
backoff.
"""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec

from egress_gateway.kube import clock, errors, wire
from egress_gateway.kube.config import ClusterAccess, ClusterAccessError
from egress_gateway.kube.resources import Resource
from egress_gateway.kube.wire import ListPage, WatchEvent

__all__ = ["Client", "ListPage", "WatchEvent"]

T = TypeVar("T")

PAGE: Final = 500
"""Objects a page, as kubectl and client-go ask for: a page is all that an agent holds at once."""
LARGEST_PAGE: Final = 16 << 20
"""Bytes of a page. Of larger ones fewer objects are asked for: whoever may write a Pod or a
PodEndpoint makes it as large as etcd holds (1.5 MiB), and five hundred of them are not to end an
agent for want of memory."""
_FEWER: Final = 8
"""Times. After that, small pages grow again: a few large objects do not make a request of each."""
MAX_LINE: Final = 4 * 1024 * 1024
"""Longest watch line: an object of etcd's 1.5 MiB limit with room for escapes."""
CONNECTIONS: Final = 16
"""Requests in flight; more wait for a connection (within their timeout)."""
_SHED_RETRIES: Final = 4
_SHED_WAIT_MAX: Final = 10.0

_JSON: Final = "application/json"
_MERGE: Final = "application/merge-patch+json"
_APPLY: Final = "application/apply-patch+yaml"  # JSON is YAML
_NO_ANSWER: Final = (aiohttp.ClientError, OSError, UnicodeError)
"""The last of a host's name that can be none (IDNA). A TimeoutError is an OSError."""


class Client:
    """``async with Client(access, "field-manager") as client: …``

    ``timeout`` bounds one request in seconds (watches: until the answer starts; lists, which may
    be long: each silence). ``page``: objects that a list asks for at once.
    """

    def __init__(
        self,
        access: ClusterAccess,
        field_manager: str,
        *,
        timeout: float = 15.0,
        page: int = PAGE,
    ) -> None:
        self.access = access
        self.field_manager = field_manager
        self._timeout = timeout
        self._page_size = page
        self._requests: aiohttp.ClientSession | None = None
        self._watches: aiohttp.ClientSession | None = None
        self._ahead = datetime.timedelta()

    def now(self) -> datetime.datetime:
        """The API server's time, as it said last: RFC 9110's Date, which is in whole seconds. This
        machine's until it has spoken."""
        return clock.now() + self._ahead

    async def __aenter__(self) -> Client:
        self._requests = self._pool(CONNECTIONS)
        self._watches = self._pool(0)
        return self

    def _pool(self, limit: int) -> aiohttp.ClientSession:
        """A session with at most ``limit`` connections; 0 is no limit."""
        trusted = self.access.ssl_context
        if trusted is None and self.access.proxy:
            trusted = ssl.create_default_context()  # an agent's aiohttp trusts nobody by itself
        connector = aiohttp.TCPConnector(ssl=trusted or True, limit=limit)
        return aiohttp.ClientSession(
            connector=connector,
            headers=[
                ("User-Agent", self.field_manager),
                ("Accept", _JSON),
                *self.access.headers,
            ],
            proxy=self.access.proxy,
            read_bufsize=MAX_LINE,
        )

    async def __aexit__(self, *_: object) -> None:
        for session in (self._requests, self._watches):
            if session is not None:
                await session.close()

    async def get(self, resource: Resource[T], name: str, namespace: str | None = None) -> T:
        """One object. Raises ``NotFound``."""
        body = await self.request("GET", resource.path(namespace, name))
        return self._decode(resource, body)

    async def list(
        self,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
    ) -> ListPage[T]:
        """All matching objects, fetched in pages. ``labels`` and ``fields`` are selectors as
        kubectl writes them. Without ``namespace``: all namespaces. Raises ``Gone`` if paging
        took longer than the server remembers."""
        items: list[T] = []
        bad: list[wire.Undecodable] = []
        token, limit = "", self._page_size
        asked = _params(labelSelector=labels, fieldSelector=fields)
        while True:
            more = _params(limit=limit, **{"continue": token})
            try:
                page, size = await self._page(resource, namespace, asked | more, whole=limit == 1)
            except _TooLarge:
                limit = max(1, limit // _FEWER)
                continue
            if size <= LARGEST_PAGE // 4:
                limit = min(self._page_size, 2 * limit)
            items += page.items
            bad += page.undecodable
            token = page.continue_token
            if not token:
                return ListPage(
                    items=items, resource_version=page.resource_version, undecodable=bad
                )

    async def _page(
        self,
        resource: Resource[T],
        namespace: str | None,
        params: Mapping[str, str],
        *,
        whole: bool,
    ) -> tuple[ListPage[T], int]:
        """And its size in bytes. Raises ``_TooLarge``, unless the page must be taken ``whole``."""
        path = resource.path(namespace)
        silence = aiohttp.ClientTimeout(
            total=None, sock_connect=self._timeout, sock_read=self._timeout
        )
        most = None if whole else LARGEST_PAGE
        body = await self.request("GET", path, params=params, timeout=silence, most=most)
        try:
            return wire.decode_list(resource, body), len(body)
        except (ValueError, RecursionError) as error:
            raise errors.broken(f"GET {path}", error) from None

    async def create(self, resource: Resource[T], obj: T | Mapping[str, Any]) -> T:
        """Creates; the namespace comes from the object. Raises ``AlreadyExists``."""
        body = wire.apply_document(resource, obj)
        answer = await self.request(
            "POST",
            resource.path(body["metadata"].get("namespace")),
            body=body,
            params={"fieldManager": self.field_manager},
        )
        return self._decode(resource, answer)

    async def apply(
        self,
        resource: Resource[T],
        obj: T | Mapping[str, Any],
        *,
        force: bool = True,
        subresource: str | None = None,
    ) -> T:
        """Server-side apply as this client's field manager: creates or updates, and drops
        fields that this manager applied before and leaves out now."""
        body = wire.apply_document(resource, obj)
        meta = body["metadata"]
        answer = await self.request(
            "PATCH",
            resource.path(meta.get("namespace"), meta["name"], subresource),
            body=body,
            params={"fieldManager": self.field_manager, "force": "true" if force else "false"},
            content_type=_APPLY,
        )
        return self._decode(resource, answer)

    async def merge_patch(
        self,
        resource: Resource[T],
        name: str,
        patch: Mapping[str, Any],
        namespace: str | None = None,
        *,
        subresource: str | None = None,
    ) -> T:
        """RFC 7396. ``metadata.resourceVersion`` in the patch makes it conditional."""
        answer = await self.request(
            "PATCH",
            resource.path(namespace, name, subresource),
            body=patch,
            params={"fieldManager": self.field_manager},
            content_type=_MERGE,
        )
        return self._decode(resource, answer)

    async def replace_status(self, resource: Resource[T], obj: T | Mapping[str, Any]) -> T:
        """The status becomes exactly the object's; nothing else of it is written (the server
        ignores the rest of a PUT to this subresource). Raises ``Conflict`` if the object has
        changed since its ``resourceVersion``."""
        body = wire.document(resource, obj)
        meta = body["metadata"]
        answer = await self.request(
            "PUT",
            resource.path(meta.get("namespace"), meta["name"], "status"),
            body=body,
            params={"fieldManager": self.field_manager},
        )
        return self._decode(resource, answer)

    async def delete(
        self,
        resource: Resource[Any],
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        """Deletes, only if the object has ``uid`` where one is given (``Conflict`` if it has
        another). Raises ``NotFound``."""
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        await self.request("DELETE", resource.path(namespace, name), body=options)

    async def watch(
        self,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
        resource_version: str,
        timeout_seconds: int = 300,
        inactivity: float | None = None,
    ) -> AsyncGenerator[WatchEvent[T], None]:
        """Changes since ``resource_version``; ends when the server ends it, after about
        ``timeout_seconds``. Raises ``Gone`` when the server no longer remembers the version and
        ``Unavailable`` when nothing, not even a bookmark, came for ``inactivity`` seconds."""
        params = _params(
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=resource_version,
            timeoutSeconds=timeout_seconds,
            labelSelector=labels,
            fieldSelector=fields,
        )
        path = resource.path(namespace)
        what = f"watch {path}"
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._timeout, sock_read=inactivity
        )
        try:
            async with self._send(
                self._watches, "GET", path, params, None, _JSON, timeout
            ) as response:
                async for line in response.content:
                    if line.strip():
                        yield wire.decode_event(resource, line)
        except _NO_ANSWER as error:
            raise self._unreachable(what, error) from error
        except (ValueError, RecursionError) as error:
            raise errors.broken(what, error) from error

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        content_type: str = _JSON,
        timeout: aiohttp.ClientTimeout | None = None,
        most: int | None = None,
    ) -> bytes:
        """One request to any path, for what has no method of its own; the answer's body, of
        ``most`` bytes (None: of any number)."""
        what = f"{method} {path}"
        timeout = timeout or aiohttp.ClientTimeout(total=self._timeout)
        payload = None if body is None else msgspec.json.encode(body)
        try:
            async with self._send(
                self._requests, method, path, params or {}, payload, content_type, timeout
            ) as response:
                return await (response.read() if most is None else _bounded(response, most))
        except _NO_ANSWER as error:
            raise self._unreachable(what, error) from error

    async def execute(
        self,
        namespace: str,
        pod: str,
        container: str,
        command: Sequence[str],
        *,
        timeout: float = 30.0,
    ) -> tuple[int, bytes, bytes]:
        """A command in a container: exit code, standard output and error. It has no input. Raises
        ``ApiError``, for one that the kubelet cannot start too."""
        path = f"/api/v1/namespaces/{quote(namespace)}/pods/{quote(pod)}/exec"
        query = [("command", part) for part in command]
        query += [("container", container), ("stdout", "true"), ("stderr", "true")]
        url, what = f"{self.access.server}{path}?{urlencode(query)}", f"exec {namespace}/{pod}"
        try:
            async with asyncio.timeout(timeout):
                try:
                    heard = await self._channels(url, what, fresh=False)
                except errors.Unauthorized:
                    heard = await self._channels(url, what, fresh=True)
        except TimeoutError as error:
            raise self._unreachable(what, error) from error
        return wire.exit_code(heard[3]), heard[1], heard[2]

    async def _channels(self, url: str, what: str, *, fresh: bool) -> dict[int, bytes]:
        """What came by each channel of a WebSocket until its end."""
        if self._watches is None:
            raise RuntimeError("use `async with Client(…)`")
        heard: dict[int, bytes] = {1: b"", 2: b"", 3: b""}
        try:
            async with self._watches.ws_connect(
                url,
                protocols=wire.CHANNELS,
                # The API server answers 406 to whoever accepts JSON alone.
                headers={**self._headers(fresh, None), "Accept": "*/*"},
                server_hostname=self.access.server_name,
                max_msg_size=MAX_LINE,
            ) as stream:
                async for message in stream:
                    if message.type is aiohttp.WSMsgType.BINARY and message.data:
                        channel = message.data[0]
                        heard[channel] = heard.get(channel, b"") + message.data[1:]
        except aiohttp.WSServerHandshakeError as error:
            raise errors.from_response(error.status, b"", context=what) from error
        except _NO_ANSWER as error:
            raise self._unreachable(what, error) from error
        return heard

    @asynccontextmanager
    async def _send(
        self,
        session: aiohttp.ClientSession | None,
        method: str,
        path: str,
        params: Mapping[str, str],
        payload: bytes | None,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer below 400, else ``ApiError``; 401 and 429 retried as the module says."""
        if session is None:
            raise RuntimeError("use `async with Client(…)`")
        fresh, shed = False, 0
        while True:
            headers = self._headers(fresh, content_type if payload is not None else None)
            async with session.request(
                method,
                self.access.server + path,
                params=params,
                data=payload,
                headers=headers,
                timeout=timeout,
                server_hostname=self.access.server_name,
            ) as response:
                self._ahead = clock.ahead(response.headers.get("Date", ""), self._ahead)
                if response.status < 400:
                    yield response
                    return
                error = errors.from_response(
                    response.status,
                    await response.read(),
                    context=f"{method} {path}",
                    retry_after=response.headers.get("Retry-After"),
                )
            if isinstance(error, errors.Unauthorized) and not fresh:
                fresh = True
            elif isinstance(error, errors.TooManyRequests) and shed < _SHED_RETRIES:
                shed += 1
                wait = 1.0 if error.retry_after is None else error.retry_after
                await asyncio.sleep(min(wait, _SHED_WAIT_MAX))
            else:
                raise error

    def _headers(self, fresh: bool, content_type: str | None) -> dict[str, str]:
        headers = {"Content-Type": content_type} if content_type else {}
        try:
            token = self.access.token(fresh)
        except ClusterAccessError as error:
            raise errors.Unauthorized(401, "NoToken", str(error)) from error
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _unreachable(self, what: str, error: BaseException) -> errors.Unavailable:
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            self.access.trust_again()
        reason = str(error) or type(error).__name__
        return errors.Unavailable(0, "Unreachable", f"{what}: {reason}")

    def _decode(self, resource: Resource[T], body: bytes) -> T:
        try:
            return wire.decode_object(resource, body)
        except (ValueError, RecursionError) as error:
            raise errors.broken(resource.plural, error) from None


class _TooLarge(Exception):
    """The answer is longer than it may be; the rest of it was not read."""


async def _bounded(response: aiohttp.ClientResponse, most: int) -> bytes:
    found = bytearray()
    async for part in response.content.iter_any():
        found += part
        if len(found) > most:
            raise _TooLarge
    return bytes(found)


def _params(**values: object) -> dict[str, str]:
    return {key: str(value) for key, value in values.items() if value not in (None, "")}
