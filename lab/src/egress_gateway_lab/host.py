"""The lab's one foothold on the host: how it starts, how it is found, how it ends.

A lab is a process that is PID 1 of namespaces of its own (PID, mount, network, UTS, IPC).
Whatever ends it ends all of it, for the kernel kills a PID namespace with its first process:
Ctrl-C, SIGTERM, SIGKILL and a crash all leave no process, namespace, mount or link. What reaches
into the lab from outside are three sockets opened here, before the namespaces exist: the
Kubernetes API and Azure Resource Manager on the host's loopback, and a control socket in the
lab's directory. A socket stays in the network namespace in which it was opened, so the lab gains
no path to the host's network by them.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

from egress_gateway_lab import golang, wireguard
from egress_gateway_lab.realcluster import binaries, cgroups, release
from egress_gateway_lab.realcluster.filesystems import shipped

BASE: Final = Path("/run/egress-gateway-lab")
_PR_SET_PDEATHSIG: Final = 1
_LOGS_KEPT: Final = 600.0
"""Seconds since its start that a killed lab's directory, with its log, is left for a person."""
_START_TIMEOUT: Final = 60.0

PACKAGES: Final = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "nft": "nftables",
    "conntrack": "conntrack",
    "curl": "curl",
}
"""Commands that the lab runs, and the Debian package that brings each."""
CNI_BIN: Final = Path("/usr/lib/cni")
CNI_PLUGINS: Final = ("host-local", "ptp", "bridge", "portmap", "loopback")


_FILES = {
    "KUBEBUILDER_ASSETS",
    "KUBERNETES_CLIENTS",
    "LAB_IMAGE",
    "LAB_PREVIOUS",
    "LAB_WIREGUARD_GO",
    "XDG_CACHE_HOME",
}
"""Variables that a user may give as a path from where he stands."""
_WORDS = ("", "checkout", "system")
_children: dict[int, subprocess.Popen[bytes]] = {}
"""Labs that this process started, by pid, to be waited for."""


_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,61}")
"""A lab's name is a folder below ``BASE``, and part of a socket's path (108 bytes, unix(7))."""


class LabError(Exception):
    """The lab cannot start or be reached; one line for the person at the shell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabHandle:
    """A running lab. ``pid`` is the host's; killing it ends the lab."""

    name: str
    pid: int
    started: float
    """When the process began (its start time in clock ticks), against reuse of the pid."""
    kubernetes: str
    azure: str
    directory: str

    @property
    def path(self) -> Path:
        return Path(self.directory)

    @property
    def control(self) -> Path:
        return self.path / "control.sock"

    @property
    def ca(self) -> Path:
        return self.path / "ca.crt"

    @property
    def kubeconfig(self) -> Path:
        return self.path / "kubeconfig"

    @property
    def log(self) -> Path:
        return self.path / "lab.log"

    @property
    def alive(self) -> bool:
        return _start_time(self.pid) == self.started


def missing_packages() -> list[str]:
    """Debian packages that the lab needs and this machine lacks, in a stable order."""
    missing = {package for tool, package in PACKAGES.items() if shutil.which(tool) is None}
    if not all((CNI_BIN / plugin).exists() for plugin in CNI_PLUGINS):
        missing.add("containernetworking-plugins")
    if not _library("libnftables.so.1"):
        missing.add("libnftables1")
    if not Path("/sys/module/wireguard").exists() and _wireguard_go() is None:
        missing.add("wireguard-go")
    return sorted(missing)


def _wireguard_go() -> Path | None:
    try:
        return wireguard.program()
    except golang.Unavailable as error:
        raise LabError(str(error)) from error


def require_host(kubernetes: str = "embedded") -> None:
    """Raises ``LabError`` unless this machine can hold a lab; says what mends it."""
    if sys.platform != "linux":
        raise LabError("the lab needs Linux: its nodes and pods are network namespaces")
    if os.geteuid() != 0:
        raise LabError("the lab needs root to make network namespaces: run it with sudo")
    missing = missing_packages()
    if kubernetes == "real" and shutil.which("runc") is None:
        missing.append("runc")
    if missing:
        raise LabError(
            f"missing system packages: {', '.join(missing)}; install them with "
            f"`apt-get install --no-install-recommends {' '.join(missing)}`"
        )
    if kubernetes == "real":
        _require_programs()
    if not Path("/dev/net/tun").exists() and not Path("/sys/module/wireguard").exists():
        raise LabError("/dev/net/tun is missing and the kernel has no WireGuard: load one of both")


def _require_programs() -> None:
    try:
        binaries.find(*binaries.CONTROL_PLANE, *binaries.NODE, *binaries.CNI)
        release.find_helm()
        shipped.chosen()
    except (binaries.Unavailable, shipped.NotAnImage) as error:
        raise LabError(str(error)) from error
    if not cgroups.hierarchies():
        raise LabError("kubelets need cgroups, and no cgroup file system is mounted here")


def require_name(name: str) -> None:
    """Raises ``LabError`` for a name that would leave the labs' folder, or be no file name."""
    if not _NAME.fullmatch(name):
        raise LabError(
            f"{name!r} is no name for a lab: letters, digits, '-', '_' and '.', at most 62, the "
            "first a letter or digit"
        )


def start(
    name: str,
    *,
    options: dict[str, Any] | None = None,
    detach: bool,
    progress: Callable[[str], None] = lambda _: None,
) -> LabHandle:
    """Starts a lab and returns when its APIs answer.

    Detached, it outlives the caller; else it dies with it, however the caller ends.
    Raises ``LabError`` when a lab of that name runs, or this one fails to start.
    """
    require_name(name)
    require_host((options or {}).get("kubernetes", "embedded"))
    if line := wireguard.describe():
        progress(line)
    if (options or {}).get("kubernetes") == "real":
        progress(shipped.describe())
    directory = BASE / name
    with _lock():
        old = find(name)
        if old is not None:
            raise LabError(f"lab {name!r} is running (pid {old.pid}): end it with `lab down`")
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700, parents=True)
        _forget_dead()
        cgroups.sweep([handle.name for handle in running()])
    kube, azure = _loopback_socket(), _loopback_socket()
    control = _control_socket(directory / "control.sock")
    reader, writer = os.pipe()
    sockets = (kube, azure, control)
    config = {
        "name": name,
        "directory": str(directory),
        "kubernetes_fd": kube.fileno(),
        "azure_fd": azure.fileno(),
        "control_fd": control.fileno(),
        "progress_fd": writer,
        "options": options or {},
    }
    with (directory / "lab.log").open("ab") as log:
        process = _spawn(config, [s.fileno() for s in sockets] + [writer], log, detach=detach)
    os.close(writer)
    pid = _inner(process.pid)
    _children[pid] = process
    handle = LabHandle(
        name=name,
        pid=pid,
        started=_start_time(pid) or 0,
        kubernetes=f"https://127.0.0.1:{kube.getsockname()[1]}",
        azure=f"https://127.0.0.1:{azure.getsockname()[1]}",
        directory=str(directory),
    )
    for s in sockets:
        s.close()
    (directory / "lab.json").write_text(json.dumps(asdict(handle)))
    try:
        with os.fdopen(reader) as lines:
            _await_ready(lines, handle, progress)
    except BaseException:
        stop(handle)
        raise
    return handle


def find(name: str) -> LabHandle | None:
    """The running lab of that name; None if there is none (or it died)."""
    try:
        handle = LabHandle(**json.loads((BASE / name / "lab.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return handle if handle.alive else None


def running() -> list[LabHandle]:
    """All running labs, by name."""
    names = sorted(p.name for p in BASE.iterdir()) if BASE.exists() else []
    return [handle for name in names if (handle := find(name))]


def closed() -> list[str]:
    """Names of labs, running or killed, whose folders this user may not read."""
    folders = [p for p in BASE.iterdir() if p.is_dir()] if BASE.exists() else []
    return sorted(p.name for p in folders if not os.access(p, os.R_OK | os.X_OK))


def _forget_dead() -> None:
    """Removes what killed labs left below ``BASE``, once nobody will read their logs any more. One
    that is starting has no ``lab.json`` yet."""
    for described in BASE.glob("*/lab.json"):
        with suppress(OSError):
            age = time.time() - described.stat().st_mtime
            if age > _LOGS_KEPT and find(described.parent.name) is None:
                shutil.rmtree(described.parent, ignore_errors=True)


def stop(handle: LabHandle, *, timeout: float = 10.0) -> None:
    """Ends a lab and removes its directory. SIGTERM first, SIGKILL after ``timeout`` s."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not handle.alive:
            break
        with suppress(ProcessLookupError):
            os.kill(handle.pid, number)
        deadline = time.monotonic() + timeout
        while handle.alive and time.monotonic() < deadline:
            time.sleep(0.01)
    child = _children.pop(handle.pid, None)
    if child is not None:
        child.wait(timeout)
    shutil.rmtree(handle.path, ignore_errors=True)
    cgroups.remove(handle.name)


def _inner(unshare: int) -> int:
    """The lab itself, the one child of ``unshare``, which passes no SIGTERM on."""
    children = Path(f"/proc/{unshare}/task/{unshare}/children")
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline:
        try:
            found = children.read_text().split()
        except OSError:
            break
        if found:
            return int(found[0])
        time.sleep(0.002)
    return unshare


def _spawn(
    config: dict[str, Any], fds: list[int], log: IO[bytes], *, detach: bool
) -> subprocess.Popen[bytes]:
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def in_child() -> None:
        # NB: between fork and exec; only async-signal-safe work belongs here.
        if not detach:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    command = ["unshare", "--pid", "--mount", "--net", "--uts", "--ipc", "--fork"]
    command += ["--kill-child=SIGKILL", "--mount-proc", "--propagation", "private"]
    command += [sys.executable, "-m", "egress_gateway_lab.main", json.dumps(config)]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=fds,
        env=environment(),
        cwd="/",
        start_new_session=True,
        preexec_fn=in_child,
    )


def environment() -> dict[str, str]:
    """The lab's: what names a file still does in another folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EGRESS_GATEWAY_")}
    for name in _FILES & kept.keys():
        if kept[name] not in _WORDS and Path(kept[name]).exists():
            kept[name] = os.path.abspath(kept[name])
    return kept


def _await_ready(lines: IO[str], handle: LabHandle, progress: Callable[[str], None]) -> None:
    """Reads the lab's progress: a JSON object a line, ``ready`` or ``error`` last."""
    deadline = time.monotonic() + _START_TIMEOUT
    for line in lines:
        message = json.loads(line)
        if message.get("ready"):
            return
        if "error" in message:
            raise LabError(f"the lab did not start: {message['error']}")
        progress(message["progress"])
        if time.monotonic() > deadline:
            break
    tail = handle.log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
    raise LabError(f"the lab did not start: {tail[0]}")


def _loopback_socket() -> socket.socket:
    server = socket.create_server(("127.0.0.1", 0), backlog=128)
    server.setblocking(False)
    return server


def _control_socket(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen(16)
    server.setblocking(False)
    return server


@contextmanager
def _lock() -> Iterator[None]:
    BASE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (BASE / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start_time(pid: int) -> float | None:
    """Field 22 of /proc/PID/stat, in clock ticks since boot; None for no or a dead process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else float(fields[19])


def _library(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
