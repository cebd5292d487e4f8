"""Events of a kubelet: written in the background, repeats counted on one object."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import Any

from egress_gateway_lab.runtime.containers.containers import now
from egress_gateway_lab.runtime.kubelet.api import Api, ApiError

Object = dict[str, Any]

_KEPT = 500


class Events:
    """Never blocks; a full queue drops the newest, an API that refuses loses one."""

    def __init__(self, api: Api, node: str) -> None:
        self._api = api
        self._node = node
        self._queue: asyncio.Queue[tuple[Object, str, str, str]] = asyncio.Queue(1000)
        self._known: dict[tuple[str, str, str], tuple[str, int]] = {}

    def __call__(self, about: Object, kind: str, reason: str, message: str) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._queue.put_nowait((about, kind, reason, message))

    async def run(self) -> None:
        while True:
            about, kind, reason, message = await self._queue.get()
            with contextlib.suppress(ApiError, LookupError):
                await self._write(about, kind, reason, message)

    async def _write(self, about: Object, kind: str, reason: str, message: str) -> None:
        meta: Object = about["metadata"]
        namespace = meta.get("namespace") or "default"
        folder = f"/api/v1/namespaces/{namespace}/events"
        key = (meta["uid"], reason, message)
        if key in self._known:
            name, count = self._known[key]
            change = {"count": count + 1, "lastTimestamp": now()}
            if await self._api.patch(f"{folder}/{name}", change) is not None:
                self._known[key] = (name, count + 1)
                return
        name = f"{meta['name']}.{uuid.uuid4().hex[:16]}"
        source = {"component": "kubelet", "host": self._node}
        reference = {
            "apiVersion": about.get("apiVersion", "v1"),
            "kind": about.get("kind", "Pod"),
            "name": meta["name"],
            "uid": meta["uid"],
        }
        if meta.get("namespace"):
            reference["namespace"] = meta["namespace"]
        event: Object = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": reference,
            "reason": reason,
            "message": message[:1024],
            "type": kind,
            "count": 1,
            "source": source,
            "reportingComponent": "kubelet",
            "reportingInstance": self._node,
            "firstTimestamp": now(),
            "lastTimestamp": now(),
        }
        await self._api.create(folder, event)
        if len(self._known) > _KEPT:
            self._known.clear()
        self._known[key] = (name, 1)
