"""Which of a node's agents may change its CNI chain: the one that started last.

While a DaemonSet rolls, an old and a new agent can run side by side, and each would put its own
plugin and settings back as soon as the other had changed them. An agent claims the node when it
starts. This ends all earlier claims, and they do not come back when the later agent dies: it is
started again. A claim says when it was made, so that the latest wins even if the file is lost
meanwhile.

A file holds the claim. An agent holds a lock (flock(2)) while it changes the chain, so that it
cannot write after it has lost the claim. The kernel lets go of the lock when its process dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FILE: Final = "installer"
_LONGEST: Final = 128


class Tenure:
    """A claim to the node whose run directory is ``folder``. If the claim cannot be made at
    once, ``held`` makes it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._since = _now()
        self._token = f"{self._since} {secrets.token_hex(16)}".encode()
        with contextlib.suppress(OSError), self.held():
            pass

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Whether the claim still stands. No other agent can make one before the block ends. If the
        file or its content was lost, the claim is made again. Raises ``OSError``."""
        with self._locked() as file:
            if _since(os.pread(file, _LONGEST, 0)) <= self._since:
                # In place: a file of another name would be another lock.
                os.pwrite(file, self._token, 0)
                os.ftruncate(file, len(self._token))
            yield os.pread(file, _LONGEST, 0) == self._token

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_file_or_absent(self._path):
            _clear(self._path)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)


def _now() -> int:
    """Nanoseconds since the machine booted: the same clock for all its containers."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _since(content: bytes) -> int:
    """When the claim was made; -1 for what is none: cut off, or from the future."""
    first, _, token = content.partition(b" ")
    if not first.isdigit() or not token:
        return -1
    return since if (since := int(first)) <= _now() else -1


def _is_file_or_absent(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return True


def _clear(path: Path) -> None:
    """Something that is no file of ours is in the way."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
