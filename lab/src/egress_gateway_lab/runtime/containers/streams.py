"""Ends of pipes and terminals that the lab holds while a process on a machine holds the others.

Reading and writing never block the event loop; an end that was closed reads as empty.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
import termios
import tty
from dataclasses import dataclass


class Stream:
    """Our end of one pipe or terminal. Closing twice is harmless."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._closed = asyncio.Event()

    async def read(self) -> bytes:
        """The next bytes; empty at the end, or when closed by us."""
        while not self._closed.is_set():
            try:
                return os.read(self._fd, 65536)
            except BlockingIOError:
                await self._ready(write=False)
            except OSError as error:
                if error.errno == errno.EIO:  # a terminal whose other side is gone
                    return b""
                raise
        return b""

    async def write(self, chunk: bytes) -> None:
        """Writes all of ``chunk``; what nobody reads any more is dropped."""
        view = memoryview(chunk)
        while view and not self._closed.is_set():
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await self._ready(write=True)
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.EIO):
                    return
                raise

    async def _ready(self, *, write: bool) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        closed = asyncio.ensure_future(_event(self._closed))

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        if write:
            loop.add_writer(self._fd, wake)
        else:
            loop.add_reader(self._fd, wake)
        try:
            await asyncio.wait({future, closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()
            if write:
                loop.remove_writer(self._fd)
            else:
                loop.remove_reader(self._fd)

    def resize(self, columns: int, rows: int) -> None:
        """Tells a terminal its size."""
        if not self._closed.is_set():
            fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            os.close(self._fd)


async def _event(event: asyncio.Event) -> None:
    await event.wait()


@dataclass(slots=True)
class Stdio:
    """Both sides of a process's standard streams. With a terminal all three are the terminal and
    ``stderr`` is None."""

    theirs: tuple[int, int, int]
    stdin: Stream | None
    stdout: Stream
    stderr: Stream | None

    def release(self) -> None:
        """Closes the process's side here, once the process has it."""
        for fd in set(self.theirs):
            os.close(fd)

    def close(self) -> None:
        """Closes our side."""
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()


def open_stdio(*, stdin: bool, terminal: bool) -> Stdio:
    """Streams for a process to be. Without ``stdin`` it reads end-of-file."""
    if terminal:
        ours, theirs = os.openpty()
        screen = Stream(ours)
        if not stdin:
            tty.setcbreak(theirs)
        return Stdio((theirs, theirs, theirs), screen, screen, None)
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    err_read, err_write = os.pipe2(os.O_CLOEXEC)
    if stdin:
        in_read, in_write = os.pipe2(os.O_CLOEXEC)
        source: Stream | None = Stream(in_write)
    else:
        in_read = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        source = None
    return Stdio((in_read, out_write, err_write), source, Stream(out_read), Stream(err_read))
