"""Network namespaces: open, make, remove, and run something inside one.

``NetNS.run`` never lets a namespace leak into another thread: each call has a thread of its own
that enters the namespace, runs the function and ends. Such a thread enters others by itself, and
comes back. A socket stays in the namespace it was opened in, so long-lived users open theirs inside
``run`` and use it from anywhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from egress_gateway.datapath.errors import DatapathError, KernelRefused, NoSuchNamespace

T = TypeVar("T")

DIRECTORY: Final = Path("/run/netns")
"""Where named namespaces are mounted, as iproute2 and container runtimes have it."""

_CLONE_NEWNET: Final = 0x40000000
_NS_GET_NSTYPE: Final = 0xB703
_MS_BIND: Final = 4096
_MNT_DETACH: Final = 2
# os.setns and os.unshare exist from Python 3.12 on.
_libc: Final = ctypes.CDLL(None, use_errno=True)
_inside: Final = threading.local()
"""``identity`` of the namespace that a thread is known to be in, and whether it is ``ours``, made
for one call."""


class NetNS:
    """An open network namespace. It lives at least as long as this object is open."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self.path = path

    @classmethod
    def open(cls, where: str | Path | int) -> NetNS:
        """By path, or by the id of a process in it. Raises ``NoSuchNamespace``."""
        path = f"/proc/{where}/ns/net" if isinstance(where, int) else str(where)
        try:
            # NB: O_NONBLOCK, or a pipe in its place would be waited for.
            found = cls(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NoSuchNamespace(f"network namespace {path} does not exist") from error
        if not _of_networks(found.fileno()):
            found.close()
            raise NoSuchNamespace(f"{path} is no network namespace: nothing is mounted there")
        return found

    @classmethod
    def current(cls) -> NetNS:
        """The calling thread's namespace."""
        return cls.open("/proc/thread-self/ns/net")

    @property
    def identity(self) -> tuple[int, int]:
        """(device, inode): equal for two paths to the same namespace."""
        status = os.fstat(self._descriptor)
        return status.st_dev, status.st_ino

    def fileno(self) -> int:
        """For ``setns`` and for netlink's ``IFLA_NET_NS_FD``; valid until ``close``."""
        return self._descriptor

    def run(self, function: Callable[[], T]) -> T:
        """Runs ``function`` inside the namespace and returns or raises what it does. A thread
        that is inside already, or of ours, goes on itself: many steps cost one thread."""
        if getattr(_inside, "identity", None) == self.identity:
            return function()
        if not getattr(_inside, "ours", False):
            return self.start(function)()
        with NetNS.current() as before:
            _enter(self)
            try:
                return function()
            finally:
                try:
                    _enter(before)
                except KernelRefused as error:
                    # Of a kind that nobody expects: this thread must not go on where it is.
                    raise RuntimeError(str(error)) from error

    def start(self, function: Callable[[], T]) -> Callable[[], T]:
        """Begins ``function`` inside the namespace, in a thread of its own; what is returned waits
        for its end, and returns or raises what it does. To be called, whatever happens."""
        call = _Call(self, function)
        thread = threading.Thread(target=call, name="netns", daemon=True)
        thread.start()

        def outcome() -> T:
            thread.join()
            return call.outcome()

        return outcome

    def close(self) -> None:
        """May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        # A backend or a pod's side keeps one for its life, and has no end to close it at.
        self.close()

    def __enter__(self) -> NetNS:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Call(Generic[T]):
    def __init__(self, netns: NetNS, function: Callable[[], T]) -> None:
        self._netns = netns
        self._function = function
        self._result: list[T] = []
        self._error: BaseException | None = None

    def __call__(self) -> None:
        try:
            _enter(self._netns)
            _inside.ours = True
            self._result.append(self._function())
        except BaseException as error:
            self._error = error

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result[0]


def _enter(netns: NetNS) -> None:
    """For threads of ours alone."""
    _call("entering", _libc.setns(netns.fileno(), _CLONE_NEWNET), netns.path)
    _inside.identity = netns.identity


def here() -> NetNS:
    """The calling thread's namespace, which this thread then uses as it is: to enter one's own
    takes a right (CAP_SYS_ADMIN, setns(2)) that an ordinary pod does not have."""
    found = NetNS.current()
    _inside.identity = found.identity
    return found


def enter_new() -> None:
    """Puts the calling thread, which should end soon, into a namespace of its own."""
    _call("unsharing", _libc.unshare(_CLONE_NEWNET), "(new)")


def create(name: str, *, directory: Path = DIRECTORY) -> NetNS:
    """Makes a named namespace (as ``ip netns add``), or opens the one that exists."""
    path = directory / name
    if exists(name, directory=directory):
        return NetNS.open(path)
    directory.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o444, exist_ok=True)
    failure: list[BaseException] = []

    def make() -> None:
        try:
            enter_new()
            source = b"/proc/thread-self/ns/net"
            result = _libc.mount(source, os.fsencode(path), b"none", _MS_BIND, None)
            _call("mounting", result, str(path))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=make, name="netns-create", daemon=True)
    thread.start()
    thread.join()
    if failure:
        with contextlib.suppress(OSError):
            path.unlink()
        raise failure[0]
    return NetNS.open(path)


def exists(name: str, *, directory: Path = DIRECTORY) -> bool:
    """Whether a namespace (not just an empty file) is mounted under ``name``."""
    return is_namespace(directory / name)


def is_namespace(path: Path) -> bool:
    """Whether ``path`` leads to a network namespace. A file left by a reboot does not."""
    try:
        with NetNS.open(path):
            return True
    except (NoSuchNamespace, OSError):
        return False


def _of_networks(descriptor: int) -> bool:
    """Whether it is a namespace, and of networks (ioctl_ns(2))."""
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False


def delete(name: str, *, directory: Path = DIRECTORY) -> None:
    """Unmounts and removes a named namespace. Nothing happens if there is none."""
    path = directory / name
    _libc.umount2(os.fsencode(path), _MNT_DETACH)
    path.unlink(missing_ok=True)


def write_sysctl(netns: NetNS, name: str, value: str) -> bool:
    """Sets ``name`` (``net/ipv4/ip_forward``) inside the namespace if it differs.

    Returns whether it had to be changed. A key the kernel does not have (IPv6 disabled) is
    skipped.
    """
    path = Path("/proc/sys", name)

    def write() -> bool:
        try:
            if path.read_text().strip() == value:
                return False
            path.write_text(value)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise DatapathError(
                f"sysctl {name}={value} in {netns.path}: {error.strerror}; "
                "run with a writable /proc/sys (privileged on Kubernetes)"
            ) from error
        return True

    return netns.run(write)


def read_sysctl(netns: NetNS, name: str) -> str | None:
    """The value of ``name`` inside the namespace; None if the kernel has no such key."""

    def read() -> str | None:
        try:
            return Path("/proc/sys", name).read_text().strip()
        except FileNotFoundError:
            return None

    return netns.run(read)


def _call(doing: str, result: int, path: str) -> None:
    if result != 0:
        raise KernelRefused(f"{doing} network namespace {path}", ctypes.get_errno())
