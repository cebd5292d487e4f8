"""A unix socket that stays where its clients look for it.

Whoever listens never notices that the socket's file is gone: connections simply stop coming. So
the path is looked at as a client would, every second, and the socket is made again when it leads
nowhere: removed, replaced by a file or folder, or left by a process that has ended. A socket that
somebody else listens on stays while he answers: a later process of ours has taken over.

A container sees a folder of its host by a mount of that folder. When the folder itself is removed
or moved on the host, nothing that is made in the mount can be reached any more, and only a new
mount helps. That ends the process (``FolderLost``); its container is started again, mount and all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import stat
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

from egress_gateway.datapath.errors import DatapathError

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
SILENT_LOOKS: Final = 5
"""So long may somebody else who listens leave a question unanswered."""
_BACKLOG: Final = 512
"""Connections that may wait: a whole node's pods start at once."""
_MOUNTS: Final = Path("/proc/self/mountinfo")


class FolderLost(DatapathError):
    """The folder that clients look into is no longer the one that this process sees."""


class HostFolder:
    """A folder that others reach by its place on the host."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mounted_from = _mounted_from(path)

    def check(self) -> None:
        """Raises ``FolderLost``."""
        with contextlib.suppress(FileNotFoundError):
            # Deleted, though our mount still shows it: nothing can be made in there any more.
            if os.stat(self.path).st_nlink and _mounted_from(self.path) == self._mounted_from:
                return
        if self._mounted_from is not None:
            raise FolderLost(
                f"the folder {self.path} was removed or moved on the node, and this container "
                "still sees the old one; it ends so that the container starts with the new one"
            )

    async def watch(self) -> None:
        """For those who listen on no socket there: until cancelled. Raises ``FolderLost``."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.check()


class Door:
    """The socket ``path``. ``on_remade`` is called each time that it had to be made again."""

    def __init__(self, path: Path, *, on_remade: Callable[[], None] = lambda: None) -> None:
        self._path = path
        self._on_remade = on_remade
        self._folder = HostFolder(path.parent)
        self._own: tuple[int, int] | None = None
        self._question: socket.socket | None = None
        self._silent = 0
        """Looks in a row at which somebody else has not answered."""
        self.problem: str | None = f"socket {path} is not there yet"
        """Why clients cannot connect; None if they can."""

    async def serve(self, converse: Callable[[socket.socket], Awaitable[None]]) -> None:
        """Gives each connection to a task of ``converse``, which closes it; until cancelled.
        Raises ``OSError`` when the socket cannot be made at the start, and ``FolderLost``."""
        conversations: set[asyncio.Task[None]] = set()
        listening = self._open()
        accepting = asyncio.create_task(_accept(listening, converse, conversations))
        log.info("listening", extra={"socket": str(self._path)})
        try:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                fresh = self._look()
                if fresh is not None:
                    former, listening = listening, fresh
                    try:
                        await _end(accepting)
                    finally:
                        former.close()
                    accepting = asyncio.create_task(_accept(listening, converse, conversations))
        finally:
            try:
                await _end(accepting, *conversations)
            finally:
                listening.close()
                self._forget_question()

    def _look(self) -> socket.socket | None:
        """The socket that was made in place of one that could not be reached, if any was."""
        self._folder.check()
        if self._reached():
            self.problem = None
            return None
        try:
            fresh = self._open()
        except OSError as error:
            problem = f"socket {self._path} was lost and cannot be made again: {error.strerror}"
            if problem != self.problem:
                log.error("cannot make socket", extra={"socket": str(self._path), "error": problem})
            self.problem = problem
            return None
        log.warning("made lost socket again", extra={"socket": str(self._path)})
        self._on_remade()
        return fresh

    def _reached(self) -> bool:
        """Whether a client comes to us by the path, or to a later process of ours."""
        try:
            found = os.lstat(self._path)
        except OSError:
            return False
        if (found.st_dev, found.st_ino) == self._own:
            self._forget_question()
            return True
        return stat.S_ISSOCK(found.st_mode) and self._answered()

    def _answered(self) -> bool:
        """Whether somebody else who listens answers a request without content, or may still do so.
        All of ours answer it, or close the connection."""
        try:
            if self._question is None:
                self._question = _ask(self._path)
            else:
                self._question.recv(1)
                self._forget_question()
                return True
        except BlockingIOError:
            pass
        except OSError:
            self._forget_question()
            return False
        self._silent += 1
        return self._silent <= SILENT_LOOKS

    def _forget_question(self) -> None:
        if self._question is not None:
            self._question.close()
        self._question, self._silent = None, 0

    def _open(self) -> socket.socket:
        """Binds under another name first, so that no client finds a socket that does not listen."""
        new = self._path.with_name(f".{self._path.name}.new")
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        clear(new)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(str(new))
            new.chmod(0o600)
            listening.listen(_BACKLOG)
            listening.setblocking(False)
            bound = new.lstat()
            if not self._path.is_socket():
                clear(self._path)
            new.rename(self._path)
        except BaseException:
            listening.close()
            raise
        self._own, self.problem = (bound.st_dev, bound.st_ino), None
        self._forget_question()
        return listening


def _ask(path: Path) -> socket.socket:
    """Raises ``BlockingIOError`` when the backlog is full, or another ``OSError``."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        client.connect(str(path))
        client.shutdown(socket.SHUT_WR)
    except BaseException:
        client.close()
        raise
    return client


async def _accept(
    listening: socket.socket,
    converse: Callable[[socket.socket], Awaitable[None]],
    conversations: set[asyncio.Task[None]],
) -> None:
    async def talk(connection: socket.socket, begun: list[bool]) -> None:
        begun.append(True)
        await converse(connection)

    # NB: loop.sock_accept loses a connection whose accept is cancelled as it comes in.
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    number = listening.fileno()  # who cancels us may have closed the socket already
    loop.add_reader(number, readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            try:
                connection, _ = listening.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                # Out of descriptors or memory, or the client is gone again. The socket stays
                # readable meanwhile and would keep the loop busy.
                log.warning("cannot accept connection", extra={"error": str(error)})
                loop.remove_reader(number)
                await asyncio.sleep(LOOK_SECONDS)
                loop.add_reader(number, readable.set)
                continue
            connection.setblocking(False)
            begun: list[bool] = []
            task = asyncio.create_task(talk(connection, begun))
            conversations.add(task)
            task.add_done_callback(conversations.discard)
            task.add_done_callback(partial(_close_unheard, connection, begun))
    finally:
        loop.remove_reader(number)


def _close_unheard(connection: socket.socket, begun: list[bool], _: asyncio.Task[None]) -> None:
    """For a conversation that was cancelled before it began."""
    if not begun:
        connection.close()


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def clear(path: Path) -> None:
    """Removes whatever is at ``path``, if anything."""
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        shutil.rmtree(path)


def _mounted_from(folder: Path) -> str | None:
    """Where on its file system the folder is that is mounted there (proc(5), mountinfo); None if
    the folder is no mount of its own. The kernel follows when somebody moves that place, and
    marks it when he removes it."""
    try:
        lines = _MOUNTS.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    name = str(folder).replace(" ", "\\040")
    found = [fields[3] for line in lines if (fields := line.split(" ", 5))[4] == name]
    return found[-1] if found else None
