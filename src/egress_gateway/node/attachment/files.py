"""A folder of small JSON files that anybody may damage: each file is whole, or it counts as lost.

Nothing here trusts what it finds. A link, a folder, a pipe or too large a file in the place of one
of ours counts as none, and a write replaces it. What a lost file means is not decided here: never
that a pod is gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

from egress_gateway.datapath.linux.door import clear

_SUFFIX: Final = ".json"
_LARGEST: Final = 16 << 20
"""Bytes. Records of earlier plugins held all of a pod's annotations."""


class Damaged(Exception):
    """There is something at the file's place, and it is no file of ours; the text says what."""


class Folder:
    """Files are named by their stems. Blocking, but on a memory file system: microseconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._within = f"{path}/"  # to make a ``Path`` costs more than most calls of the kernel

    def file(self, stem: str) -> str:
        """Where the record of this stem is, or would be."""
        return f"{self._within}{stem}{_SUFFIX}"

    def stems(self) -> set[str]:
        """Of all files, damaged or not; none where the folder is lost."""
        try:
            found = os.listdir(self.path)
        except OSError:
            return set()
        return {n.removesuffix(_SUFFIX) for n in found if n.endswith(_SUFFIX) and n[0] != "."}

    def read(self, stem: str) -> bytes | None:
        """The file's content; None if it is not there. Raises ``Damaged``."""
        # NB: O_NONBLOCK, or a pipe that somebody put there would be waited for.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self.file(stem), flags)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Damaged(_words(error)) from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Damaged("it is not a file")
            if not 0 < status.st_size <= _LARGEST:
                raise Damaged("it is empty" if not status.st_size else "it is larger than 16 MiB")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(_LARGEST)
        except OSError as error:
            raise Damaged(_words(error)) from error
        finally:
            os.close(descriptor)

    def write(self, stem: str, content: bytes) -> None:
        """Puts the file in place, whole, whatever was there; root alone can read it. Makes the
        folder again if it is lost. Raises ``OSError`` and leaves nothing half-written."""
        path, new = self.file(stem), self.file(f".{stem}")
        try:
            self._write(new, content)
            os.replace(new, path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError):
            self.make()
            clear(Path(new))
            if not os.path.isfile(path) or os.path.islink(path):
                clear(Path(path))
            self._write(new, content)
            os.replace(new, path)

    def _write(self, new: str, content: bytes) -> None:
        # What is there already, a link above all, is not written through.
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while content:
                content = content[os.write(descriptor, content) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise
        finally:
            os.close(descriptor)

    def stamp(self, stem: str) -> tuple[int, int, int] | None:
        """Changes with the file: its inode, its time of change in nanoseconds, its size. None if
        it is not there."""
        try:
            status = os.lstat(self.file(stem))
        except OSError:
            return None
        return status.st_ino, status.st_ctime_ns, status.st_size

    def remove(self, stem: str) -> None:
        """Removes what is at the file's place. Raises ``OSError``."""
        clear(Path(self.file(stem)))

    def make(self) -> bool:
        """Makes the folder, root's alone, if it is not there. Returns whether it was not. Raises
        ``OSError``."""
        if self.path.is_dir() and not self.path.is_symlink():
            return False
        with contextlib.suppress(NotADirectoryError, FileNotFoundError):
            clear(self.path)
        if self.path.parent.exists() and not self.path.parent.is_dir():
            clear(self.path.parent)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        return True


def _words(error: OSError) -> str:
    return "a link is in its place" if error.errno == errno.ELOOP else error.strerror or str(error)
