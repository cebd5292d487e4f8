"""The lab's control socket: what a person or a test may do to the world that no API offers.

Cutting a machine's cable, counting what arrived on the Internet, injecting faults into Azure:
things that on a real cloud are done with hands or not at all. HTTP over a Unix socket in the
lab's directory, root only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

Operation = Callable[[dict[str, Any]], Awaitable[Any]]


class ControlError(Exception):
    """An operation was refused; the text is for the person at the shell."""


def control_app(operations: dict[str, Operation]) -> web.Application:
    """``POST /<operation>`` with a JSON object as arguments, JSON back; 400 with words."""

    async def handle(request: web.Request) -> web.Response:
        operation = operations.get(request.match_info["name"])
        if operation is None:
            return web.json_response({"error": "no such operation"}, status=404)
        try:
            return web.json_response(await operation(await request.json()))
        except (ControlError, LookupError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)

    app = web.Application()
    app.router.add_post("/{name}", handle)
    return app


class ControlClient:
    """Calls a lab's operations."""

    def __init__(self, path: Path) -> None:
        self._session = aiohttp.ClientSession(
            "http://lab", connector=aiohttp.UnixConnector(str(path))
        )

    async def __aenter__(self) -> ControlClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def call(self, operation: str, **arguments: Any) -> Any:
        """Raises ``ControlError`` with the lab's words."""
        async with self._session.post(f"/{operation}", json=arguments) as answer:
            body = await answer.json()
            if answer.status != 200:
                raise ControlError(body["error"])
            return body
