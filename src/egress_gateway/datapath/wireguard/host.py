"""``egress-gateway wireguard``: a small host for ``wireguard-go`` processes.

Where the kernel has no WireGuard, each interface is a process, and it must outlive the agent that
asked for it: an upgrade of an agent must not cut one connection. So this program does nothing
else. It knows no Kubernetes, reads no token, imports little, and is meant not to change.

Protocol, one JSON line each way over a unix socket, any number of requests per connection:
``{"op": "create", "name": N}`` starts an interface N in this process's network namespace;
``{"op": "connect", "name": N}`` is answered with a descriptor (SCM_RIGHTS): a connected
configuration socket of N, so that callers need not share a mount namespace with it;
``{"op": "delete", "name": N}``; ``{"op": "list"}`` is answered with their ``names`` and the
``version`` of the program. Errors: ``{"error": words, "code": WORD}``.

Each process runs as a user of its own with two capabilities. It watches its socket by inotify, and
Linux allows a user 128 watchers on the whole machine (fs.inotify.max_user_instances): as root,
some hundred pods would use up what the kubelet needs, and further pods could not start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux.door import Door
from egress_gateway.datapath.wireguard.seccomp import calls_spared

log = logging.getLogger(__name__)

SOCKET: Final = Path("/run/egress-gateway/tunnels.sock")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
# wireguard-go insists that its socket's path exists here: it ends when the file goes.
_SOCKETS: Final = Path("/var/run/wireguard")
_MODULE: Final = re.compile(rb"\tgolang\.zx2c4\.com/wireguard\t(v[0-9][^\t\n]*)")
_USERS: Final = range(0x70000000, 0x71000000)
"""Numbers that nobody else gives to users (https://systemd.io/UIDS-GIDS, "unused")."""
_CAPABILITIES: Final = "+net_admin,+dac_override"
"""To make and move an interface, and to open /dev/net/tun where only root may."""
_READY_SECONDS: Final = 5.0
_END_SECONDS: Final = 3.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of ``egress-gateway wireguard``."""

    socket: str = str(SOCKET)
    """Unix socket on which the host listens. Agents on the node reach it through a shared host
    path."""
    wireguard_go: str = "wireguard-go"
    """Program that makes a WireGuard interface."""

    def __post_init__(self) -> None:
        if not self.socket.startswith("/"):
            raise ValueError(f"socket: {self.socket!r} is not an absolute path")
        if shutil.which(self.wireguard_go) is None:
            raise ValueError(f"wireguard_go: there is no program {self.wireguard_go!r}")


class TunnelError(DatapathError):
    """A request that cannot be served; ``code`` is for programs."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(words)
        self.code = code


class _Process:
    """One running interface. ``ended`` is set when the process is gone and reaped."""

    def __init__(self, child: subprocess.Popen[bytes], path: Path) -> None:
        self.child = child
        self.path = path
        self.ended = asyncio.Event()
        self._pidfd = os.pidfd_open(child.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.child.wait()
        self.path.unlink(missing_ok=True)
        self.ended.set()

    async def end(self) -> None:
        if not self.ended.is_set():
            self.child.terminate()
            try:
                async with asyncio.timeout(_END_SECONDS):
                    await self.ended.wait()
            except TimeoutError:
                self.child.kill()
                await self.ended.wait()


class Tunnels:
    """The interfaces that this process hosts."""

    def __init__(self, program: str, sockets: Path = _SOCKETS) -> None:
        self._program = program
        self._sockets = sockets
        self._processes: dict[str, _Process] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._prepare = calls_spared()
        self._own_users = shutil.which("setpriv") is not None and _knows_users()
        if not self._own_users:
            log.warning(
                "tunnels run as this user: with setpriv (util-linux), and as root outside a user "
                "namespace, more than a hundred could run on a machine"
            )

    @property
    def version(self) -> str:
        """The program's, as it is installed now: processes that run may be older."""
        return release(self._program)

    def names(self) -> list[str]:
        """Those whose process lives."""
        return sorted(n for n, p in self._processes.items() if not p.ended.is_set())

    async def create(self, name: str) -> None:
        """Starts the interface and waits until it answers; one of that name is ended first."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            await self._end(name)
            path = self._sockets / f"{name}.sock"
            process = self._start(name, path)
            self._processes[name] = process
            if not await _answers(path, process):
                await self._end(name)
                raise TunnelError(
                    "failed",
                    f"{self._program} did not bring up {name}; see this process's log, "
                    "and check that /dev/net/tun exists",
                )
        log.info("interface up", extra={"interface": name, "pid": process.child.pid})

    def _start(self, name: str, path: Path) -> _Process:
        starting = command(self._program, name, own_user=self._own_users)
        try:
            # NB: this process has one thread, so a child may run ours before its program.
            return _Process(launch(starting, path, prepare=self._prepare), path)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise TunnelError(
                "failed", f"{self._program} cannot be run ({error}); install wireguard-go"
            ) from error

    async def delete(self, name: str) -> None:
        """Ends the process; nothing if there is none."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            await self._end(name)
        self._locks.pop(name, None)

    async def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            await process.end()
            process.path.unlink(missing_ok=True)

    def connect(self, name: str) -> socket.socket:
        """A connected configuration socket of the interface."""
        process = self._processes.get(name)
        if process is None or process.ended.is_set():
            raise TunnelError("missing", f"there is no interface {name}")
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            opened.connect(str(process.path))
        except OSError as error:
            opened.close()
            raise TunnelError("missing", f"interface {name} does not answer: {error}") from error
        return opened

    async def close(self) -> None:
        """Ends all processes."""
        await asyncio.gather(*(self._end(name) for name in list(self._processes)))


def command(program: str, name: str, *, own_user: bool) -> Sequence[str]:
    """What starts an interface; with ``own_user`` as a user that follows from its name."""
    if not own_user:
        return [program, name]
    user = str(_USERS[zlib.crc32(name.encode()) % len(_USERS)])
    identity = ["--reuid", user, "--regid", user, "--clear-groups"]
    kept = ["--inh-caps", _CAPABILITIES, "--ambient-caps", _CAPABILITIES]
    return ["setpriv", *identity, *kept, "--", program, name]


def launch(
    starting: Sequence[str], path: Path, *, prepare: Callable[[], None] | None = None
) -> subprocess.Popen[bytes]:
    """Starts an interface in the calling thread's network namespace, by its ``command``. It answers
    at ``path``. ``prepare`` runs in the child before the program. Raises ``OSError``.

    The listening socket is made here and handed down: whoever connects before the process listens
    waits in the backlog instead of polling for a file.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        path.chmod(0o600)
        listening.listen(16)
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "WG_PROCESS_FOREGROUND": "1",
            "WG_UAPI_FD": str(listening.fileno()),
        }
        return subprocess.Popen(
            starting,
            env=environment,
            pass_fds=[listening.fileno()],
            stdin=subprocess.DEVNULL,
            # It greets Linux users with a banner on stderr; errors go to stdout.
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=prepare,
        )


def release(program: str) -> str:
    """Version of a ``wireguard-go``: its module's, which Go writes into what it builds
    (https://pkg.go.dev/runtime/debug#BuildInfo), else the one that it tells, as Debian's does.
    Releases are rare: of the module's versions of four years three tell the same."""
    try:
        found = shutil.which(program) or program
        if built := _MODULE.search(Path(found).read_bytes()):
            return built[1].decode()
        told = subprocess.run(
            [found, "--version"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    matched = re.match(r"wireguard-go (v\S+)", told.stdout)
    return matched[1] if matched else "unknown"


def _knows_users() -> bool:
    """Whether this process may become any user: it is root, and not of a user namespace."""
    try:
        lines = Path("/proc/self/uid_map").read_text().split()
    except OSError:
        return False
    return os.geteuid() == 0 and int(lines[-1]) > _USERS[-1]


async def _answers(path: Path, process: _Process) -> bool:
    """Whether the interface answers its first question before its process ends."""
    ended = asyncio.ensure_future(process.ended.wait())
    asked = asyncio.ensure_future(_ask(path))
    done, pending = await asyncio.wait(
        {ended, asked}, timeout=_READY_SECONDS, return_when=asyncio.FIRST_COMPLETED
    )
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return asked in done and asked.exception() is None and asked.result()


async def _ask(path: Path) -> bool:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(b"get=1\n\n")
        await reader.readuntil(b"errno=0\n\n")
    except (OSError, asyncio.IncompleteReadError):
        return False
    finally:
        writer.close()
    return True


class TunnelServer:
    """Serves the protocol."""

    def __init__(self, tunnels: Tunnels) -> None:
        self._tunnels = tunnels

    async def serve(self, path: Path) -> None:
        """Listens until cancelled. Raises as ``Door.serve``."""
        await Door(path).serve(self._converse)

    async def _converse(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        rest = b""
        with connection, contextlib.suppress(OSError):
            connection.setblocking(False)
            while chunk := await loop.sock_recv(connection, 4096):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    answer, passed = await self._answer(line)
                    await _send(connection, answer, passed)

    async def _answer(self, line: bytes) -> tuple[dict[str, Any], socket.socket | None]:
        try:
            request = json.loads(line)
            operation, name = request["op"], request.get("name", "")
            if operation == "list":
                return {"names": self._tunnels.names(), "version": self._tunnels.version}, None
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise TunnelError("invalid", f"{name!r} is not an interface name")
            if operation == "connect":
                return {}, self._tunnels.connect(name)
            if operation == "create":
                await self._tunnels.create(name)
            elif operation == "delete":
                await self._tunnels.delete(name)
            else:
                raise TunnelError("invalid", f"unknown operation {operation!r}")
        except TunnelError as error:
            return {"error": str(error), "code": error.code}, None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return {"error": f"malformed request: {error}", "code": "invalid"}, None
        return {}, None


async def _send(
    connection: socket.socket, answer: dict[str, Any], passed: socket.socket | None
) -> None:
    encoded = json.dumps(answer).encode() + b"\n"
    if passed is None:
        await asyncio.get_running_loop().sock_sendall(connection, encoded)
        return
    with passed:
        # Far smaller than any socket buffer: it fits, or the peer is not reading at all.
        socket.send_fds(connection, [encoded], [passed.fileno()])


async def run(settings: Settings) -> None:
    """Serves until cancelled; then ends every interface (its pod is going away)."""
    tunnels = Tunnels(settings.wireguard_go)
    log.info("hosting tunnels", extra={"wireguard_go": tunnels.version})
    try:
        await TunnelServer(tunnels).serve(Path(settings.socket))
    finally:
        await tunnels.close()
