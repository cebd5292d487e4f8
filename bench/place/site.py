"""A lab for benchmarks: the real one, with gateways, a configuration, and ways into its machines.

Everything measured in here is the shipped code, started from the shipped manifests by the lab. The
lab is this process's child and dies with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.errors import BenchError
from bench.machine import say
from egress_gateway.api import names
from egress_gateway_lab import host
from egress_gateway_lab.demo.world import World, until
from egress_gateway_lab.runtime.machine.rootfs import HOST

POOL: Final = "npegress"
CONFIGURATION: Final = "bench"
DESTINATION: Final = "198.51.100.20"
"""A host of the lab's Internet that nobody else talks to."""
_MIRROR: Final = "kubernetes.io/config.mirror"
_ROOT: Final = Path(__file__).resolve().parents[2]
_AT_ONCE: Final = 16
_PATIENCE: Final = 20.0
_SPACES: Final = ("-m", "-p", "-u", "-i", "-n")
_LINE: Final = 1 << 26


@dataclass(slots=True)
class LeanPod:
    """A pod without containers: an object in the API and a namespace on a node. The kubelet leaves
    it to us (a mirror pod); network namespace, CNI chain, node agent and gateways are real."""

    name: str
    uid: str
    node: str
    annotations: dict[str, str] = field(default_factory=dict)
    address: str = ""


class NodeProgram:
    """``bench.load.innode`` on one machine of the lab: one JSON object a line each way, in turn."""

    def __init__(self, node: str, process: asyncio.subprocess.Process) -> None:
        self.node = node
        self._process = process
        self._lock = asyncio.Lock()

    async def call(self, operation: str, **arguments: Any) -> Any:
        """Raises ``BenchError`` with the program's words."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = json.dumps({"op": operation, **arguments}).encode() + b"\n"
        async with self._lock:
            with contextlib.suppress(OSError):
                self._process.stdin.write(line)
                await self._process.stdin.drain()
            answer = await self._process.stdout.readline()
        if not answer:
            raise BenchError(f"the program on {self.node} has ended")
        found = json.loads(answer)
        if isinstance(found, dict) and "failed" in found:
            raise BenchError(f"{operation} on {self.node}: {found['failed']}")
        return found

    async def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), 5)
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Site:
    """Handles on a running lab. ``workers`` and ``gateways`` are names of machines."""

    def __init__(self, handle: host.LabHandle, world: World) -> None:
        self.handle = handle
        self.world = world
        self.workers: list[str] = []
        self.gateways: list[str] = []
        self.prefix = ""
        self._programs: dict[str, NodeProgram] = {}

    async def machines(self) -> dict[str, dict[str, Any]]:
        status = await self.world.control.call("status")
        return {machine["name"]: machine for machine in status["machines"]}

    def _lab(self) -> list[str]:
        return ["nsenter", "-t", str(self.handle.pid), *_SPACES, "--"]

    async def on(self, node: str, *command: str) -> list[str]:
        """The argument list that runs ``command`` on a machine."""
        pid = (await self.machines())[node]["pid"]
        if pid is None:
            raise BenchError(f"machine {node} is off")
        return [*self._lab(), "nsenter", "-t", str(pid), *_SPACES, "--", *command]

    async def on_internet(self, *command: str) -> list[str]:
        """The argument list that runs ``command`` in the lab's Internet."""
        status = await self.world.control.call("status")
        return [*self._lab(), "nsenter", f"--net={status['internet']}", "--", *command]

    async def run(self, node: str, script: str, *, check: bool = True) -> str:
        """Runs a shell script on a machine. Raises ``BenchError`` with what it said."""
        process = await asyncio.create_subprocess_exec(
            *await self.on(node, "sh", "-ec", script),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        if check and process.returncode:
            raise BenchError(f"{node}: {script}: {(err + out).decode().strip()}")
        return out.decode()

    async def program(self, node: str) -> NodeProgram:
        """The program on a machine; started when it is first needed."""
        known = self._programs.get(node)
        if known is None:
            command = await self.on(node, sys.executable, "-m", "bench.load.innode")
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                # Where a machine shows the host's files, wherever they are: /tmp is its own.
                env={**os.environ, "PYTHONPATH": f"{HOST}{_ROOT}"},
                limit=_LINE,
            )
            known = self._programs[node] = NodeProgram(node, process)
        return known

    async def configure(self, name: str = CONFIGURATION) -> None:
        """A configuration with a managed prefix, ready on all gateways."""
        await self.world.configure(name, {"gatewayNodepoolName": POOL})
        found = await self.world.configuration_condition(
            name, lambda c: c["type"] == "Ready" and c["status"] == "True", timeout=90
        )
        self.prefix = found["status"]["egressIpPrefix"]

    async def configuration(self, name: str = CONFIGURATION) -> dict[str, Any]:
        found: dict[str, Any] = await self.world.kube.get(
            "staticgatewayconfigurations", name, namespace="default"
        )
        return found

    async def make_pods(
        self, count: int, *, stem: str, nodes: list[str], annotated: bool = True
    ) -> list[LeanPod]:
        """Pod objects, spread over ``nodes``; their networks come with ``attach``."""
        turn = asyncio.Semaphore(_AT_ONCE)

        async def make(number: int) -> LeanPod:
            node = nodes[number % len(nodes)]
            annotations = {names.POD_ANNOTATION: CONFIGURATION} if annotated else {}
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{stem}-{number}",
                    "namespace": "default",
                    "annotations": {**annotations, _MIRROR: "bench"},
                },
                "spec": {"nodeName": node, "containers": [{"name": "none", "image": "busybox"}]},
            }
            async with turn:
                made = await self.world.kube.create("pods", pod)
            return LeanPod(made["metadata"]["name"], made["metadata"]["uid"], node, annotations)

        return list(await asyncio.gather(*(make(number) for number in range(count))))

    async def attach(self, pod: LeanPod, *, plain_chain: bool = False) -> dict[str, Any]:
        """CNI ADD, as the machine's runtime would call it; then the status that a kubelet
        writes. Raises ``BenchError`` when a plugin refuses."""
        program = await self.program(pod.node)
        found: dict[str, Any] = await program.call(
            "add",
            name=pod.name,
            uid=pod.uid,
            annotations=pod.annotations,
            plain_chain=plain_chain,
        )
        pod.address = found["address"]
        if not plain_chain:
            status = {
                "phase": "Running",
                "podIP": pod.address,
                "podIPs": [{"ip": pod.address}],
            }
            await self.world.kube.patch(
                "pods", pod.name, {"status": status}, namespace="default", subresource="status"
            )
        return found

    async def attach_all(self, pods: list[LeanPod]) -> None:
        """One at a time on each node, all nodes at once."""
        by_node: dict[str, list[LeanPod]] = {}
        for pod in pods:
            by_node.setdefault(pod.node, []).append(pod)
        done = 0

        async def one_node(mine: list[LeanPod]) -> None:
            nonlocal done
            for pod in mine:
                for attempt in range(3):
                    try:
                        await self.attach(pod)
                        break
                    except BenchError as error:
                        if attempt == 2:
                            raise
                        say(f"{pod.name}: {error}")
                done += 1
                if done % 50 == 0:
                    say(f"{done} of {len(pods)} pods attached")

        await asyncio.gather(*(one_node(mine) for mine in by_node.values()))

    async def detach(self, pod: LeanPod) -> None:
        """CNI DEL and the end of the object."""
        await (await self.program(pod.node)).call("del", name=pod.name)
        await self.world.kube.delete("pods", pod.name, namespace="default", grace_seconds=0)

    async def wrong_packets(self) -> int:
        """Packets that reached ``DESTINATION`` from outside the prefix, counted at the edge."""
        seen = await self.world.control.call(
            "unexpected", destination=DESTINATION, expected=[self.prefix]
        )
        return sum(one["packets"] for one in seen)

    async def close(self) -> None:
        await asyncio.gather(*(p.close() for p in self._programs.values()), return_exceptions=True)


@contextlib.asynccontextmanager
async def site(
    *,
    workers: int,
    gateways: int = 2,
    node_settings: dict[str, str] | None = None,
    gateway_settings: dict[str, str] | None = None,
) -> AsyncIterator[Site]:
    """A lab with a cluster, a gateway pool and one configuration, all ready.

    ``node_settings`` and ``gateway_settings`` are added to the agents' environment.
    """
    say(f"starting a lab: {workers} nodes, {gateways} gateways")
    # NB: in this thread, whose end (and no other's) is the lab's.
    # AKS has no gateway pool of fewer than two nodes; some benchmarks begin with one, or go to one.
    options = {"least_gateways": 1}
    handle = host.start(f"bench-{os.getpid()}", options=options, detach=False)
    try:
        async with World(handle) as world:
            made = Site(handle, world)
            try:
                # Gateways refuse mirror pods' claims otherwise: nobody admitted such a pod.
                mirrored = {"EGRESS_GATEWAY_MIRROR_PODS": "true"}
                settings = {
                    "node": node_settings or {},
                    "gateway": mirrored | (gateway_settings or {}),
                }
                await _populate(made, workers, gateways, settings)
                yield made
            finally:
                await made.close()
    finally:
        host.stop(handle)


@contextlib.asynccontextmanager
async def answering(lab: Site) -> AsyncIterator[None]:
    """A process of its own in the lab's Internet that accepts and echoes (``bench.load.opener``).
    The lab's own hosts share a process with its API server, which has much to do when hundreds of
    pods move. Raises ``BenchError``."""
    command = await lab.on_internet(sys.executable, "-m", "bench.load.opener", DESTINATION)
    server = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        if not await asyncio.wait_for(server.stdout.readline(), _PATIENCE):
            raise BenchError(f"nobody answers at {DESTINATION}: bench.load.opener has ended")
        yield
    finally:
        # NB: not by a signal: it is nsenter that would get it, and its child would live on.
        server.stdin.close()
        await server.wait()


async def _populate(
    made: Site, workers: int, gateways: int, settings: dict[str, dict[str, str]]
) -> None:
    world = made.world
    await world.create_group()
    await world.create_cluster(nodes=workers)
    await world.get_credentials()
    for agent, environment in settings.items():
        if environment:
            await _set_environment(world, f"egress-gateway-{agent}", environment)
    size = 31 if gateways <= 2 else 28
    await world.add_gateway_pool(POOL, nodes=gateways, prefix_size=size)
    for machine in (await made.machines()).values():
        (made.gateways if machine["pool"] == POOL else made.workers).append(machine["name"])
    await _agents_ready(world, workers + gateways)
    say("configuring")
    await made.configure()


async def _set_environment(world: World, name: str, environment: dict[str, str]) -> None:
    namespace = names.SYSTEM_NAMESPACE
    agent = await world.kube.get("daemonsets", name, namespace=namespace)
    container = agent["spec"]["template"]["spec"]["containers"][0]
    container["env"] += [{"name": key, "value": value} for key, value in environment.items()]
    patch = {"spec": {"template": agent["spec"]["template"]}}
    await world.kube.patch("daemonsets", name, patch, namespace=namespace)


async def _agents_ready(world: World, nodes: int) -> None:
    async def rolled_out() -> bool:
        for name, wanted in (("egress-gateway-node", nodes), ("egress-gateway-gateway", 1)):
            found = await world.kube.get("daemonsets", name, namespace=names.SYSTEM_NAMESPACE)
            status = found.get("status", {})
            if status.get("observedGeneration") != found["metadata"]["generation"]:
                return False
            if min(status.get("numberReady", 0), status.get("updatedNumberScheduled", 0)) < wanted:
                return False
        return True

    await until(rolled_out, timeout=120, what="our agents to be ready on every node")
