"""Two controllers, each behind doors of its own: what either does is seen, and can be cut off.

A controller is the shipped process with the ServiceAccount's token, of the image that users get
where the lab would take that (``realcluster.filesystems.shipped``). Between it and both APIs stand
TCP relays that note every request as it passes (``Record``): the order of what happened is then
read from one list, not from clocks of several processes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from egress_gateway.api import names
from egress_gateway_lab.apiserver.wire.client import KubeClient
from egress_gateway_lab.realcluster.filesystems import shipped
from lab.tests.apiserver.conftest import Cluster
from tests.contract.controller.azure_lab import AzureLab


@dataclass
class Record:
    """What happened, in order: (seconds of a monotonic clock, who, what)."""

    events: list[tuple[float, str, str]] = field(default_factory=list)

    def note(self, who: str, what: str) -> None:
        self.events.append((time.monotonic(), who, what))

    def first(self, who: str, what: str, *, after: float = 0.0) -> float | None:
        return next((t for t, w, x in self.events if (w, x) == (who, what) and t > after), None)

    def last(self, who: str, what: str) -> float | None:
        return next((t for t, w, x in reversed(self.events) if (w, x) == (who, what)), None)


class Relay:
    """A TCP port that leads to another one until it is cut."""

    def __init__(self, url: str, record: Record, who: str, what: str) -> None:
        self._target = (urlsplit(url).hostname or "", urlsplit(url).port or 443)
        self._record, self._who, self._what = record, who, what
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut = False

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        while self._tasks:  # each ends with its connection
            self.cut()
            await asyncio.wait(self._tasks, timeout=0.1)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Ends what is connected and refuses what comes."""
        self._cut = True
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._cut:
                return
            inner, outer = await asyncio.open_connection(*self._target)
            self._writers |= {writer, outer}
            with contextlib.suppress(OSError):
                await asyncio.gather(
                    self._carry(reader, outer, noted=True), self._carry(inner, writer, noted=False)
                )
            outer.transport.abort()
        except OSError:
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _carry(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, noted: bool
    ) -> None:
        while chunk := await source.read(65536):
            if noted:
                self._record.note(self._who, self._what)
            sink.write(chunk)
            await sink.drain()
        sink.transport.abort()


@dataclass
class Controller:
    """A controller process and its doors."""

    name: str
    process: asyncio.subprocess.Process
    kubernetes: Relay
    azure: Relay
    log: Path

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


def program() -> list[str]:
    """What starts a component: the image's entry point in its own files, or the checkout's."""
    found = shipped.chosen()
    if found is None:
        return [sys.executable, "-m", "egress_gateway.cli.main"]
    image = found.image()
    variables = [f"{name}={value}" for name, value in image.env.items()]
    script = 'root=$1; shift; for f in dev proc tmp; do mount --rbind /$f "$root/$f"; done; '
    script += 'exec env -i "$@"'
    root = str(shipped.tree(found))
    inside = [*variables, "/usr/sbin/chroot", root, *image.entrypoint]  # which has no env(1)
    return ["unshare", "--mount", "sh", "-ec", script, "sh", root, *inside]


@contextlib.asynccontextmanager
async def controller(
    name: str, cluster: Cluster, azure: AzureLab, record: Record, folder: Path
) -> AsyncIterator[Controller]:
    """Starts a controller named ``name`` in the Lease; it is dead when this ends."""
    base = azure.config["resourceManagerEndpoint"]
    async with (
        Relay(cluster.url, record, name, "kubernetes") as kubernetes,
        Relay(base, record, name, "azure") as door,
    ):
        config = folder / f"{name}.kubeconfig"
        config.write_bytes(await _kubeconfig(cluster, kubernetes.url))
        azure_json = folder / f"{name}.azure.json"
        endpoints = {"resourceManagerEndpoint": door.url, "activeDirectoryEndpoint": door.url}
        azure_json.write_text(json.dumps(azure.config | endpoints))
        log = folder / f"{name}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *program(),
                "controller",
                *("--kubeconfig", str(config), "--azure-config", str(azure_json)),
                *("--identity", name, "--drift-interval", "0.3"),
                *("--health-address", "127.0.0.1", "--health-port", "0"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            yield Controller(name, process, kubernetes, door, log)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _kubeconfig(cluster: Cluster, server: str) -> bytes:
    token = await cluster.admin.create(
        "serviceaccounts",
        {"spec": {"expirationSeconds": 3600}},
        namespace=names.SYSTEM_NAMESPACE,
        name="egress-gateway-controller",
        sub="token",
    )
    ca = base64.b64encode(cluster.ca.encode()).decode()
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [
                {"name": "c", "cluster": {"server": server, "certificate-authority-data": ca}}
            ],
            "users": [{"name": "c", "user": {"token": token["status"]["token"]}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        }
    ).encode()


@contextlib.asynccontextmanager
async def watching(admin: KubeClient, record: Record) -> AsyncIterator[None]:
    """Notes every new holder of the Lease, as the API server tells it."""

    async def follow() -> None:
        holder = ""
        events = admin.watch("leases", namespace=names.SYSTEM_NAMESPACE)
        try:
            async for event in events:
                spec = event["object"].get("spec") or {}
                if event["type"] == "BOOKMARK" or not spec:
                    continue
                if spec.get("holderIdentity", "") != holder:
                    holder = spec.get("holderIdentity", "")
                    record.note(holder or "nobody", "leads")
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
