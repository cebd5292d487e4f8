"""An emulator that runs in a thread of its own, behind TLS, for clients that block."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from azure.identity import ClientSecretCredential

from egress_gateway_lab import pki
from egress_gateway_lab.azure.client import ArmClient
from egress_gateway_lab.azure.emulator import SUBSCRIPTION, TENANT, Emulator
from egress_gateway_lab.protocols import BackendError, ClusterSpec, MachineSpec

GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg"
CLUSTER = f"{GROUP}/providers/Microsoft.ContainerService/managedClusters/aks"
NODE_GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/MC_rg_aks_swedencentral"


@dataclass
class Machines:
    """A cluster backend that only remembers."""

    clusters: dict[str, ClusterSpec] = field(default_factory=dict)
    machines: dict[str, MachineSpec] = field(default_factory=dict)
    starts: list[str] = field(default_factory=list)
    """Ids in the order in which machines were started."""
    refuse: str = ""
    """Machines whose name contains this do not start."""

    async def create_cluster(self, spec: ClusterSpec) -> None:
        self.clusters[spec.cluster_id] = spec

    async def delete_cluster(self, cluster_id: str) -> None:
        self.clusters.pop(cluster_id, None)
        self.machines.clear()

    async def kubeconfig(self, cluster_id: str, *, admin: bool) -> bytes:
        return f"kubeconfig of {self.clusters[cluster_id].name} admin={admin}".encode()

    async def start_machine(self, cluster_id: str, machine: MachineSpec) -> None:
        if self.refuse and self.refuse in machine.name:
            raise BackendError(f"{machine.name} does not boot")
        self.machines[machine.vm_id] = machine
        self.starts.append(machine.vm_id)

    async def stop_machine(self, cluster_id: str, vm_id: str) -> None:
        self.machines.pop(vm_id, None)

    async def power_off(self, cluster_id: str, vm_id: str) -> None:
        self.machines.pop(vm_id, None)


class Assertions:
    """A token verifier that believes ``issuer|subject``."""

    def verify(self, assertion: str) -> tuple[str, str]:
        issuer, bar, subject = assertion.partition("|")
        if not bar:
            raise PermissionError("not a token of the cluster")
        return issuer, subject


@dataclass
class Running:
    """What a test needs of the running emulator."""

    emulator: Emulator
    machines: Machines
    base: str
    ca_file: str
    loop: asyncio.AbstractEventLoop

    def call(self, coroutine: Any) -> Any:
        """Runs a coroutine where the emulator lives."""
        future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        return future.result(60)


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[Running]:
    """The emulator on a free port of loopback, until the block ends."""
    identity = pki.issue(addresses=["127.0.0.1"], names=["localhost"])
    context = identity.context(folder)
    (folder / "ca.pem").write_bytes(identity.ca)
    machines = Machines()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="emulator")
    listening = socket.create_server(("127.0.0.1", 0))
    options = {"operation_seconds": 0.01, "verifier": Assertions(), **options}

    async def start() -> Emulator:
        emulator = Emulator(backend=machines, **options)
        await emulator.serve([listening], context)
        return emulator

    thread.start()
    try:
        emulator = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
        base = f"https://127.0.0.1:{listening.getsockname()[1]}"
        yield Running(emulator, machines, base, str(folder / "ca.pem"), loop)
        asyncio.run_coroutine_threadsafe(emulator.close(), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@asynccontextmanager
async def signed_in(azure: Running, client_id: str = "someone") -> AsyncIterator[ArmClient]:
    """A service principal, Owner unless it was known before."""
    trust = ssl.create_default_context(cafile=azure.ca_file)
    async with ArmClient(
        azure.base, trust, client_id=client_id, secret="any", poll_seconds=0.01
    ) as client:
        yield client


def credential(azure: Running) -> ClientSecretCredential:
    """Somebody who blocks: for Azure's own clients."""
    return ClientSecretCredential(
        TENANT,
        "someone",
        "any",
        authority=azure.base,
        disable_instance_discovery=True,
        connection_verify=azure.ca_file,
    )
