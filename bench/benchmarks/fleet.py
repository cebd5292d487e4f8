"""What a large cluster asks of the API server for our agents, and of the agents themselves.

The API server is a real one with etcd. The fleet is on paper: Nodes, annotated Pods with their
PodEndpoints, configurations as the controller leaves them. One node agent and one gateway agent of
it are real, the shipped programs, and each reaches the API server through a relay of its own that
counts bytes. All of it has a network of its own, with nothing in it but loopback and one link.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from bench.errors import BenchError
from bench.figures import percentile, table
from bench.machine import say
from bench.options import Fleet, Options
from bench.place.process import Usage, component, until
from egress_gateway.api import keys, keysecret, names
from egress_gateway.api.manifests import crd_files
from egress_gateway.datapath.linux.link import Links, Route
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.wireguard.model import Interface
from egress_gateway.datapath.wireguard.userspace import UserspaceBackend
from egress_gateway.node.reporting.endpoints import NODE_LABEL
from egress_gateway_lab.apiserver.wire.client import KubeClient, KubeError
from egress_gateway_lab.realcluster import binaries
from egress_gateway_lab.realcluster.control_plane import ADMINISTRATOR, ControlPlane, Settings

_LINK: Final = "eth0"
_HOST: Final = ipaddress.IPv4Interface("10.240.0.4/16")
_ROUTER: Final = ipaddress.IPv4Address("10.240.0.1")
_PODS: Final = ipaddress.IPv4Network("10.128.0.0/10")
_ADDRESSES: Final = ipaddress.IPv4Network("10.241.0.0/16")
_AT_ONCE: Final = 32
_PATIENCE: Final = 300.0
_LOOK: Final = 0.005
_READY: Final = {"node": 8083, "gateway": 8085}
_KINDS: Final = ("podendpoints", "staticgatewayconfigurations", "gatewaystatuses")
_CONTROLLERS: Final = "--controllers=serviceaccount-controller,serviceaccount-token-controller"
"""No other: they would find out that the nodes are of paper."""
_NAMESPACE: Final = "default"
_START: Final = ("seconds", "cpu_seconds", "memory_mb", "private_mb", "kilobytes")


async def run(options: Options) -> dict[str, Any]:
    """In a process of its own, whose network and /run are its own."""
    binaries.find(*binaries.CONTROL_PLANE)
    command = ["unshare", "--net", "--mount", "--propagation", "private", "--"]
    command += ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", __name__]
    process = await asyncio.create_subprocess_exec(
        *command, json.dumps(asdict(options.fleet)), stdout=asyncio.subprocess.PIPE
    )
    try:
        told, _ = await process.communicate()
    except BaseException:
        process.terminate()
        await process.wait()
        raise
    if process.returncode:
        raise BenchError("fleet: ended early, see above")
    found: dict[str, Any] = json.loads(told)
    return found


def shown(result: dict[str, Any]) -> str:
    fleet = result["fleet"]
    lines = [", ".join(f"{number:,} {what}" for what, number in fleet.items()), ""]
    head = ("agent", "ready s", "its cpu s", "MB", "private", "start KB")
    rest = ("rest B/s", "requests/min", "cpu %")
    churn = ("churn B/s", "requests/s", "cpu %", "API restart KB")
    rows = [
        (
            name,
            *(one["start"][key] for key in _START),
            *(one["rest"][key] for key in ("bytes_a_second", "requests_a_minute", "cpu_percent")),
            one["churn"]["bytes_a_second"],
            one["churn"]["requests_a_second"],
            one["churn"]["cpu_percent"],
            one["api_restart"]["kilobytes"],
        )
        for name, one in result["agents"].items()
    ]
    lines.append(table((*head, *rest, *churn), rows))
    lines += ["", f"egress-gateway status --all-namespaces: {result['status']['wall_s']} s"]
    peers = result["peers"]
    lines += ["", f"PodEndpoint to peer: p50 {peers['p50_ms']} ms, p99 {peers['p99_ms']} ms"]
    return "\n".join(lines)


# --- the API server, and who listens to it --------------------------------------------------


@dataclass
class Relay:
    """Passes bytes on to the API server, and counts what comes back."""

    port: int
    received: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            theirs, ours = await asyncio.open_connection("127.0.0.1", self.port)
            ways = (self._pump(reader, ours, counted=False), self._pump(theirs, writer))
            _, others = await asyncio.wait(
                [asyncio.ensure_future(way) for way in ways], return_when=asyncio.FIRST_COMPLETED
            )
            for way in others:
                way.cancel()
            ours.close()
        writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool = True
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                self.received += len(data) if counted else 0
                writer.write(data)
                await writer.drain()


@dataclass
class Agent:
    """A real agent of the fleet. ``kind``: ``node`` or ``gateway``."""

    kind: str
    process: asyncio.subprocess.Process
    relay: Relay

    async def ready(self, end: float) -> None:
        while time.monotonic() < end:
            if self.process.returncode is not None:
                raise BenchError(f"the {self.kind} agent ended: {self.process.returncode}")
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", _READY[self.kind])
                writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
                answer = await reader.readline()
                writer.close()
                if b" 200 " in answer:
                    return
            await asyncio.sleep(0.05)
        raise BenchError(f"the {self.kind} agent is not ready")

    @property
    def usage(self) -> Usage:
        return Usage.of(self.process.pid)


class FleetBench:
    """A fleet, an API server that holds it, and what is measured on both."""

    def __init__(self, fleet: Fleet, folder: Path, plane: ControlPlane, kube: KubeClient) -> None:
        self._fleet = fleet
        self._folder = folder
        self._plane = plane
        self._kube = kube
        self._next = 0
        self._came = 0

    async def measured(self) -> dict[str, Any]:
        await self._fill()
        status = await self._status()
        say(f"fleet: status: {status}")
        agents: dict[str, Any] = {}
        peers: dict[str, Any] = {}
        for kind in ("node", "gateway"):
            async with self._agent(kind) as agent:
                agents[kind], moments = await self._measure(agent)
                if kind == "gateway":
                    peers = {
                        "samples": len(moments),
                        "p50_ms": round(percentile(moments, 50) * 1000),
                        "p99_ms": round(percentile(moments, 99) * 1000),
                    }
            say(f"fleet: {kind}: {json.dumps(agents[kind])}")
        fleet = asdict(self._fleet)
        return {"fleet": fleet, "agents": agents, "peers": peers, "status": status}

    async def _status(self) -> dict[str, float]:
        """What `egress-gateway status` of everything takes: the best of three, seconds."""
        config = self._folder / "person"
        config.write_bytes(self._plane.kubeconfig(*ADMINISTRATOR))
        command = (sys.executable, "-m", "egress_gateway.cli.main", "status", "--all-namespaces")
        found = []
        for _ in range(3):
            began = time.monotonic()
            process = await asyncio.create_subprocess_exec(
                *(*command, "--kubeconfig", str(config)), stdout=asyncio.subprocess.DEVNULL
            )
            await process.wait()
            found.append(round(time.monotonic() - began, 2))
        return {"wall_s": min(found)}

    async def _measure(self, agent: Agent) -> tuple[dict[str, Any], list[float]]:
        began = time.monotonic()
        await agent.ready(began + _PATIENCE)
        start = {
            "seconds": round(time.monotonic() - began, 2),
            "cpu_seconds": agent.usage.cpu_seconds,
            "kilobytes": round(agent.relay.received / 1000, 1),
        }
        await asyncio.sleep(self._fleet.rest_seconds / 4)
        rest, _ = await self._while(agent, asyncio.sleep(self._fleet.rest_seconds))
        used = agent.usage
        start |= {"memory_mb": used.memory_mb, "private_mb": used.private_mb}
        churn, moments = await self._while(agent, self._churn(agent))
        churn["pods"] = self._came
        before = agent.relay.received
        self._plane.kill("kube-apiserver")
        self._plane.launch_again("kube-apiserver")
        await asyncio.sleep(self._fleet.rest_seconds)
        again = {"kilobytes": round((agent.relay.received - before) / 1000, 1)}
        return {"start": start, "rest": rest, "churn": churn, "api_restart": again}, moments or []

    async def _while(
        self, agent: Agent, doing: Awaitable[list[float] | None]
    ) -> tuple[dict[str, Any], list[float] | None]:
        """What the agent costs while something goes on."""
        requests, received = await self._requests(), agent.relay.received
        cpu, began = agent.usage.cpu_seconds, time.monotonic()
        found = await doing
        seconds = time.monotonic() - began
        asked = (await self._requests() - requests).total()
        return {
            "bytes_a_second": round((agent.relay.received - received) / seconds),
            "requests_a_second": round(asked / seconds, 2),
            "requests_a_minute": round(asked / seconds * 60, 1),
            "cpu_percent": round((agent.usage.cpu_seconds - cpu) / seconds * 100, 1),
        }, found

    async def _requests(self) -> Counter[str]:
        """Answered so far, by verb and kind: of our kinds, which nobody else asks for. Our own
        writes have other verbs."""
        text = await self._metrics()
        found: Counter[str] = Counter()
        for labels, value in re.findall(r"^apiserver_request_total\{(.*)\} (\S+)$", text, re.M):
            known = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if known["resource"] in _KINDS and known["verb"] in ("LIST", "WATCH", "GET", "APPLY"):
                found[f"{known['verb']} {known['resource']}"] += int(float(value))
        return found

    async def _metrics(self) -> str:
        async with self._plane.transport() as transport:
            answer = await transport.request("GET", "/metrics")
            return str(answer.body)

    # -- what is on paper

    async def _fill(self) -> None:
        fleet = self._fleet
        for path in crd_files():
            await self._kube.apply(yaml.safe_load(path.read_text()))
        await self._kube.apply(_object("Namespace", names.SYSTEM_NAMESPACE))
        await until(self._served, "the definitions to be served", limit=_PATIENCE)
        say(f"fleet: writing {fleet.nodes} nodes, {fleet.gateways} gateways")
        gateways = [_gateway(number) for number in range(fleet.gateways)]
        await self._all(
            self._node(name, number) for number, name in enumerate([*gateways, *self._workers])
        )
        say(f"fleet: writing {fleet.configurations} configurations")
        await self._all(self._configuration(number) for number in range(fleet.configurations))
        say(f"fleet: writing {fleet.pods} pods")
        await self._all(self._pod(self._number()) for _ in range(fleet.pods))

    @property
    def _workers(self) -> list[str]:
        return [f"worker-{number}" for number in range(self._fleet.nodes)]

    def _number(self) -> int:
        self._next += 1
        return self._next

    async def _served(self) -> bool:
        with contextlib.suppress(KubeError):
            for kind in _KINDS:
                await self._kube.list(kind)
            return True
        return False

    async def _all(self, doing: Iterable[Awaitable[object]]) -> None:
        turn = asyncio.Semaphore(_AT_ONCE)

        async def one(what: Awaitable[object]) -> None:
            async with turn:
                await what

        async with asyncio.TaskGroup() as group:
            for what in doing:
                group.create_task(one(what))

    async def _node(self, name: str, number: int) -> None:
        address = str(_HOST.ip + number)
        labels = {names.AKS_MODE_LABEL: "gateway"} if name.startswith("gateway") else {}
        node = _object("Node", name, labels=labels) | {"spec": {"providerID": f"azure:///{name}"}}
        await self._kube.create("nodes", node)
        status = {
            "addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        await self._kube.patch("nodes", name, {"status": status}, subresource="status")

    @property
    def _pools(self) -> int:
        """How many gateway pools there are, of two gateways each."""
        return max(1, self._fleet.gateways // 2)

    def _pool(self, number: int) -> range:
        """The gateways of a configuration."""
        first = number % self._pools * 2
        return range(first, min(first + 2, self._fleet.gateways))

    async def _configuration(self, number: int) -> None:
        name, pools = f"configuration-{number}", self._pools
        port = names.PORT_FIRST + number // pools
        made = _ours("StaticGatewayConfiguration", name)
        made["spec"] = {"gatewayNodepoolName": f"pool-{number % pools}"}
        created = await self._kube.create("staticgatewayconfigurations", made)
        uid, pair = created["metadata"]["uid"], keys.generate()
        secret = _object("Secret", names.key_secret(uid), namespace=names.SYSTEM_NAMESPACE)
        await self._kube.create("secrets", secret | {"data": keysecret.data_of(pair)})
        second = number // pools * 2
        created["status"] = {
            "egressIpPrefix": "198.51.100.0/31",
            "gatewayServerProfile": {
                "ip": "10.240.255.254",
                "port": port,
                "publicKey": pair.public,
            },
            "gateways": [
                {
                    "node": _gateway(gateway),
                    "primaryIp": str(_HOST.ip + gateway),
                    "secondaryIp": str(_ADDRESSES[1 + 512 * (number % pools) + second + index]),
                    "publicIp": f"198.51.100.{index}",
                }
                for index, gateway in enumerate(self._pool(number))
            ],
            "conditions": [
                {
                    "type": kind,
                    "status": "True",
                    "reason": kind,
                    "message": "two gateways serve it",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
                for kind in ("Provisioned", "Ready")
            ],
        }
        await self._kube.patch(
            "staticgatewayconfigurations",
            name,
            {"status": created["status"]},
            namespace=_NAMESPACE,
            subresource="status",
        )

    async def _pod(self, number: int, node: str = "") -> str:
        """An annotated Pod with its PodEndpoint; returns its public key."""
        name, configuration = f"pod-{number}", f"configuration-{self._of(number)}"
        node, address = node or f"worker-{number % self._fleet.nodes}", str(_PODS[number])
        pod = _object("Pod", name, namespace=_NAMESPACE)
        pod["metadata"]["annotations"] = {names.POD_ANNOTATION: configuration}
        container = {"name": "app", "image": "example/app:1"}
        pod["spec"] = {"nodeName": node, "containers": [container]}
        uid = (await self._kube.create("pods", pod))["metadata"]["uid"]
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        await self._kube.patch(
            "pods", name, {"status": status}, namespace=_NAMESPACE, subresource="status"
        )
        key = keys.generate().public
        endpoint = _ours("PodEndpoint", name)
        endpoint["metadata"] |= {
            "labels": {NODE_LABEL: node},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}],
        }
        endpoint["spec"] = {
            "staticGatewayConfiguration": configuration,
            "podIpAddress": address,
            "podIps": [address],
            "podPublicKey": key,
            "podUid": uid,
            "nodeName": node,
        }
        await self._kube.create("podendpoints", endpoint)
        return key

    def _of(self, number: int) -> int:
        return number % self._fleet.configurations

    async def _unpod(self, number: int) -> None:
        name = f"pod-{number}"
        await self._kube.delete("podendpoints", name, namespace=_NAMESPACE)
        await self._kube.delete("pods", name, namespace=_NAMESPACE, grace_seconds=0)

    async def _churn(self, agent: Agent) -> list[float]:
        """Pods come and go at the fleet's rate. With a gateway, how long some of them took from
        their PodEndpoint to the peer."""
        moments: list[float] = []
        pace, end = 1 / self._fleet.churn, time.monotonic() + self._fleet.churn_seconds
        async with asyncio.TaskGroup() as group:
            number = 0
            while time.monotonic() < end:
                began = time.monotonic()
                number += 1
                group.create_task(self._come_and_go(agent, number, moments))
                await asyncio.sleep(max(0.0, pace - (time.monotonic() - began)))
        self._came = number
        return moments

    async def _come_and_go(self, agent: Agent, turn: int, moments: list[float]) -> None:
        number = self._number()
        sampled = agent.kind == "gateway" and turn % 10 == 0
        if sampled:  # of a configuration that this gateway serves
            while self._of(number) % self._pools:
                number += 1
            self._next = max(self._next, number)
        key = await self._pod(number)
        if sampled:
            began = time.monotonic()
            await self._peer(key, self._of(number))
            moments.append(time.monotonic() - began)
        await self._unpod(number)

    async def _peer(self, key: str, configuration: int) -> None:
        """Returns when the gateway's interface has the peer."""
        name = f"wg-{names.PORT_FIRST + configuration // self._pools}"
        backend = UserspaceBackend(path=self._folder / "gateway/tunnels.sock")
        interface, end = Interface(name, NetNS.current(), name), time.monotonic() + 30

        def there() -> bool:
            device = backend.status(interface)
            return device is not None and key in device.peers

        while not await asyncio.to_thread(there):
            if time.monotonic() > end:
                raise BenchError(f"{name} has not heard of a pod after 30 s")
            await asyncio.sleep(_LOOK)

    # -- the agents

    @contextlib.asynccontextmanager
    async def _agent(self, kind: str) -> AsyncIterator[Agent]:
        relay = Relay(self._plane.port)
        server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        folder = self._folder / kind
        folder.mkdir()
        (folder / "kubeconfig").write_bytes(self._plane.kubeconfig(*ADMINISTRATOR, server=url))
        for needed in ("bin", "conf", "cache"):
            (folder / needed).mkdir()
        (folder / "conf/10-net.conflist").write_text(
            json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "loopback"}]})
        )
        settings = {
            "NODE_NAME": "worker-0" if kind == "node" else _gateway(0),
            "KUBECONFIG": folder / "kubeconfig",
            "RUN_DIR": folder,
        }
        if kind == "node":
            directories = {"BIN": "bin", "CONF": "conf", "CACHE": "cache"}
            settings |= {f"CNI_{name}_DIR": folder / path for name, path in directories.items()}
        else:
            settings["VERIFY_TARGETS"] = ""
        try:
            async with (
                component("wireguard", {"SOCKET": folder / "tunnels.sock"}, folder / "tunnels.log"),
                component(kind, settings, folder / "agent.log") as process,
            ):
                yield Agent(kind, process, relay)
        finally:
            server.close()


def _gateway(number: int) -> str:
    return f"gateway-{number}"


def _object(kind: str, name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, **metadata}}


def _ours(kind: str, name: str) -> dict[str, Any]:
    return _object(kind, name, namespace=_NAMESPACE) | {"apiVersion": names.API_VERSION}


def _surroundings() -> None:
    """/run of its own, and the link of a node, whose other end leads nowhere."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    here = NetNS.current()
    with Links(here) as links:
        links.set_up("lo")
        links.add_veth(_LINK, "nowhere", here)
        for name in (_LINK, "nowhere"):
            links.set_up(name)
        links.add_address(_LINK, _HOST)
        default = ipaddress.IPv4Network("0.0.0.0/0")
        links.replace_routes([Route(destination=default, gateway=_ROUTER, device=_LINK)])


async def _main(fleet: Fleet) -> dict[str, Any]:
    _surroundings()
    programs = binaries.find(*binaries.CONTROL_PLANE)
    # A short path: sockets are in it.
    with tempfile.TemporaryDirectory(prefix="fleet-", dir="/run") as made:
        folder = Path(made)
        plane = ControlPlane(
            Settings(directory=folder / "plane", controllers=(_CONTROLLERS,)), programs
        )
        await plane.start()
        try:
            async with plane.transport() as transport:
                kube = KubeClient(transport, manager="bench")
                return await FleetBench(fleet, folder, plane, kube).measured()
        finally:
            plane.stop()


def main() -> None:
    """The process of its own: settings in, figures out, both JSON."""
    fleet = Fleet(**json.loads(sys.argv[1]))
    try:
        json.dump(asyncio.run(_main(fleet)), sys.stdout)
    except* (BenchError, binaries.Unavailable, KubeError) as group:
        sys.exit(f"bench: fleet: {group.exceptions[0]}")


if __name__ == "__main__":
    main()
