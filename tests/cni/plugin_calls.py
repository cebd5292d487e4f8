"""Calls the plugin as a container runtime does: stdin, environment, stdout, exit code."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egress_gateway.api import names
from egress_gateway.cni import binary

PREV_RESULT = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "eth0", "sandbox": "/run/netns/x"}],
    "ips": [{"address": "10.244.0.7/24", "gateway": "10.244.0.1", "interface": 0}],
    "dns": {},
}


@dataclass(frozen=True)
class Done:
    code: int
    out: bytes

    @property
    def error(self) -> dict[str, Any]:
        answer = json.loads(self.out)
        assert isinstance(answer, dict)
        return answer


def config(run_dir: Path, *, annotation: str | None = None, **more: Any) -> dict[str, Any]:
    conf: dict[str, Any] = {
        "cniVersion": "1.0.0",
        "name": "lab",
        "type": names.CNI_PLUGIN,
        "runDir": str(run_dir),
        "prevResult": PREV_RESULT,
    }
    if annotation is not None:
        conf["runtimeConfig"] = {names.CNI_CAPABILITY: {names.POD_ANNOTATION: annotation}}
    return conf | more


def call(
    command: str | None, stdin: dict[str, Any] | bytes, *, plugin: Path | None = None, **env: str
) -> Done:
    environment = {
        "CNI_CONTAINERID": "c0ffee",
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u-1",
    } | env
    if command is not None:
        environment["CNI_COMMAND"] = command
    raw = stdin if isinstance(stdin, bytes) else json.dumps(stdin).encode()
    done = subprocess.run(
        [plugin or binary.path()],
        input=raw,
        env={k: v for k, v in environment.items() if v},
        stdout=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    return Done(done.returncode, done.stdout)


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


class FakeAgent:
    """Listens as the node agent does; answers every request with ``reply`` (None: never)."""

    def __init__(self, run_dir: Path, reply: bytes | None) -> None:
        self._reply = reply
        self._stopped = threading.Event()
        self.requests: list[dict[str, Any]] = []
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(run_dir / "cni.sock"))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            # A plugin that has heard enough hangs up.
            with connection, contextlib.suppress(OSError):
                request = read_all(connection)
                if self._stopped.is_set():
                    return
                self.requests.append(json.loads(request))
                if self._reply is None:
                    self._stopped.wait()
                else:
                    connection.sendall(self._reply)

    def stop(self) -> None:
        self._stopped.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


@contextlib.contextmanager
def agent(run_dir: Path, reply: bytes | None = b"ok\n") -> Iterator[FakeAgent]:
    fake = FakeAgent(run_dir, reply)
    try:
        yield fake
    finally:
        fake.stop()
