"""Which of a node's agents may change its CNI chain: the one that started last.

While a DaemonSet rolls, an old and a new agent can run side by side, and each would put its own
plugin and settings back as soon as the other had changed them. Whoever starts claims the node; all
earlier claims end with that, and do not come back when the later agent dies: it is started again.

A file holds the claim, and a lock (flock(2)) is held while the chain is changed, so that nobody
writes after he has lost it. The kernel lets go of the lock when its process dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FILE: Final = "installer"
_LONGEST: Final = 64


class Tenure:
    """A claim to the node whose run directory is ``folder``. Raises ``OSError``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._token = secrets.token_hex(16).encode()
        folder.mkdir(parents=True, exist_ok=True)
        with self._locked() as file:
            # In place: a file of another name would be another lock.
            os.pwrite(file, self._token, 0)
            os.ftruncate(file, len(self._token))

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Whether the claim still stands. No later one is made before the block ends."""
        with self._locked() as file:
            yield os.pread(file, _LONGEST, 0) == self._token

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)
