"""Answers the CNI plugin on a unix socket. Root alone may connect.

The socket is made anew at each start and whenever the plugin could not find it any more (``Door``).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path
from typing import Final

from egress_gateway.cni import protocol
from egress_gateway.cni.protocol import Call
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux.door import Door
from egress_gateway.node import metrics
from egress_gateway.node.lifecycle import Lifecycle, Refused
from egress_gateway.service.logging import bounded

log = logging.getLogger(__name__)

_LARGEST_REQUEST: Final = 16 << 20
_REQUEST_SECONDS: Final = 5.0
_LONGEST_REASON: Final = 1024
"""Characters; what an Event holds (https://kubernetes.io/docs/reference/kubernetes-api, Event)."""


class PluginServer:
    """Answers on the socket below ``run_dir``. ``problem`` says why the plugin cannot reach it;
    None if it can."""

    def __init__(self, lifecycle: Lifecycle, run_dir: Path) -> None:
        self._lifecycle = lifecycle
        self._door = Door(
            run_dir / protocol.SOCKET, on_remade=metrics.LOCAL_STATE_REBUILT.labels("socket").inc
        )

    @property
    def problem(self) -> str | None:
        """Why the plugin cannot reach the agent; None if it can."""
        return self._door.problem

    async def run(self) -> None:
        """Serves until cancelled. Answers under way are given up: the runtime tries again. Raises
        as ``Door.serve``."""
        await self._door.serve(self._converse)

    async def _converse(self, connection: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(sock=connection)
            try:
                async with asyncio.timeout(_REQUEST_SECONDS):
                    request = await _read(reader)
                writer.write(await answer(self._lifecycle, request))
                await writer.drain()
            finally:
                writer.close()
        except (OSError, TimeoutError) as error:
            log.info("lost CNI call", extra={"error": str(error)})


async def _read(reader: asyncio.StreamReader) -> bytes:
    parts, length = [], 0
    while part := await reader.read(1 << 16):
        parts.append(part)
        length += len(part)
        if length > _LARGEST_REQUEST:
            raise OSError("the request is larger than 16 MiB")
    return b"".join(parts)


async def answer(lifecycle: Lifecycle, request: bytes) -> bytes:
    """The reply to one request, in the version that it asks for. Never raises but when it is
    cancelled: whatever goes wrong, the runtime needs an answer."""
    command, version = "(undecoded call)", ""
    try:
        call = protocol.decode(request)
        command, version = call.command, call.config.cni_version
        return await _verb(lifecycle, call)
    except protocol.ProtocolError as error:
        return protocol.refusal(protocol.INVALID_CONFIG, bounded(str(error)), version=version)
    except (Refused, DatapathError) as error:
        return _try_again(str(error), version)
    except Exception as error:  # nobody expected it: a person needs the trace
        log.exception("CNI %s failed", bounded(command))
        return _try_again(str(error) or type(error).__name__, version)


async def _verb(lifecycle: Lifecycle, call: Call) -> bytes:
    match call.command:
        case "ADD":
            await lifecycle.attach_pod(call)
        case "DEL":
            await lifecycle.detach_pod(call)
        case "GC":
            lifecycle.collect_pods(call)
        case "CHECK":
            if wrong := lifecycle.check_pod(call):
                return _try_again(wrong, call.config.cni_version)
        case other:
            raise protocol.ProtocolError(f"unknown command {bounded(other)!r}")
    return protocol.OK


def _try_again(reason: str, version: str) -> bytes:
    message = f"static egress gateway: {bounded(reason, _LONGEST_REASON)}"
    return protocol.refusal(protocol.TRY_AGAIN, message, version=version)
