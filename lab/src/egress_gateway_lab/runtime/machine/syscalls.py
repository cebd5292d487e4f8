"""The system calls that a machine's init needs and Python 3.11 does not offer.

Every function raises ``OSError`` that names the call and its object. Numbers are those of
``asm-generic/unistd.h``, which x86-64 and arm64 share for calls newer than Linux 5.1.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2

PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(platform.machine(), 155)
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_AT_FDCWD = -100
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_AT_RECURSIVE = 0x8000
_MOVE_MOUNT_F_EMPTY_PATH = 4
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

# capability.h, in order of their numbers.
_CAPABILITY_NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO "
    "SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG "
    "WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
CAPABILITIES = _CAPABILITY_NAMES.split()

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, call: str, target: str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}", target)
    return result


def unshare(flags: int) -> None:
    """Moves the caller into new namespaces (``CLONE_NEWPID``: its next children)."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare", hex(flags))


def setns(fd: int, kind: int) -> None:
    """Joins the namespace behind ``fd``; ``kind`` is its ``CLONE_NEW…`` flag."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns", hex(kind))


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    done = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode(),
        ctypes.c_ulong(flags),
        options.encode() if options else None,
    )
    _check(done, "mount", target)


def propagation(target: str, flags: int) -> None:
    """Changes how mounts below ``target`` travel between namespaces."""
    _check(
        _libc.mount(b"none", target.encode(), None, ctypes.c_ulong(flags), None),
        "mount",
        target,
    )


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Bind mounts one mount (not those below it)."""
    mount(source, target, "none", MS_BIND)
    if read_only:
        mount("none", target, "none", MS_REMOUNT | MS_BIND | MS_RDONLY)


def umount(target: str) -> None:
    """Detaches a mount lazily: users keep it until they let go."""
    _check(_libc.umount2(target.encode(), ctypes.c_int(MNT_DETACH)), "umount", target)


def pivot_root(new_root: str) -> None:
    """Makes ``new_root`` (a mount) the root and detaches the old one."""
    os.chdir(new_root)
    _check(_libc.syscall(ctypes.c_long(_PIVOT_ROOT), b".", b"."), "pivot_root", new_root)
    umount(".")
    os.chdir("/")


def clone_tree(path: str) -> int:
    """A detached copy of the mounts at ``path``, still a peer of the original if that is shared."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE
    return _check(
        _libc.syscall(ctypes.c_long(_OPEN_TREE), _AT_FDCWD, path.encode(), ctypes.c_uint(flags)),
        "open_tree",
        path,
    )


def attach_tree(fd: int, target: str) -> None:
    """Mounts what ``clone_tree`` gave at ``target``."""
    _check(
        _libc.syscall(
            ctypes.c_long(_MOVE_MOUNT),
            ctypes.c_int(fd),
            b"",
            _AT_FDCWD,
            target.encode(),
            ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH),
        ),
        "move_mount",
        target,
    )


def sethostname(name: str) -> None:
    """Names the UTS namespace."""
    encoded = name.encode()[:64]
    _check(_libc.sethostname(encoded, ctypes.c_size_t(len(encoded))), "sethostname", name)


def prctl(option: int, first: int = 0, second: int = 0) -> None:
    """prctl(2) with up to two arguments."""
    _check(
        _libc.prctl(
            ctypes.c_int(option),
            ctypes.c_ulong(first),
            ctypes.c_ulong(second),
            ctypes.c_ulong(0),
            ctypes.c_ulong(0),
        ),
        "prctl",
        str(option),
    )


def bound_capabilities(kept: frozenset[str]) -> None:
    """No program started from here on gains a capability that is not in ``kept``; what this
    process has stays until ``limit_capabilities`` or a change of user."""
    for number, name in enumerate(CAPABILITIES):
        if name in kept:
            continue
        try:
            prctl(PR_CAPBSET_DROP, number)
        except OSError:  # an older kernel does not know the last ones
            break
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def limit_capabilities(kept: frozenset[str]) -> None:
    """Gives up every capability that is not in ``kept``, for this process and all it starts."""
    bound_capabilities(kept)
    mask = sum(1 << number for number, name in enumerate(CAPABILITIES) if name in kept)
    header = struct.pack("<Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    sets = struct.pack("<6I", low, low, 0, high, high, 0)
    _check(_libc.capset(header, sets), "capset")


def loopback_up() -> None:
    """Brings ``lo`` of the current network namespace up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
