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

    def now(self) -> datetime.datetime: ...

    async def list(
        self,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
    ) -> wire.ListPage[T]: ...


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
        asked = (namespace, labels, fields)
        key = (resource.api_version, resource.plural, *(part or "" for part in asked))
        task = self._found.get(key)
        if task is None:
            reading = self._client.list(resource.untyped(), namespace, labels=labels, fields=fields)
            task = self._found[key] = asyncio.ensure_future(reading)
        page: Any = await asyncio.shield(task)
        if resource.type is dict:
            return page  # type: ignore[no-any-return]
        return wire.decode_list(resource, msgspec.json.encode({"items": page.items}))
