"""The real API server's port on the host's loopback.

kube-apiserver listens inside the lab alone. The lab's process holds a socket that was opened
on the host's loopback, and carries bytes between the two; TLS goes through untouched.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final

_CHUNK: Final = 65536


class Relay:
    """Carries every connection to ``target``; refuses while there is none (closes at once)."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.target: tuple[str, int] | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._listening)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.drop()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def drop(self) -> None:
        """Ends what is connected."""
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.target is not None:
                await self._carry(self.target, reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # either side went away, or we do
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _carry(
        self,
        target: tuple[str, int],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        there, back = await asyncio.open_connection(*target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, back))
                group.create_task(_copy(there, writer))
        except* OSError:
            pass
        finally:
            back.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK):
        writer.write(chunk)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
