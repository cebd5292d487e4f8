"""A client that lists each kind once, for those who look at the same objects in two ways."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any, Protocol, TypeVar

import msgspec

from egress_gateway.kube import wire
from egress_gateway.kube.resources import Resource, Untyped

T = TypeVar("T")


class Lists(Protocol):
    """What ``kube.client.Client`` is to those who only list."""

    def now(self) -> datetime.datetime:
        """The API server's time, as ``kube.client.Client.now``."""
        ...

    async def list(
        self,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
    ) -> wire.ListPage[T]:
        """All objects of a kind that the selectors choose. Raises ``ApiError``."""
        ...


class Once:
    """Lists of one run. Raises what ``client`` raises, each time that it is asked."""

    def __init__(self, client: Lists) -> None:
        self._client = client
        self._found: dict[tuple[str, ...], asyncio.Task[wire.ListPage[Untyped]]] = {}

    def now(self) -> datetime.datetime:
        """As ``kube.client.Client.now``."""
        return self._client.now()

    async def list(
        self,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
    ) -> wire.ListPage[T]:
        """Asks the server once for the same words, and answers later calls from that. A caller that
        is cancelled ends nobody else's wait."""
        asked = (namespace, labels, fields)
        key = (resource.api_version, resource.plural, *(part or "" for part in asked))
        task = self._found.get(key)
        if task is None:
            reading = self._client.list(resource.untyped(), namespace, labels=labels, fields=fields)
            task = self._found[key] = asyncio.ensure_future(reading)
        page: Any = await asyncio.shield(task)
        if resource.type is dict:
            return page  # type: ignore[no-any-return]
        try:
            items = msgspec.json.encode({"items": page.items})
        except RecursionError:  # nested as deep as could just be read
            return await self._client.list(resource, namespace, labels=labels, fields=fields)
        return wire.decode_list(resource, items)
