"""From a forked child of the machine's init to a container's first process, or one beside it.

The steps are those of an OCI runtime: join the pod's network namespace, take a mount namespace,
copy the volumes' mounts while they are still peers of the machine's, lay the root, put volumes and
files into it, make it ``/``, give up capabilities, ``execve``. The parent has already arranged that
the child is process 1 of a PID namespace (or shares the machine's, for ``hostPID``).
"""

from __future__ import annotations

import fcntl
import os
import signal
import termios
from typing import Any

from egress_gateway_lab.runtime.machine import rootfs
from egress_gateway_lab.runtime.machine import syscalls as sc

_PROPAGATION = {"none": sc.MS_PRIVATE, "slave": sc.MS_SLAVE, "shared": sc.MS_SHARED}

Spec = dict[str, Any]
"""As ``runtime.node.ContainerSpec`` is encoded; see there for the meaning of its fields."""


def stdio(fds: list[int], *, tty: bool, survivor: int) -> int:
    """Makes ``fds`` the standard streams and closes all others but ``survivor`` (returned: its new
    number), which is closed by a successful ``execve``."""
    survivor = fcntl.fcntl(survivor, fcntl.F_DUPFD_CLOEXEC, 10)
    # Out of the way first: an incoming number may be 0, 1 or 2 itself.
    parked = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in fds]
    for number, fd in enumerate(parked):
        os.dup2(fd, number)
    os.closerange(3, survivor)
    os.closerange(survivor + 1, 4096)
    os.setsid()
    if tty:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    return survivor


def reset_signals() -> None:
    """Gives the program the signal dispositions that a fresh process has."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _volumes(root: str, mounts: list[Spec], trees: list[int]) -> None:
    for wanted, fd in sorted(zip(mounts, trees, strict=True), key=lambda pair: pair[0]["target"]):
        target = rootfs.mount_point(root, wanted["target"], directory=wanted["directory"])
        sc.attach_tree(fd, target)
        os.close(fd)
        sc.propagation(target, _PROPAGATION[wanted["propagation"]] | sc.MS_REC)
        if wanted["read_only"]:
            sc.mount("none", target, "none", sc.MS_REMOUNT | sc.MS_BIND | sc.MS_RDONLY)


def become_container(spec: Spec, programs: list[str]) -> None:
    """Turns the calling process into the container's init, short of ``execve``. ``programs``:
    directories that it sees whatever volumes lie over them."""
    if spec["netns"]:
        fd = os.open(spec["netns"], os.O_RDONLY | os.O_CLOEXEC)
        sc.setns(fd, sc.CLONE_NEWNET)
        os.close(fd)
    sc.unshare(sc.CLONE_NEWNS | sc.CLONE_NEWUTS | sc.CLONE_NEWIPC)
    mounts: list[Spec] = spec["mounts"]
    for wanted in mounts:
        wanted["directory"] = rootfs.is_directory(wanted["source"])
    trees = [sc.clone_tree(wanted["source"]) for wanted in mounts]
    kept = rootfs.hold(programs)
    sc.propagation("/", sc.MS_REC | sc.MS_SLAVE)
    root = rootfs.build_container_root(privileged=spec["privileged"])
    for path, text in spec["files"].items():
        rootfs.write_file(root, path, text)
    _volumes(root, mounts, trees)
    rootfs.keep(root, kept)
    rootfs.open_way(root, programs)
    if spec["working_directory"]:
        os.makedirs(rootfs.resolve(root, spec["working_directory"]), exist_ok=True)
    if spec["read_only_root"]:
        rootfs.seal(root)
    sc.pivot_root(root)
    sc.sethostname(spec["hostname"])


def join_container(pidfd: int) -> None:
    """Enters the namespaces of a running container's init, except its PID namespace, which the
    parent chose before it forked."""
    sc.setns(pidfd, sc.CLONE_NEWNS | sc.CLONE_NEWUTS | sc.CLONE_NEWIPC | sc.CLONE_NEWNET)


def drop_rights(spec: Spec) -> None:
    """Applies the security context: capabilities, user, no_new_privs."""
    kept = frozenset(spec["capabilities"])
    if not spec["privileged"]:
        sc.bound_capabilities(kept)
    # NB: what a change of identity needs goes with that change, not before.
    if spec["group"] is not None:
        os.setgroups([])
        os.setgid(spec["group"])
    if spec["user"]:
        os.setuid(spec["user"])
    elif not spec["privileged"]:
        sc.limit_capabilities(kept)
    if spec["no_new_privileges"]:
        sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1)


def execute(argv: list[str], env: dict[str, str], cwd: str) -> None:
    """``execve`` with PATH search inside the new root; raises OSError in words for a person."""
    os.chdir(cwd or "/")
    try:
        os.execvpe(argv[0], argv, env)  # noqa: S606  (that is the point)
    except FileNotFoundError:
        raise FileNotFoundError(
            2, f'exec: "{argv[0]}": executable file not found in $PATH', argv[0]
        ) from None
