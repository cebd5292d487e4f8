"""The kubelet's requests to the API server, as its node's identity.

A machine whose network is cut must not go on hearing the API server just because the lab runs
both in one process: every request first waits for ``reachable``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from egress_gateway_lab.protocols import Answer, KubeTransport

Object = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"


class ApiError(Exception):
    """The API server refused; the message is its own."""

    def __init__(self, answer: Answer, what: str) -> None:
        body = answer.body if isinstance(answer.body, dict) else {}
        super().__init__(body.get("message") or f"{what}: HTTP {answer.status}")
        self.status = answer.status


class Api:
    """Objects by path."""

    def __init__(self, transport: KubeTransport) -> None:
        self._transport = transport
        self.reachable = asyncio.Event()
        self.reachable.set()

    async def get(self, path: str) -> Object | None:
        """None if there is none."""
        answer = await self._request("GET", path)
        return None if answer is None else dict(answer)

    async def list(self, path: str, query: Mapping[str, str]) -> Object:
        answer = await self._request("GET", path, query=query)
        if answer is None:
            raise LookupError(path)
        return answer

    async def create(self, path: str, body: Object) -> Object:
        """Raises ``ApiError`` (409 if it exists)."""
        answer = await self._request("POST", path, body=body)
        if answer is None:
            raise LookupError(path)
        return answer

    async def patch(self, path: str, body: Object) -> Object | None:
        """Merge patch; None if the object is gone."""
        return await self._request("PATCH", path, body=body, content_type=MERGE_PATCH)

    async def delete(self, path: str, body: Object | None = None) -> None:
        """Succeeds if there is none."""
        await self._request("DELETE", path, body=body)

    async def watch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Object]:
        await self.reachable.wait()
        async for event in self._transport.watch(path, query=query):
            await self.reachable.wait()
            yield event

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object | None:
        await self.reachable.wait()
        answer = await self._transport.request(
            method, path, query=query, body=body, content_type=content_type
        )
        if answer.status == 404:
            return None
        if answer.status >= 400:
            raise ApiError(answer, f"{method} {path}")
        result: Object = answer.body
        return result
