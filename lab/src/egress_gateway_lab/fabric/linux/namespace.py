"""Network namespaces entered by threads made for it.

NB: ``setns`` changes one thread for good, so it happens only in threads that end afterwards; the
event loop's thread and the executors' threads never change namespace.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

_CLONE_NEWNET: Final = 0x40000000
_T = TypeVar("_T")


class NamespaceError(Exception):
    """A namespace could not be made or entered."""


class Namespace:
    """A network namespace held open by a file descriptor; it ends with its last holder."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def create(cls) -> Namespace:
        """A new, empty namespace; its loopback is down."""

        def unshare() -> Namespace:
            _check(_libc().unshare(_CLONE_NEWNET), "unshare(CLONE_NEWNET)")
            return cls(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

        return in_thread(unshare)

    @classmethod
    def of_process(cls, pid: int) -> Namespace:
        """The namespace that the process is in now. Raises ``NamespaceError``."""
        try:
            return cls(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise NamespaceError(f"no network namespace of process {pid}: {error}") from error

    @property
    def descriptor(self) -> int:
        return self._descriptor

    @property
    def path(self) -> Path:
        """For ``nsenter --net=``, while this process lives."""
        return Path(f"/proc/{os.getpid()}/fd/{self._descriptor}")

    def run(self, function: Callable[[], _T]) -> _T:
        """Calls ``function`` in a thread of this namespace and returns what it returns."""

        def enter() -> _T:
            _check(_libc().setns(self._descriptor, _CLONE_NEWNET), "setns")
            return function()

        return in_thread(enter)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def in_thread(function: Callable[[], _T]) -> _T:
    """Calls ``function`` in a thread of its own; its exception is raised here."""
    results: list[_T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, name="namespace", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def write_sysctl(name: str, value: int) -> None:
    """Sets ``net.<name>`` in the calling thread's namespace; ``name`` has slashes."""
    Path("/proc/sys/net", name).write_text(f"{value}\n")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, call: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise NamespaceError(f"{call}: {os.strerror(code)}: is this process root?")
