"""The controller's live map, from the lab's network to this machine's loopback.

The map listens on the loopback of the controller's pod. ``kubectl port-forward`` leads there in a
cluster; in a lab a connection is opened in the pod's network namespace, and bytes are passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from egress_gateway.api import names
from egress_gateway_lab.apiserver.wire.client import STRATEGIC_PATCH
from egress_gateway_lab.demo.report import StepFailed
from egress_gateway_lab.demo.world import World, until
from egress_gateway_lab.host import LabError, LabHandle
from egress_gateway_lab.runtime.nodes import netsocket

PORT: Final = 8090
"""On the loopback of the controller's pods."""
_SETTING: Final = "EGRESS_GATEWAY_UI_PORT"
_STARTS: Final = 90.0
"""Seconds for the Deployment to roll."""
_AT_ONCE: Final = 32
_NOBODY: Final = (
    b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\nno controller answers: reload\n"
)


async def turn_on(handle: LabHandle) -> None:
    """Has the lab's controllers serve the map; waits until one does. Raises ``LabError``."""
    if not handle.kubeconfig.exists():
        raise LabError(f"lab {handle.name!r} has no cluster, hence no controller")
    container = {"name": "controller", "env": [{"name": _SETTING, "value": str(PORT)}]}
    async with World(handle) as world:
        await world.connect()
        await world.kube.patch(
            "deployments",
            "egress-gateway-controller",
            {"spec": {"template": {"spec": {"containers": [container]}}}},
            namespace=names.SYSTEM_NAMESPACE,
            content_type=STRATEGIC_PATCH,
        )
    try:
        await until(lambda: _answers(handle), timeout=_STARTS, what="a controller with a live map")
    except StepFailed as failure:
        raise LabError(f"{failure}: see `kubectl -n {names.SYSTEM_NAMESPACE} get pods`") from None


async def _answers(handle: LabHandle) -> bool:
    found = await _connected(handle)
    if found is not None:
        found.close()
    return found is not None


@asynccontextmanager
async def relay(handle: LabHandle, port: int) -> AsyncIterator[int]:
    """The map on ``port`` of this machine's loopback (0: a free one, which is answered) while
    inside. Raises ``OSError`` where the port is taken."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with places:
            try:
                await _pass_on(handle, reader, writer)
            finally:
                writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _pass_on(
    handle: LabHandle, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    inner = await _connected(handle)
    if inner is None:
        writer.write(_NOBODY)
        return
    from_map, to_map = await asyncio.open_connection(sock=inner)
    try:
        ways = [
            asyncio.create_task(_copy(reader, to_map)),
            asyncio.create_task(_copy(from_map, writer)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
    finally:
        to_map.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


async def _connected(handle: LabHandle) -> socket.socket | None:
    """A connection to the map of any controller; None: none answers."""
    for pid in _controllers(handle.pid):
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                return await netsocket.connect(pid, "127.0.0.1", PORT)
    return None


def _controllers(lab: int) -> Iterator[int]:
    """Processes of the lab whose environment turns the map on."""
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        with contextlib.suppress(OSError):
            given = (folder / "environ").read_bytes().split(b"\0")
            if f"{_SETTING}={PORT}".encode() in given and _descends(pid, lab):
                yield pid


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False
