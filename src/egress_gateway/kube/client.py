"""Requests to the API server, typed by ``Resource``.

One aiohttp session. Every refusal becomes an ``ApiError`` that says what was asked. 429 is
retried as the server asks; 401 once with a token read anew. Nothing else is retried here:
caches, queues and their callers own backoff.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

from egress_gateway.kube.config import ClusterAccess
from egress_gateway.kube.resources import Resource

T = TypeVar("T")
WatchType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPage(Generic[T]):
    """Objects as of ``resource_version``. ``continue_token`` is empty on the last page."""

    items: Sequence[T]
    resource_version: str
    continue_token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchEvent(Generic[T]):
    """One change. A BOOKMARK carries no object, only a resource version to resume from."""

    type: WatchType
    obj: T | None
    resource_version: str


class Client:
    """``async with Client(access, "field-manager") as client: …``"""

    def __init__(
        self, access: ClusterAccess, field_manager: str, *, timeout: float = 15.0
    ) -> None: ...

    async def __aenter__(self) -> Client:
        raise NotImplementedError

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raise NotImplementedError

    async def get(self, resource: Resource[T], name: str, namespace: str | None = None) -> T:
        """One object. Raises ``NotFound``."""
        raise NotImplementedError

    async def list(
        self,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
    ) -> ListPage[T]:
        """All matching objects, fetched in pages. ``labels`` and ``fields`` are selectors as
        kubectl writes them. Without ``namespace``: all namespaces."""
        raise NotImplementedError

    async def create(self, resource: Resource[T], obj: T | Mapping[str, Any]) -> T:
        """Creates; the namespace comes from the object. Raises ``AlreadyExists``."""
        raise NotImplementedError

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
        raise NotImplementedError

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
        raise NotImplementedError

    async def replace_status(self, resource: Resource[T], obj: T | Mapping[str, Any]) -> T:
        """The status becomes exactly the object's; nothing else of it is written. Raises
        ``Conflict`` if the object has changed since its ``resourceVersion``."""
        raise NotImplementedError

    async def delete(
        self,
        resource: Resource[Any],
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        """Deletes, only if the object has ``uid`` where one is given. Raises ``NotFound``."""
        raise NotImplementedError

    def watch(
        self,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
        resource_version: str,
        timeout_seconds: int = 300,
        inactivity: float | None = None,
    ) -> AsyncIterator[WatchEvent[T]]:
        """Changes since ``resource_version``; ends when the server ends it. Raises ``Gone``."""
        raise NotImplementedError
