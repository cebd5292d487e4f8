"""A tiny API server that plays a script: what the n-th request gets, and what each asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from egress_gateway.kube.client import Client
from egress_gateway.kube.config import ClusterAccess

Step = Callable[[web.Request], Awaitable[web.StreamResponse]]


def pod(name: str, version: int, uid: str = "u", node: str = "") -> dict[str, Any]:
    meta = {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": str(version)}
    return {"metadata": meta, "spec": {"nodeName": node}}


def listed(version: int, *items: dict[str, Any], token: str = "") -> Step:
    """Answers a list."""

    async def step(_: web.Request) -> web.StreamResponse:
        meta = {"resourceVersion": str(version), "continue": token}
        return web.json_response({"metadata": meta, "items": list(items)})

    return step


def status(code: int, reason: str = "", **headers: str) -> Step:
    """Refuses."""

    async def step(_: web.Request) -> web.StreamResponse:
        body = {"kind": "Status", "code": code, "reason": reason, "message": reason or str(code)}
        return web.json_response(body, status=code, headers=headers)

    return step


def event(kind: str, obj: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": obj}


def bookmark(version: int) -> dict[str, Any]:
    return event("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


def gone() -> dict[str, Any]:
    return event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "old"})


def watched(*events: dict[str, Any], hold: bool = False, tear: bool = False) -> Step:
    """Answers a watch: sends ``events``, then ends, stays open (``hold``) or breaks off in the
    middle of a line (``tear``)."""

    async def step(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for item in events:
            await response.write(json.dumps(item).encode() + b"\n")
        if tear:
            await response.write(b'{"type":"ADDED","obj')
            assert request.transport is not None
            request.transport.abort()
        if hold:
            await asyncio.Event().wait()
        return response

    return step


def restored(version: int, *items: dict[str, Any]) -> Step:
    """Answers anything as kube-apiserver does whose etcd holds no more than ``version``: it takes
    watches from the future, in which it is silent."""

    async def step(request: web.Request) -> web.StreamResponse:
        ahead = int(request.query.get("resourceVersion", "0")) > version
        if "watch" in request.query:
            return await watched(*() if ahead else (bookmark(version),), hold=True)(request)
        return await listed(version, *items)(request)

    return step


class Script:
    """Requests take the steps in turn; when none is left they wait for one."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self._steps: asyncio.Queue[Step] = asyncio.Queue()

    def then(self, *steps: Step) -> None:
        for step in steps:
            self._steps.put_nowait(step)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.read())
        self.requests.append(request)
        step = await self._steps.get()
        return await step(request)

    @property
    def asked(self) -> list[str]:
        """``list``, ``newest`` (a list of one name, for its version) or ``watch@<resourceVersion>``
        for each request so far."""
        return [
            f"watch@{r.query['resourceVersion']}"
            if "watch" in r.query
            else "newest"
            if "metadata.name=" in r.query.get("fieldSelector", "")
            else "list"
            for r in self.requests
        ]


@asynccontextmanager
async def serving(script: Script, **access: Any) -> AsyncIterator[Client]:
    """The script on a port of the loopback, and a client of it."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with Client(
            ClusterAccess(server=f"http://127.0.0.1:{port}", **access), "tester"
        ) as client:
            yield client
    finally:
        await runner.cleanup()
