"""A node runtime of one trick: it echoes. For the streams of the API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from egress_gateway_lab.protocols import ContainerRef, LogOptions


class EchoSession:
    """``echo WORDS`` writes them; ``cat`` returns its input; ``exit N`` ends so; ``size`` prints
    the terminal's size once it is told; ``sleep`` waits to be killed."""

    def __init__(self, command: list[str]) -> None:
        self._out: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        self._command = command
        self._code = 0
        self.killed = asyncio.Event()
        match command:
            case ["echo", *words]:
                self._out.put_nowait((1, (" ".join(words) + "\n").encode()))
                self._out.put_nowait((2, b"to stderr\n"))
                self._out.put_nowait(None)
            case ["exit", code]:
                self._code = int(code)
                self._out.put_nowait(None)
            case ["attached"]:
                self._code = 3
                self._out.put_nowait((1, b"attached\n"))
                self._out.put_nowait(None)

    async def read(self) -> tuple[int, bytes] | None:
        return await self._out.get()

    async def write(self, chunk: bytes) -> None:
        if self._command == ["cat"]:
            self._out.put_nowait((1, chunk))

    async def close_stdin(self) -> None:
        self._out.put_nowait(None)

    async def resize(self, columns: int, rows: int) -> None:
        if self._command == ["size"]:
            self._out.put_nowait((1, f"{columns}x{rows}\n".encode()))
            self._out.put_nowait(None)

    async def wait(self) -> int:
        return self._code

    async def kill(self) -> None:
        self.killed.set()
        self._out.put_nowait(None)


class EchoRuntime:
    """``protocols.PodRuntime``; every container runs except one named ``broken``."""

    def __init__(self) -> None:
        self.sessions: list[EchoSession] = []

    async def exec(
        self, at: ContainerRef, command: list[str], *, stdin: bool, tty: bool
    ) -> EchoSession:
        if at.container == "broken":
            raise LookupError(f"container {at.container} of {at.namespace}/{at.pod} does not run")
        session = EchoSession(command)
        self.sessions.append(session)
        return session

    async def attach(self, at: ContainerRef, *, stdin: bool, tty: bool) -> EchoSession:
        return EchoSession(["attached"])

    async def logs(self, at: ContainerRef, options: LogOptions) -> AsyncIterator[bytes]:
        if at.container == "broken":
            raise LookupError(f"container {at.container} of {at.namespace}/{at.pod} has no log")
        lines = [b"one\n", b"two\n", b"three\n"]
        for line in lines[-options.tail_lines :] if options.tail_lines else lines:
            yield line
