"""Startup, readiness and liveness probes: exec in the container, HTTP and TCP from the machine."""

from __future__ import annotations

import asyncio
import signal
from typing import Any, Protocol

from egress_gateway_lab.runtime.kubelet.surroundings import Surroundings
from egress_gateway_lab.runtime.nodes.netsocket import connect
from egress_gateway_lab.runtime.nodes.node import MachineError, Process

Object = dict[str, Any]


class Probed(Protocol):
    """A container, as far as its probes go."""

    spec: Object
    started: bool
    ready: bool
    process: Process | None

    @property
    def name(self) -> str: ...


class Prober:
    """Runs one container's probes for one run of it."""

    def __init__(self, container: Probed, pod: Surroundings) -> None:
        self._container = container
        self._pod = pod
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Without a probe the container is started and ready at once."""
        spec = self._container.spec
        self._container.started = not spec.get("startupProbe")
        self._container.ready = self._container.started and not spec.get("readinessProbe")
        self._tasks = [asyncio.create_task(self._run())]

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _run(self) -> None:
        spec = self._container.spec
        if spec.get("startupProbe") and not await self._startup(spec["startupProbe"]):
            return
        if not spec.get("readinessProbe"):
            self._ready(True)
        else:
            self._tasks.append(asyncio.create_task(self._readiness(spec["readinessProbe"])))
        if spec.get("livenessProbe"):
            self._tasks.append(asyncio.create_task(self._liveness(spec["livenessProbe"])))

    def _ready(self, ready: bool) -> None:
        if self._container.ready != ready:
            self._container.ready = ready
            self._pod.changed()

    async def _startup(self, probe: Object) -> bool:
        failures = 0
        await asyncio.sleep(probe.get("initialDelaySeconds") or 0)
        while True:
            reason = await self._probe(probe)
            if reason is None:
                self._container.started = True
                self._pod.changed()
                return True
            failures += 1
            self._unhealthy("Startup", reason)
            if failures >= (probe.get("failureThreshold") or 3):
                await self._kill("startup")
                return False
            await asyncio.sleep(probe.get("periodSeconds") or 10)

    async def _readiness(self, probe: Object) -> None:
        failures = successes = 0
        await asyncio.sleep(probe.get("initialDelaySeconds") or 0)
        period = float(probe.get("periodSeconds") or 10)
        loop = asyncio.get_running_loop()
        told = loop.time()
        while True:
            reason = await self._probe(probe)
            if reason is None:
                successes, failures = successes + 1, 0
                if successes >= (probe.get("successThreshold") or 1):
                    self._ready(True)
            else:
                successes, failures = 0, failures + 1
                # Not each of the quick first tries below is worth an Event.
                if loop.time() - told >= period:
                    told = loop.time()
                    self._unhealthy("Readiness", reason)
                if failures >= (probe.get("failureThreshold") or 3):
                    self._ready(False)
            # The kubelet asks a container that is not ready yet more often than it must, too.
            await asyncio.sleep(period if self._container.ready else min(period, 0.25))

    async def _liveness(self, probe: Object) -> None:
        failures = 0
        await asyncio.sleep(probe.get("initialDelaySeconds") or 0)
        while True:
            reason = await self._probe(probe)
            failures = 0 if reason is None else failures + 1
            if reason is not None:
                self._unhealthy("Liveness", reason)
            if failures >= (probe.get("failureThreshold") or 3):
                await self._kill("liveness")
                return
            await asyncio.sleep(probe.get("periodSeconds") or 10)

    def _unhealthy(self, kind: str, reason: str) -> None:
        self._pod.event("Warning", "Unhealthy", f"{kind} probe failed: {reason}")

    async def _kill(self, kind: str) -> None:
        name = self._container.name
        message = f"Container {name} failed {kind} probe, will be restarted"
        self._pod.event("Normal", "Killing", message)
        process = self._container.process
        if process is None:
            return
        await process.send_signal(signal.SIGTERM)
        grace = self._pod.pod["spec"].get("terminationGracePeriodSeconds", 30)
        # Not a task of this prober's own to be cancelled at its end: the process must die.
        asyncio.get_running_loop().call_later(
            grace, lambda: asyncio.ensure_future(process.send_signal(signal.SIGKILL))
        )

    async def _probe(self, probe: Object) -> str | None:
        """None when it succeeds, else why not."""
        limit = float(probe.get("timeoutSeconds") or 1)
        try:
            if probe.get("exec"):
                done = await self._pod.node.run(
                    probe["exec"]["command"],
                    env=self._pod.base_env,
                    within=self._container.process,
                    limit=limit,
                )
                return None if done.code == 0 else (done.stdout + done.stderr).decode()[-200:]
            async with asyncio.timeout(limit):
                return await self._ask(probe)
        except TimeoutError:
            return f"no answer within {limit:g} s"
        except (OSError, MachineError) as error:
            return str(error)

    async def _ask(self, probe: Object) -> str | None:
        kind = next((kind for kind in ("httpGet", "tcpSocket") if probe.get(kind)), None)
        if kind is None:
            return "the lab has exec, httpGet and tcpSocket probes only"
        target: Object = probe[kind]
        host = await self._pod.address(target.get("host"))
        connection = await connect(self._pod.node.pid, host, self._port(target["port"]))
        try:
            if kind == "tcpSocket":
                return None
            return await _http_get(connection, host, target)
        finally:
            connection.close()

    def _port(self, port: int | str) -> int:
        if isinstance(port, int) or port.isdigit():
            return int(port)
        for entry in self._container.spec.get("ports") or []:
            if entry.get("name") == port:
                return int(entry["containerPort"])
        raise OSError(f"no port named {port}")


async def _http_get(connection: Any, host: str, target: Object) -> str | None:
    loop = asyncio.get_running_loop()
    path = target.get("path") or "/"
    headers = {"Host": host, "User-Agent": "kube-probe/lab", "Connection": "close"}
    headers |= {header["name"]: header["value"] for header in target.get("httpHeaders") or []}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    await loop.sock_sendall(connection, ("\r\n".join(lines) + "\r\n\r\n").encode())
    answer = b""
    while b"\r\n" not in answer:
        chunk = await loop.sock_recv(connection, 4096)
        if not chunk:
            return "the connection ended without an answer"
        answer += chunk
    status = answer.split(b"\r\n", 1)[0].split()
    code = int(status[1]) if len(status) > 1 and status[1].isdigit() else 0
    return None if 200 <= code < 400 else f"HTTP probe failed with statuscode: {code}"
