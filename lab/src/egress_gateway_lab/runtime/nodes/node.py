"""A machine of the lab: namespaces with a process 1, and the lab's handle on it.

``Node.boot`` returns when the machine is up (no network yet: the fabric plugs that in).
``Node.kill`` is a power cut: process 1 dies, and with it every process, namespace, mount and
link of the machine. The same happens when the lab's process ends in any way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import egress_gateway
from egress_gateway_lab import wireguard
from egress_gateway_lab.runtime.containers.streams import Stdio, open_stdio
from egress_gateway_lab.runtime.kubelet import images

log = logging.getLogger(__name__)

_SOURCE = str(Path(__file__).resolve().parents[3])
_PRODUCT = str(Path(egress_gateway.__file__).resolve().parents[1])
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1));"
    "from egress_gateway_lab.runtime.machine.main import main; main()"
)
_DATAGRAM = 1 << 20
_CREDENTIALS = struct.Struct("3i")

PATH = wireguard.path()

# As an AKS node forwards for its pods; all are per network namespace.
SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/ping_group_range": "0 2147483647",
}


class MachineError(Exception):
    """A machine, process or container could not be started; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A path of the machine shown in a container. ``propagation``: what mounts made later do:
    ``none``, ``slave`` (arrive from the machine) or ``shared`` (travel both ways)."""

    source: str
    target: str
    read_only: bool = False
    propagation: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """What a container's processes may see and do. ``netns`` None: the machine's network."""

    netns: str | None
    hostname: str
    host_pid: bool = False
    mounts: tuple[Mount, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    privileged: bool = False
    capabilities: tuple[str, ...] = ()
    user: int | None = None
    group: int | None = None
    no_new_privileges: bool = False
    read_only_root: bool = False
    working_directory: str = ""


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended."""

    code: int
    stdout: bytes
    stderr: bytes


class Process:
    """A process on a machine: a container's init, a command in one, or one of the machine."""

    def __init__(self, node: Node, number: int) -> None:
        self._node = node
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.number = number
        self.pid = 0
        """In the machine's PID namespace."""

    @property
    def running(self) -> bool:
        return not self._code.done()

    async def wait(self) -> int:
        """Exit code; 128 + n when signal n ended it."""
        return await asyncio.shield(self._code)

    async def send_signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        if self.running:
            with contextlib.suppress(MachineError):
                await self._node.request("signal", target=self.number, signal=number)

    async def abandon(self) -> None:
        """Kills it, whether it runs by now or not."""
        await self.send_signal(signal.SIGKILL)

    def ended(self, code: int) -> None:
        if not self._code.done():
            self._code.set_result(code)


class Node:
    """A running machine (``protocols.Machine``)."""

    def __init__(self, name: str, control: socket.socket, parent: asyncio.subprocess.Process):
        self._name = name
        self._control = control
        self._parent = parent
        self._numbers = 0
        self._answers: dict[int, asyncio.Future[int]] = {}
        self._processes: dict[int, Process] = {}
        self._outbox: list[tuple[bytes, tuple[int, ...]]] = []
        self._pid = 0
        self.stopped = asyncio.Event()
        """Set when the machine is gone, however that came about."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def pid(self) -> int:
        """Process id (in the lab's PID namespace) of the machine's process 1."""
        return self._pid

    @classmethod
    async def boot(
        cls, name: str, *, files: Mapping[str, str] | None = None, keep: Sequence[str] = ()
    ) -> Node:
        """Starts a machine. ``files`` are written into it first; ``keep``: folders of the lab's
        sight that it must see too, wherever they lie. Raises ``MachineError``."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _DATAGRAM)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ours.setblocking(False)
        settings = {
            "name": name,
            "keep": [*_program_directories(), *keep],
            "sysctls": SYSCTLS,
            "files": dict(files or {}),
        }
        command = ["unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork"]
        command += ["--kill-child", "--", sys.executable, "-I", "-S", "-c", _PROGRAM, _SOURCE]
        try:
            parent = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                json.dumps(settings),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,  # unshare complains of every power cut
                env={"PATH": PATH, "LANG": "C.UTF-8"},
            )
        finally:
            theirs.close()
        node = cls(name, ours, parent)
        booted = node._answers[0] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(ours.fileno(), node._receive)
        try:
            await booted
        except BaseException:
            await node.kill()
            raise
        return node

    def path(self, inside: str) -> Path:
        """A path of the machine as the lab's process can open it."""
        return Path(f"/proc/{self._pid}/root{inside}")

    async def spawn(
        self,
        argv: list[str],
        stdio: Stdio,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        container: ContainerSpec | None = None,
        within: Process | None = None,
        terminal: bool = False,
    ) -> Process:
        """Starts a process: on the machine, as a new container's init (``container``) or in the
        container whose init is ``within``. Takes the process's side of ``stdio`` in any case.
        Raises ``MachineError`` in words when it cannot start."""
        process = Process(self, self._numbers + 1)
        self._processes[process.number] = process
        try:
            answer = self._post(
                "spawn",
                stdio.theirs,
                argv=argv,
                env={"PATH": PATH, **(env or {})},
                cwd=cwd,
                container=None if container is None else asdict(container),
                within=None if within is None else within.number,
                tty=terminal,
            )
        except MachineError:
            del self._processes[process.number]
            raise
        finally:
            stdio.release()
        try:
            process.pid = await asyncio.shield(answer)
        except asyncio.CancelledError:
            # It starts all the same; nobody would know of it.
            answer.add_done_callback(lambda _: asyncio.ensure_future(process.abandon()))
            raise
        except MachineError:
            self._processes.pop(process.number, None)
            raise
        return process

    async def run(
        self,
        argv: list[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        within: Process | None = None,
        limit: float = 60,
    ) -> Completed:
        """Runs a command to its end; kills it after ``limit`` seconds (exit code 137)."""
        stdio = open_stdio(stdin=bool(stdin), terminal=False)
        try:
            process = await self.spawn(argv, stdio, env=env, within=within)
            try:
                async with asyncio.timeout(limit):
                    out, err, _ = await asyncio.gather(
                        _drain(stdio, 1), _drain(stdio, 2), _feed(stdio, stdin)
                    )
                    return Completed(await process.wait(), out, err)
            except TimeoutError:
                await process.send_signal(signal.SIGKILL)
                return Completed(137, b"", f"no answer within {limit:g} s".encode())
            except asyncio.CancelledError:
                await process.send_signal(signal.SIGKILL)
                raise
        finally:
            stdio.close()

    async def create_netns(self, name: str) -> str:
        """Makes a network namespace with loopback up; returns its path on the machine."""
        await self.request("netns", name=name, present=True)
        return f"/run/netns/{name}"

    async def delete_netns(self, name: str) -> None:
        """Removes it; succeeds if there is none."""
        await self.request("netns", name=name, present=False)

    async def kill(self) -> None:
        """Power cut. Returns when nothing of the machine is left. Idempotent."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        elif self._parent.returncode is None:
            self._parent.kill()
        await self._parent.wait()
        self._gone()

    async def request(self, operation: str, **fields: Any) -> int:
        """One request to the machine's process 1. Raises ``MachineError``."""
        return await self._post(operation, (), **fields)

    def _post(self, operation: str, fds: tuple[int, ...], **fields: Any) -> asyncio.Future[int]:
        if self.stopped.is_set():
            raise MachineError(f"machine {self._name} is off")
        self._numbers += 1
        number = self._numbers
        packet = json.dumps({"op": operation, "id": number, **fields}).encode()
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        # Duplicates: the caller may close its own before the packet can be sent.
        self._outbox.append((packet, tuple(os.dup(fd) for fd in fds)))
        self._send()
        return answer

    def _send(self) -> None:
        loop = asyncio.get_running_loop()
        while self._outbox:
            packet, fds = self._outbox[0]
            try:
                socket.send_fds(self._control, [packet], fds)
            except BlockingIOError:
                loop.add_writer(self._control.fileno(), self._send)
                return
            except OSError:
                self._gone()
                return
            self._outbox.pop(0)
            for fd in fds:
                os.close(fd)
        loop.remove_writer(self._control.fileno())

    def _receive(self) -> None:
        try:
            packet, ancillary, _, _ = self._control.recvmsg(
                _DATAGRAM, socket.CMSG_SPACE(_CREDENTIALS.size)
            )
        except BlockingIOError:
            return
        except OSError:
            packet, ancillary = b"", []
        if not packet:
            self._gone()
            return
        report: dict[str, Any] = json.loads(packet)
        if "crashed" in report:
            log.error("machine %s crashed: %s", self._name, report["crashed"])
            return
        if "exited" in report:
            process = self._processes.pop(report["exited"], None)
            if process is not None:
                process.ended(report["code"])
            return
        if report["id"] == 0:
            # The kernel says who sent it, as a number in *our* PID namespace.
            self._pid = next(
                _CREDENTIALS.unpack(body[: _CREDENTIALS.size])[0]
                for _, kind, body in ancillary
                if kind == socket.SCM_CREDENTIALS
            )
        answer = self._answers.pop(report["id"], None)
        if answer is None or answer.done():
            return
        if "error" in report:
            answer.set_exception(MachineError(report["error"]))
        else:
            answer.set_result(report["pid"])

    def _gone(self) -> None:
        if self.stopped.is_set():
            return
        self.stopped.set()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._control.fileno())
        loop.remove_writer(self._control.fileno())
        self._control.close()
        for _, fds in self._outbox:
            for fd in fds:
                os.close(fd)
        self._outbox.clear()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(MachineError(f"machine {self._name} went down"))
        self._answers.clear()
        for process in self._processes.values():
            process.ended(137)
        self._processes.clear()


def _program_directories() -> list[str]:
    """Where Python, the lab and the product live: all machines and containers must see them."""
    found = {
        os.path.realpath(sys.prefix),
        os.path.realpath(sys.base_prefix),
        sys.prefix,
        _SOURCE,
        _PRODUCT,
        *map(str, filter(None, [images.previous()])),
    }
    return sorted(path for path in found if path not in ("/", "/usr", "/usr/local"))


async def _drain(stdio: Stdio, number: int) -> bytes:
    stream = stdio.stdout if number == 1 else stdio.stderr
    chunks: list[bytes] = []
    while stream is not None and (chunk := await stream.read()):
        chunks.append(chunk)
    return b"".join(chunks)


async def _feed(stdio: Stdio, stdin: bytes) -> None:
    if stdio.stdin is not None:
        await stdio.stdin.write(stdin)
        stdio.stdin.close()
