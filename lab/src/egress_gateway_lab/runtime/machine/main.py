"""PID 1 of a simulated machine: builds it, starts processes in it, reaps them, ends with it.

Started by ``runtime.node`` as ``unshare … python -I -S`` with one socket, over which it takes
requests (JSON, one per datagram, file descriptors alongside) and reports. It holds no policy: the
kubelet lives in the lab's process and decides. When the other end of the socket is gone the machine
is gone: this process exits and the kernel kills everything in its PID namespace.

Requests (``id`` is chosen by the caller):
``spawn``   start a process on the machine, as a container, or in a container; three descriptors
``signal``  send a signal to a spawned process
``netns``   create (``present``) or remove a named network namespace
Reports: ``{"id", "pid"}`` or ``{"id", "error"}`` in answer, ``{"exited": id, "code"}`` later.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from typing import Any

from egress_gateway_lab.runtime.machine import container, rootfs
from egress_gateway_lab.runtime.machine import syscalls as sc

_DATAGRAM = 1 << 20
_NETNS = "/run/netns"


class Init:
    """The machine's process 1."""

    def __init__(self, control: socket.socket, keep: list[str]) -> None:
        self._control = control
        self._keep = keep
        self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._processes: dict[int, int] = {}  # pid -> id of its request
        self._containers: dict[int, tuple[int, dict[str, Any]]] = {}  # id -> pid, spec
        self._mount_namespaces: dict[int, str] = {}  # id of a hostPID container -> its namespace
        self._starting: dict[int, tuple[int, int]] = {}  # report pipe -> id, pid
        self._early: dict[int, int] = {}  # id -> exit code known before its start was reported
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Serves until the lab is gone."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(self._control, selectors.EVENT_READ, self._serve)
        self._selector.register(wake_read, selectors.EVENT_READ, self._reap)
        while True:
            for key, _ in self._selector.select():
                key.data(key.fd)

    def _tell(self, **report: Any) -> None:
        self._control.send(json.dumps(report).encode())

    def _serve(self, _: int) -> None:
        packet, fds, _, _ = socket.recv_fds(self._control, _DATAGRAM, 4, socket.MSG_CMSG_CLOEXEC)
        if not packet:
            os._exit(0)
        request: dict[str, Any] = json.loads(packet)
        try:
            getattr(self, f"_op_{request['op']}")(request, fds)
        except (OSError, KeyError) as error:
            self._tell(id=request["id"], error=_words(error))
        finally:
            for fd in fds:
                os.close(fd)

    def _op_spawn(self, request: dict[str, Any], fds: list[int]) -> None:
        number: int = request["id"]
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            pid = self._fork(request, fds, write_end)
        finally:
            os.close(write_end)
        self._processes[pid] = number
        if request["container"]:
            self._containers[number] = (pid, request["container"])
        self._starting[read_end] = (number, pid)
        self._selector.register(read_end, selectors.EVENT_READ, self._started)

    def _fork(self, request: dict[str, Any], fds: list[int], report: int) -> int:
        """Forks into the right PID namespace: that must be chosen before the fork, and our own
        choice is taken back after it."""
        spec: dict[str, Any] | None = request["container"]
        beside: int | None = None
        if request["within"] is not None:
            init, spec = self._containers[request["within"]]
            beside = os.pidfd_open(init)
        own_pids = spec is not None and not spec["host_pid"]
        try:
            if own_pids and beside is None:
                sc.unshare(sc.CLONE_NEWPID)
            elif own_pids and beside is not None:
                sc.setns(beside, sc.CLONE_NEWPID)
            pid = os.fork()
            if pid == 0:
                self._child(request, spec, beside, fds, report)
        finally:
            if own_pids:
                sc.setns(self._pid_namespace, sc.CLONE_NEWPID)
            if beside is not None:
                os.close(beside)
        return pid

    def _child(
        self,
        request: dict[str, Any],
        spec: dict[str, Any] | None,
        beside: int | None,
        fds: list[int],
        report: int,
    ) -> None:
        try:
            container.reset_signals()
            if beside is not None:
                container.join_container(beside)
            report = container.stdio(fds, tty=request["tty"], survivor=report)
            if spec is not None:
                if beside is None:
                    container.become_container(spec, self._keep)
                container.drop_rights(spec)
            container.execute(request["argv"], request["env"], request["cwd"])
        except BaseException as error:
            os.write(report, _words(error).encode())
        finally:
            os._exit(127)

    def _started(self, fd: int) -> None:
        """The report pipe ended: empty when ``execve`` closed it, else with the reason."""
        number, pid = self._starting.pop(fd)
        self._selector.unregister(fd)
        reason = os.read(fd, 4096).decode()
        os.close(fd)
        early = self._early.pop(number, None)
        if reason:
            self._containers.pop(number, None)
            if early is None:
                self._processes[pid] = -1  # its end is no news
            self._tell(id=number, error=reason)
            return
        self._tell(id=number, pid=pid)
        if number in self._containers and self._containers[number][1]["host_pid"]:
            with contextlib.suppress(OSError):
                self._mount_namespaces[number] = os.readlink(f"/proc/{pid}/ns/mnt")
        if early is not None:
            self._ended(number, early)

    def _op_signal(self, request: dict[str, Any], _: list[int]) -> None:
        for pid, number in self._processes.items():
            if number == request["target"]:
                os.kill(pid, request["signal"])
        self._tell(id=request["id"], pid=0)

    def _op_netns(self, request: dict[str, Any], _: list[int]) -> None:
        path = f"{_NETNS}/{request['name']}"
        if not request["present"]:
            with contextlib.suppress(OSError):  # not mounted: unlink(2) below says what is wrong
                sc.umount(path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444))
            pid = os.fork()
            if pid == 0:
                _make_network(path)
            if os.waitpid(pid, 0)[1] != 0:
                os.unlink(path)
                raise OSError(0, "network namespace could not be made", path)
        self._tell(id=request["id"], pid=0)

    def _reap(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(fd, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self._processes.pop(pid, -1)
            if number < 0:
                continue  # an orphan of the machine
            code = os.waitstatus_to_exitcode(status)
            code = code if code >= 0 else 128 - code
            if any(number == starting for starting, _ in self._starting.values()):
                self._early[number] = code
            else:
                self._ended(number, code)

    def _ended(self, number: int, code: int) -> None:
        self._containers.pop(number, None)
        namespace = self._mount_namespaces.pop(number, None)
        if namespace is not None:
            _kill_namespace(namespace)
        self._tell(exited=number, code=code)


def _kill_namespace(namespace: str) -> None:
    """Ends what a ``hostPID`` container left: it has no PID namespace that dies with it, but its
    mount namespace is its own. Repeats, for processes that fork meanwhile."""
    for _ in range(16):
        found = False
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                if os.readlink(f"/proc/{entry}/ns/mnt") == namespace:
                    os.kill(int(entry), signal.SIGKILL)
                    found = True
            except OSError:
                continue
        if not found:
            return


def _make_network(path: str) -> None:
    """In a child: a network namespace bound to ``path``, its loopback up."""
    try:
        sc.unshare(sc.CLONE_NEWNET)
        sc.mount("/proc/self/ns/net", path, "none", sc.MS_BIND)
        sc.loopback_up()
        write_sysctls({"net/ipv4/ping_group_range": "0 2147483647"})
        os._exit(0)
    except OSError:
        os._exit(1)


def write_sysctls(values: dict[str, str]) -> None:
    """Sets sysctls of the current network namespace; unknown ones are skipped."""
    for name, value in values.items():
        try:
            with open(f"/proc/sys/{name}", "w", encoding="ascii") as file:
                file.write(value)
        except FileNotFoundError:
            continue


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        name = (
            f" {error.filename}" if error.filename and error.filename not in error.strerror else ""
        )
        return f"{error.strerror}{name}"
    return f"{type(error).__name__}: {error}"


def main() -> None:
    """``main.py FD JSON``: the control socket's number and the machine's settings."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    settings: dict[str, Any] = json.loads(sys.argv[2])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        rootfs.enter_machine_root(settings["keep"])
        sc.sethostname(settings["name"])
        sc.loopback_up()
        write_sysctls(settings["sysctls"])
        for path, text in settings["files"].items():
            rootfs.write_file("/", path, text)
    except OSError as error:
        control.send(json.dumps({"id": 0, "error": _words(error)}).encode())
        return
    control.send(json.dumps({"id": 0, "pid": 1}).encode())
    try:
        Init(control, settings["keep"]).run()
    except Exception:
        control.send(json.dumps({"crashed": traceback.format_exc()}).encode())
        raise
