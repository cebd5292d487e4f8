"""A lab with all that a storm needs before it begins, and the names that its roles have there."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final

import aiohttp

from egress_gateway.api import names
from egress_gateway_lab import host
from egress_gateway_lab.apiserver.wire.transport import HttpTransport
from egress_gateway_lab.demo.world import NETWORK_CONTRIBUTOR, VERSIONS, World, is_ready, until
from egress_gateway_lab.protocols import Answer
from egress_gateway_lab.realcluster.filesystems.trees import PYTHON
from tests.storms import processes
from tests.storms.script import GATEWAYS, PREFIXES, WORKERS

POOL: Final = "npegress"
CLUSTER: Final = IPv4Network("192.0.2.0/24")
"""What plain pods leave from."""
_TALKER: Final = (Path(__file__).parent / "judge/talker.py").read_text()
_PATIENCE: Final = 120.0
_API: Final = "10.225.0.4"
_NO_API: Final = f"""nft '
table inet storm {{
  chain there {{ type filter hook postrouting priority 400; ip daddr {_API} drop; }}
  chain back {{ type filter hook prerouting priority -400; ip saddr {_API} drop; }}
}}' && echo done"""
"""Whoever asks by the Service's address is seen once that is translated."""
_ASK_AGAIN: Final = 0.3
_RESTART_LIMIT: Final = 1.0
"""Seconds that real kubelets wait at most before they start again what was killed. Kubernetes' own
pauses (10 s the second time, then twice that) would be all that a storm measures."""


class Patient(HttpTransport):
    """Asks again while the API server is away or has no answer, for some minutes, as people do: on
    a busy machine it takes more than one to start."""

    async def request(self, method: str, path: str, **more: Any) -> Answer:
        deadline = time.monotonic() + 180
        while True:
            away = time.monotonic() < deadline
            try:
                answer = await super().request(method, path, **more)
                if answer.status < 500 or not away:
                    return answer
            except aiohttp.ClientError:
                if not away:
                    raise
            await asyncio.sleep(_ASK_AGAIN)


@dataclass(slots=True)
class Place:
    """Handles on a running lab. ``kubernetes``: its kind. ``prefixes``: networks by role."""

    world: World
    handle: host.LabHandle
    kubernetes: str = "embedded"
    prefixes: dict[str, IPv4Network] = field(default_factory=dict)
    azure: dict[str, Any] = field(default_factory=dict)
    inventory: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    internet: str = ""

    @property
    def python(self) -> str:
        """The one in the image of a storm's pods."""
        return sys.executable if self.kubernetes == "embedded" else PYTHON

    async def machines(self) -> dict[str, dict[str, Any]]:
        """By role: name, state and process of each machine."""
        status = await self.world.control.call("status")
        ours = sorted(status["machines"], key=lambda m: m["name"])
        workers = [m for m in ours if m["pool"] != POOL]
        gateways = [m for m in ours if m["pool"] == POOL]
        found = {f"w{n}": m for n, m in enumerate(workers)}
        return found | {f"g{n}": m for n, m in enumerate(gateways)}

    async def name(self, role: str) -> str:
        """What the lab calls the machine. Raises ``LookupError``."""
        found: str = (await self.machines())[role]["name"]
        return found

    async def run(self, role: str, script: str, *, limit: float = 20) -> str:
        """A shell script on a machine; what it printed, whatever it ended with."""
        command = ["sh", "-c", script]
        done = await self.world.control.call(
            "run", node=await self.name(role), command=command, limit=limit
        )
        return str(done["stdout"])

    @contextlib.asynccontextmanager
    async def without_api(self, *roles: str) -> AsyncIterator[None]:
        """Nothing on these machines reaches the API server meanwhile, and nothing of it arrives:
        not even an event of a watch that was open before."""
        for role in roles:
            assert await self.run(role, _NO_API) == "done\n"
        try:
            yield
        finally:
            for role in roles:
                await self.run(role, "nft delete table inet storm")

    async def ours(self, component: str, role: str = "") -> list[int]:
        """Process ids (the host's) of a component (or of a real node's program), of one machine or
        of all."""
        found = [p for p in processes.of_lab(self.handle.pid) if p.component == component]
        if role:
            machine = (await self.machines())[role]["pid"]
            if machine is None:
                return []
            network = os.readlink(f"/proc/{self.handle.pid}/root/proc/{machine}/ns/net")
            found = [p for p in found if p.network == network]
        return [p.pid for p in found]

    async def in_pod(self, address: str, command: str) -> None:
        """A shell command in the network namespace of the pod that talks to ``address``."""
        for process in processes.of_lab(self.handle.pid):
            if process.command.rstrip(b"\0").endswith(b"\0" + address.encode()):
                entered = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "sh", "-c", command]
                done = await asyncio.create_subprocess_exec(
                    *entered, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
                )
                await done.wait()
                return

    async def scale(self, count: int) -> None:
        """Raises ``RequestFailed`` while Azure is busy with the pool."""
        await self.world.add_gateway_pool(POOL, nodes=count, prefix_size=30)

    async def ready(self, *, gateways: int = len(GATEWAYS)) -> None:
        async def all_of_ours() -> bool:
            pods = await self.world.kube.list("pods", namespace=names.SYSTEM_NAMESPACE)
            return len(pods) >= 2 * len(WORKERS) + 3 * gateways + 1 and all(map(is_ready, pods))

        await until(all_of_ours, timeout=_PATIENCE, what="our components to be ready")

    def spec(self, prefix: str, exclude: list[str]) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "gatewayNodepoolName": POOL,
            "publicIpPrefixId": self.world.prefix_id(prefix),
        }
        return spec | ({"excludeCidrs": exclude} if exclude else {})

    async def azure_json(self) -> Path:
        """The controller's own configuration, for who stands outside of the lab."""
        secret = await self.world.kube.get(
            "secrets", "egress-gateway-azure", namespace=names.SYSTEM_NAMESPACE
        )
        known = json.loads(base64.b64decode(secret["data"]["azure.json"]))
        for one in ("useFederatedWorkloadIdentityExtension", "aadFederatedTokenFile"):
            del known[one]
        endpoint = self.handle.azure
        known |= {
            "aadClientId": "demo",
            "aadClientSecret": "any",
            "resourceManagerEndpoint": endpoint,
            "activeDirectoryEndpoint": endpoint,
            "caBundle": str(self.handle.ca),
        }
        path = self.handle.path / "azure.json"
        path.write_text(json.dumps(known))
        return path


@contextlib.asynccontextmanager
async def built(name: str, *, kubernetes: str = "embedded") -> AsyncIterator[Place]:
    """The lab, its cluster, the gateway pool and prefixes; our components are ready."""
    host.require_host(kubernetes)
    # Without Compute's buckets: a day's changes happen in half a minute here.
    options = {"least_gateways": 0, "compute_share": None, "kubernetes": kubernetes}
    # NB: in this thread, whose end (and no other's) is the lab's.
    handle = host.start(name, options=options | {"restart_limit": _RESTART_LIMIT}, detach=False)
    # The embedded server is always there, and its errors are nobody's fault but its own.
    transport = Patient if kubernetes == "real" else HttpTransport
    try:
        async with World(handle, transport=transport) as world:
            place = Place(world, handle, kubernetes)
            await world.create_group()
            await world.create_cluster(nodes=len(WORKERS), version=VERSIONS[kubernetes])
            await world.get_credentials()
            await world.add_gateway_pool(POOL, nodes=len(GATEWAYS), prefix_size=30)
            await place.ready()
            cluster = await world.arm.get(world.cluster_id, "2026-06-01")
            for prefix in PREFIXES:
                made = await world.create_prefix(prefix, length=30)
                place.prefixes[prefix] = IPv4Network(made["properties"]["ipPrefix"])
                await world.grant(
                    cluster["identity"]["principalId"], NETWORK_CONTRIBUTOR, world.prefix_id(prefix)
                )
            inside = (await world.control.call("status"))["internet"]
            place.internet = f"/proc/{handle.pid}/fd/{inside.rpartition('/')[2]}"
            place.azure = await world.fingerprint()
            place.inventory = await world.inventory()
            yield place
    finally:
        host.stop(handle)


def pod(
    name: str, worker: str, configuration: str, address: str, *, python: str = sys.executable
) -> dict[str, Any]:
    """A pod that talks to ``address`` from its first moment on. ``worker``: the node's name.
    ``python``: where its image has one."""
    annotations = {names.POD_ANNOTATION: configuration} if configuration else {}
    command = [python, "-I", "-S", "-c", _TALKER, address]
    # Nobody's storm is about registries, whose absence kubelets answer with pauses of their own.
    container = {"name": "talker", "image": "busybox", "imagePullPolicy": "IfNotPresent"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": worker},
            "terminationGracePeriodSeconds": 1,
            "containers": [container | {"command": command}],
        },
    }
