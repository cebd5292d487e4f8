"""Answers the CNI plugin on a unix socket. Root alone may connect.

The socket is made anew at each start, under another name first, so that a plugin never finds one
that nobody listens on for longer than the agent is away.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from pathlib import Path
from typing import Final

from egress_gateway.cni import protocol
from egress_gateway.cni.protocol import Call
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.node.agent import Agent, Refused

log = logging.getLogger(__name__)

_LARGEST_REQUEST: Final = 16 << 20
_REQUEST_SECONDS: Final = 5.0
_BACKLOG: Final = 512


async def serve(agent: Agent, run_dir: Path) -> None:
    """Serves until cancelled. Answers under way are given up: the runtime tries again."""
    path = run_dir / protocol.SOCKET
    server = await asyncio.start_unix_server(
        lambda reader, writer: _converse(agent, reader, writer), sock=_listen(path)
    )
    async with server:
        await server.serve_forever()


def _listen(path: Path) -> socket.socket:
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(new))
    new.chmod(0o600)
    listening.listen(_BACKLOG)
    listening.setblocking(False)
    new.rename(path)
    return listening


async def _converse(
    agent: Agent, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            request = await _read(reader)
        writer.write(await answer(agent, request))
        await writer.drain()
    except (OSError, TimeoutError) as error:
        log.info("a CNI call broke off", extra={"error": str(error)})
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader) -> bytes:
    parts, length = [], 0
    while part := await reader.read(1 << 16):
        parts.append(part)
        length += len(part)
        if length > _LARGEST_REQUEST:
            raise OSError("the request is larger than 16 MiB")
    return b"".join(parts)


async def answer(agent: Agent, request: bytes) -> bytes:
    """The reply to one request, in the version that it asks for."""
    version = ""
    try:
        call = protocol.decode(request)
        version = call.config.cni_version
        return await _verb(agent, call)
    except protocol.ProtocolError as error:
        return protocol.refusal(protocol.INVALID_CONFIG, str(error), version=version)
    except Refused as error:
        return _try_again(str(error), version)
    except Exception as error:
        # Whatever it is, the runtime needs an answer and a person needs the trace.
        if not isinstance(error, DatapathError):
            log.exception("CNI %s failed", call.command)
        return _try_again(str(error) or type(error).__name__, version)


async def _verb(agent: Agent, call: Call) -> bytes:
    match call.command:
        case "ADD":
            await agent.add(call)
        case "DEL":
            await agent.delete(call)
        case "GC":
            agent.collect(call)
        case "CHECK":
            if wrong := agent.check(call):
                return _try_again(wrong, call.config.cni_version)
        case other:
            raise protocol.ProtocolError(f"unknown command {other!r}")
    return protocol.OK


def _try_again(reason: str, version: str) -> bytes:
    message = f"static egress gateway: {reason}"
    return protocol.refusal(protocol.TRY_AGAIN, message, version=version)
