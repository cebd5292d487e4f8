"""An API server of dictionaries: enough for a kubelet, and visible to the test."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from egress_gateway_lab.protocols import Answer

Object = dict[str, Any]


class FakeApi:
    """Objects by path, merge patch, one stream of changes to pods."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self._version = 0
        self._changed = asyncio.Condition()
        self.history: list[tuple[int, Object]] = []
        self.tokens = 0

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Answer:
        if method == "GET" and path == "/api/v1/pods":
            items = [o for p, o in self.objects.items() if "/pods/" in p]
            meta = {"resourceVersion": str(self._version)}
            return Answer(200, {"items": copy.deepcopy(items), "metadata": meta})
        if method == "GET":
            return self._answer(path)
        if method == "POST" and path.endswith("/token"):
            self.tokens += 1
            return Answer(201, {"status": {"token": f"token-{self.tokens}"}})
        if method == "POST":
            body = copy.deepcopy(body)
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                return Answer(409, {"message": "already exists"})
            await self.put(path, body)
            return Answer(201, copy.deepcopy(body))
        target = path.removesuffix("/status")
        if target not in self.objects:
            return Answer(404, {"message": "not found"})
        if method == "PATCH":
            merged = merge(self.objects[target], body)
            await self.put(target, merged)
            return self._answer(target)
        assert method == "DELETE"
        await self.remove(target)
        return Answer(200, {})

    def _answer(self, path: str) -> Answer:
        found = self.objects.get(path)
        if found is None:
            return Answer(404, {"message": f"{path} not found"})
        return Answer(200, copy.deepcopy(found))

    async def put(self, path: str, body: Object) -> Object:
        kind = "MODIFIED" if path in self.objects else "ADDED"
        self._version += 1
        meta = body.setdefault("metadata", {})
        meta.setdefault("uid", str(uuid.uuid4()))
        meta["resourceVersion"] = str(self._version)
        self.objects[path] = body
        await self._tell(kind, path, body)
        return body

    async def remove(self, path: str) -> None:
        self._version += 1
        await self._tell("DELETED", path, self.objects.pop(path))

    async def _tell(self, kind: str, path: str, body: Object) -> None:
        async with self._changed:
            if "/pods/" in path:
                event = {"type": kind, "object": copy.deepcopy(body)}
                self.history.append((self._version, event))
            self._changed.notify_all()

    async def watch(
        self, path: str, *, query: Mapping[str, str] | None = None
    ) -> AsyncIterator[Object]:
        seen = int((query or {})["resourceVersion"])
        while True:
            async with self._changed:
                fresh = [(v, e) for v, e in self.history if v > seen]
                if not fresh:
                    await self._changed.wait()
                    continue
            for version, event in fresh:
                seen = version
                yield event

    async def until(self, path: str, true: Callable[[Object | None], Any]) -> Any:
        """Waits until ``true(object)`` holds; returns what it gave. The time limit only ends a
        test that would otherwise hang."""
        async with asyncio.timeout(60):
            async with self._changed:
                while not (result := true(self.objects.get(path))):
                    await self._changed.wait()
                return result

    def events(self, reason: str) -> list[str]:
        return [
            body["message"]
            for path, body in self.objects.items()
            if "/events/" in path and body["reason"] == reason
        ]


def merge(target: Any, change: Any) -> Any:
    """RFC 7396."""
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result
