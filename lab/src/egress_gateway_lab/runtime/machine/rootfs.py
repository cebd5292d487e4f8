"""Root file systems: the host's files, readable; every write into memory.

A machine's root is an overlay over the host's root whose upper half is a tmpfs, so programs of the
host (shell, curl, this Python) run unchanged and nothing reaches the host's disk. ``/run``,
``/tmp``, ``/dev``, ``/proc`` and ``/sys`` are the machine's own. ``/.lab/host`` inside a machine is
the host's root, read-only: what containers' roots are laid over in turn, so that a container sees
neither its machine's files nor deeper stacks of overlays than the kernel allows (two).
"""

from __future__ import annotations

import contextlib
import os
import stat

from egress_gateway_lab.runtime.machine import syscalls as sc

HOST = "/.lab/host"
SCRATCH = "/.lab/scratch"

# Not on a disk, or the kernel's own: never part of a root file system.
_PSEUDO_NAMES = (
    "autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fuse.lxcfs "
    "fusectl hugetlbfs mqueue nsfs proc pstore ramfs rpc_pipefs securityfs sysfs tmpfs tracefs "
    "overlay squashfs"
)
_PSEUDO = frozenset(_PSEUDO_NAMES.split())
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
# What a node of a cluster keeps there is this machine's, not the host's.
_OWN_DIRECTORIES = ("/etc/cni", "/opt/cni", "/var/lib/cni", "/var/lib/kubelet", "/var/log/pods")


def disk_mounts(mountinfo: str) -> list[str]:
    """Mount points below ``/`` that hold files of a disk, parents first (proc(5), mountinfo)."""
    points = set()
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4].replace("\\040", " ")
        if point != "/" and right.split()[0] not in _PSEUDO:
            points.add(point)
    return sorted(points)


def resolve(root: str, path: str) -> str:
    """``path`` below ``root`` with symbolic links followed as if ``root`` were ``/``."""
    parts = [part for part in path.split("/") if part]
    done: list[str] = []
    links = 0
    while parts:
        part = parts.pop(0)
        if part in (".", ".."):
            if part == ".." and done:
                done.pop()
            continue
        here = "/".join((root, *done, part))
        if os.path.islink(here):
            links += 1
            if links > 40:
                raise OSError(40, "too many symbolic links", path)
            target = os.readlink(here)
            if target.startswith("/"):
                done = []
            parts[:0] = [piece for piece in target.split("/") if piece]
            continue
        done.append(part)
    return "/".join((root, *done))


def mount_point(root: str, target: str, *, directory: bool) -> str:
    """The path of ``target`` below ``root``, created if it is missing."""
    path = resolve(root, target)
    if directory:
        os.makedirs(path, exist_ok=True)
    elif not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    return path


def _tmpfs(root: str, target: str, mode: str, flags: int = sc.MS_NOSUID | sc.MS_NODEV) -> str:
    path = mount_point(root, target, directory=True)
    sc.mount("tmpfs", path, "tmpfs", flags, f"mode={mode}")
    return path


def _devices(root: str, *, source: str, tun: bool) -> None:
    dev = _tmpfs(root, "/dev", "0755", sc.MS_NOSUID)
    names = [*_DEVICES, "net/tun"] if tun else list(_DEVICES)
    for name in names:
        origin = f"{source}/{name}"
        if os.path.exists(origin):
            target = mount_point(dev, name, directory=False)
            sc.mount(origin, target, "none", sc.MS_BIND)
    for name, target in _LINKS.items():
        os.symlink(target, f"{dev}/{name}")
    os.mkdir(f"{dev}/pts")
    sc.mount("devpts", f"{dev}/pts", "devpts", sc.MS_NOSUID, "newinstance,ptmxmode=0666,mode=0620")
    _tmpfs(root, "/dev/shm", "1777")


def _overlay(host: str, scratch: str, root: str, flags: int) -> None:
    for name in ("upper", "work", "root"):
        os.makedirs(f"{scratch}/{name}", exist_ok=True)
    options = f"lowerdir={host},upperdir={scratch}/upper,workdir={scratch}/work"
    sc.mount("overlay", root, "overlay", flags, options)


def hold(paths: list[str]) -> dict[str, int]:
    """Descriptors of ``paths``, for ``keep`` when the root that shows them is gone."""
    return {path: sc.clone_tree(path) for path in paths}


def keep(root: str, kept: dict[str, int]) -> None:
    """Programs of ours that the new root does not show (they live in ``/tmp``, on a tmpfs, under
    a volume …). Closes the descriptors."""
    for path, fd in kept.items():
        if not os.path.isdir(resolve(root, path)):
            sc.attach_tree(fd, mount_point(root, path, directory=True))
        os.close(fd)


def open_way(root: str, paths: list[str]) -> None:
    """Lets every user come to ``paths``, as in an image: on the host they may lie below a home
    that is closed to others, and a container need not run as root."""
    for path in paths:
        here = resolve(root, path)
        while here != root:
            mode = stat.S_IMODE(os.stat(here).st_mode)
            if not mode & stat.S_IXOTH:
                with contextlib.suppress(OSError):  # a disk of its own, read-only
                    os.chmod(here, mode | stat.S_IXGRP | stat.S_IXOTH)  # noqa: S103
            here = os.path.dirname(here)


def enter_machine_root(programs: list[str]) -> None:
    """Builds the machine's root and makes it ``/``. The caller has new mount, PID and network
    namespaces. ``programs``: directories of the host that must stay readable wherever they are."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        extras = [p for p in disk_mounts(file.read()) if not p.startswith(("/run/", "/proc/"))]
    sc.propagation("/", sc.MS_REC | sc.MS_PRIVATE)
    kept = hold(programs)
    sc.mount("tmpfs", "/run", "tmpfs", 0, "mode=0755")
    for name in ("host", "root"):
        os.mkdir(f"/run/{name}")
    sc.bind("/", "/run/host", read_only=True)
    for point in extras:
        if os.path.isdir(f"/run/host{point}"):
            sc.bind(point, f"/run/host{point}", read_only=True)
    root = "/run/root"
    _overlay("/run/host", "/run", root, 0)
    for point in extras:
        if os.path.isdir(f"/run/host{point}"):
            sc.bind(f"/run/host{point}", root + point, read_only=True)
    _devices(root, source="/dev", tun=True)
    for target, mode in (("/run", "0755"), ("/tmp", "1777")):
        _tmpfs(root, target, mode, sc.MS_NOSUID)
    for target in _OWN_DIRECTORIES:
        _tmpfs(root, target, "0755", 0)
    keep(root, kept)
    os.makedirs(root + HOST, exist_ok=True)
    os.makedirs(root + SCRATCH, exist_ok=True)
    sc.mount("/run/host", root + HOST, "none", sc.MS_MOVE)
    sc.mount("proc", f"{root}/proc", "proc", sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC)
    sc.mount("sysfs", f"{root}/sys", "sysfs", sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC)
    sc.pivot_root(root)
    # As on a systemd machine: mounts travel, and volumes choose whether to follow.
    sc.propagation("/", sc.MS_REC | sc.MS_SHARED)
    for directory in ("/run/netns", "/run/egress-gateway", "/run/lock", "/run/wireguard"):
        os.makedirs(directory, exist_ok=True)
    sc.bind("/run/netns", "/run/netns")
    sc.propagation("/run/netns", sc.MS_SHARED)


def build_container_root(*, privileged: bool) -> str:
    """A container's root at ``SCRATCH`` of its own mount namespace; returns its path. Volumes,
    programs to ``keep`` and files go below it before ``pivot_root``."""
    sc.mount("tmpfs", SCRATCH, "tmpfs", sc.MS_NODEV, "mode=0755")
    root = f"{SCRATCH}/root"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        below = [p for p in disk_mounts(file.read()) if p.startswith(f"{HOST}/")]
    _overlay(HOST, SCRATCH, root, sc.MS_NODEV)
    for point in below:
        sc.bind(point, root + point.removeprefix(HOST), read_only=True)
    _devices(root, source="/dev", tun=privileged)
    _tmpfs(root, "/run", "0755")
    _tmpfs(root, "/tmp", "1777")
    kernel = sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC
    sc.mount("proc", f"{root}/proc", "proc", kernel)
    sc.mount("sysfs", f"{root}/sys", "sysfs", kernel | (0 if privileged else sc.MS_RDONLY))
    if not privileged:
        _protect_kernel_files(root)
    return root


def seal(root: str) -> None:
    """Makes a finished root read-only (``readOnlyRootFilesystem``); mounts below are left alone."""
    sc.mount("none", root, "none", sc.MS_REMOUNT | sc.MS_BIND | sc.MS_RDONLY | sc.MS_NODEV)


def _protect_kernel_files(root: str) -> None:
    # As container runtimes do: without this, root in a container sets the host's sysctls.
    for name in ("sys", "irq", "bus", "fs", "sysrq-trigger"):
        path = f"{root}/proc/{name}"
        if os.path.exists(path):
            sc.bind(path, path, read_only=True)
    for name in ("kcore", "keys", "timer_list"):
        path = f"{root}/proc/{name}"
        if os.path.exists(path):
            sc.mount(f"{root}/dev/null", path, "none", sc.MS_BIND)


def write_file(root: str, path: str, text: str) -> None:
    """Replaces a file of a root (never through a link: ``/etc/resolv.conf`` often is one)."""
    directory = resolve(root, os.path.dirname(path))
    os.makedirs(directory, exist_ok=True)
    target = os.path.join(directory, os.path.basename(path))
    if os.path.lexists(target):
        os.unlink(target)
    with open(target, "w", encoding="utf-8") as file:
        file.write(text)


def is_directory(path: str) -> bool:
    """Whether a volume's source is a directory (anything else is mounted on a file)."""
    return stat.S_ISDIR(os.stat(path).st_mode)
