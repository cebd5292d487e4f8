"""AKS's LocalDNS on a node of the lab: a resolver on two link-local addresses of the node's own.

Pods of policy ClusterFirst ask 169.254.10.11, the node itself asks 169.254.10.10; both questions
are passed on to the lab's DNS as they are. The addresses mean something else on every node, so
whoever sends them into a tunnel resolves nothing.
https://learn.microsoft.com/azure/aks/localdns-custom
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final, Protocol

NODE_RESOLVER: Final = IPv4Address("169.254.10.10")
POD_RESOLVER: Final = IPv4Address("169.254.10.11")
_PORT: Final = 53
_SECONDS: Final = 5.0
"""How long an answer is waited for; who asked asks again himself."""
_SOURCE: Final = str(Path(__file__).resolve().parents[1])
_PROGRAM: Final = (
    "import sys; sys.path.insert(0, sys.argv.pop(1));"
    "from egress_gateway_lab.localdns import main; main(sys.argv[1])"
)


class Host(Protocol):
    """A node of the lab on which commands run."""

    async def run(self, argv: list[str]) -> Any: ...


async def start(machine: Host, upstream: str) -> str:
    """Starts the resolver on a machine; returns when it answers, with what went wrong ("" if
    nothing did). ``upstream``: address of the DNS that it asks."""
    for address in (NODE_RESOLVER, POD_RESOLVER):
        done = await machine.run(["ip", "address", "replace", f"{address}/32", "dev", "lo"])
        if done.code:
            return str(done.stderr.decode(errors="replace").strip())
    done = await machine.run([sys.executable, "-I", "-S", "-c", _PROGRAM, _SOURCE, upstream])
    return str(done.stderr.decode(errors="replace").strip()) if done.code else ""


def main(upstream: str) -> None:
    """Listens, then goes on in the background: who started it knows that it answers."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(_listen(upstream))
    if os.fork():
        os._exit(0)
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    loop.run_forever()


async def _listen(upstream: str) -> None:
    loop = asyncio.get_running_loop()
    for address in (NODE_RESOLVER, POD_RESOLVER):
        await loop.create_datagram_endpoint(
            lambda: _Questions(upstream), local_addr=(str(address), _PORT)
        )
        await asyncio.start_server(
            lambda reader, writer: _stream(reader, writer, upstream), str(address), _PORT
        )


class _Questions(asyncio.DatagramProtocol):
    """Each question is asked upstream by a socket of its own, so answers cannot be confused."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._transport: Any = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        task = asyncio.get_running_loop().create_task(self._ask(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, data: bytes, addr: tuple[str, int]) -> None:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Answer(answer), remote_addr=(self._upstream, _PORT)
        )
        try:
            transport.sendto(data)
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(_SECONDS):
                    self._transport.sendto(await answer, addr)
        finally:
            transport.close()


class _Answer(asyncio.DatagramProtocol):
    def __init__(self, answer: asyncio.Future[bytes]) -> None:
        self._answer = answer

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if not self._answer.done():
            self._answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc)


async def _stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: str
) -> None:
    try:
        async with asyncio.timeout(_SECONDS):
            theirs, ours = await asyncio.open_connection(upstream, _PORT)
            try:
                await asyncio.gather(_pipe(reader, ours), _pipe(theirs, writer))
            finally:
                ours.close()
    except (OSError, TimeoutError):
        pass  # who asked asks again
    finally:
        writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(4096):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
