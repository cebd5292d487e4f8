"""``exec`` and ``attach``: a process's streams for one person (``protocols.ExecSession``)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Mapping

from egress_gateway_lab.protocols import ExecSession
from egress_gateway_lab.runtime.containers.containers import Container
from egress_gateway_lab.runtime.containers.streams import Stdio, Stream, open_stdio
from egress_gateway_lab.runtime.nodes.node import MachineError, Node, Process

Chunk = tuple[int, bytes]

_QUIET = 0.5


class Session:
    """Streams of a process. ``read`` gives None once, when everything has been read."""

    def __init__(
        self,
        process: Process,
        output: asyncio.Queue[Chunk | None],
        stdin: Stream | None,
        *,
        owned: Stdio | None,
        container: Container | None = None,
    ) -> None:
        self._process = process
        self._output = output
        self._stdin = stdin
        self._owned = owned
        self._container = container
        self._pump: asyncio.Task[None] | None = None
        self._copied = 0
        if owned is not None:
            self._pump = asyncio.create_task(self._collect(owned))

    async def _collect(self, stdio: Stdio) -> None:
        async def copy(number: int, stream: Stream | None) -> None:
            while stream is not None and (chunk := await stream.read()):
                await self._output.put((number, chunk))
                self._copied += 1

        copies = asyncio.create_task(_both(copy(1, stdio.stdout), copy(2, stdio.stderr)))
        ended = asyncio.create_task(_finish(self._process))
        try:
            await asyncio.wait({copies, ended}, return_when=asyncio.FIRST_COMPLETED)
            # A background process may hold the pipe open for ever: once nothing comes any more,
            # it is not waited for. A reader that is slow (a full queue) is.
            seen = -1
            while not copies.done() and (seen != self._copied or self._output.full()):
                seen = self._copied
                await asyncio.wait({copies}, timeout=_QUIET)
        finally:
            copies.cancel()
            ended.cancel()
            await asyncio.gather(copies, ended, return_exceptions=True)
            await self._output.put(None)

    async def read(self) -> Chunk | None:
        return await self._output.get()

    async def write(self, chunk: bytes) -> None:
        if self._stdin is not None:
            await self._stdin.write(chunk)

    async def close_stdin(self) -> None:
        """End of input. On a terminal that is what the line discipline makes of Ctrl-D."""
        if self._stdin is None:
            return
        if self._owned is not None and self._stdin is self._owned.stdout:
            await self._stdin.write(b"\x04")
        elif self._owned is not None:
            self._stdin.close()
        elif self._container is not None and self._container.spec.get("stdinOnce"):
            if self._container.spec.get("tty"):
                await self._stdin.write(b"\x04")
            else:
                self._stdin.close()

    async def resize(self, columns: int, rows: int) -> None:
        if self._stdin is not None:
            self._stdin.resize(columns, rows)

    async def wait(self) -> int:
        """Exit code. Frees what an exec held."""
        code = await self._process.wait()
        if self._owned is not None and self._pump is not None:
            await asyncio.gather(self._pump, return_exceptions=True)
            self._owned.close()
        return code

    async def kill(self) -> None:
        """The person has gone: an exec's process ends, an attached container goes on."""
        if self._container is not None:
            self._container.attached.discard(self._output)
            await self._output.put(None)
            await self.close_stdin()
            return
        await self._process.send_signal(signal.SIGHUP)
        await self._process.send_signal(signal.SIGKILL)
        await self.wait()


class Refused:
    """A command that could not be started, told as container runtimes tell it."""

    def __init__(self, message: str) -> None:
        self._left: list[Chunk] = [(2, message.encode())]

    async def read(self) -> Chunk | None:
        return self._left.pop() if self._left else None

    async def write(self, chunk: bytes) -> None:
        """Nobody reads it."""

    async def close_stdin(self) -> None:
        """There is none."""

    async def resize(self, columns: int, rows: int) -> None:
        """There is no terminal."""

    async def wait(self) -> int:
        return 126

    async def kill(self) -> None:
        """Nothing runs."""


async def execute(
    node: Node,
    container: Container,
    command: list[str],
    env: Mapping[str, str],
    *,
    stdin: bool,
    tty: bool,
) -> ExecSession:
    """Starts a command in a running container. Raises ``LookupError`` when it does not run; a
    command that cannot be started says why on its standard error, and ends with 126."""
    if container.process is None or not container.process.running:
        raise LookupError(f'container "{container.name}" is not running')
    stdio = open_stdio(stdin=stdin or tty, terminal=tty)
    extra = {"TERM": "xterm"} if tty else {}
    try:
        process = await node.spawn(
            command,
            stdio,
            env={**env, **container.env, **extra},
            cwd=container.spec.get("workingDir") or "/",
            within=container.process,
            terminal=tty,
        )
    except BaseException as error:
        stdio.close()
        if isinstance(error, MachineError):
            return Refused(f"exec failed: unable to start container process: {error}\n")
        raise
    return Session(process, asyncio.Queue(256), stdio.stdin, owned=stdio)


def attach(container: Container, *, stdin: bool) -> Session:
    """Joins a container's own streams. Raises ``LookupError`` when it does not run."""
    process, stdio = container.process, container.stdio
    if process is None or stdio is None or not process.running:
        raise LookupError(f'container "{container.name}" is not running')
    output: asyncio.Queue[Chunk | None] = asyncio.Queue()
    container.attached.add(output)
    source = stdio.stdin if stdin and container.spec.get("stdin") else None
    return Session(process, output, source, owned=None, container=container)


async def _both(first: Awaitable[None], second: Awaitable[None]) -> None:
    await asyncio.gather(first, second)


async def _finish(process: Process) -> None:
    await process.wait()
