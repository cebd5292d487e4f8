"""The parts of a lab, put together: the only module that knows all of them.

Azure asks for clusters and machines (``ClusterBackend``); this makes them out of an API server, a
runtime and the fabric. Our components are installed as on any cluster, from the shipped manifests
and one Secret, and get no other word from the lab.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Final

import yaml

from egress_gateway.api import names
from egress_gateway.api.manifests import deploy_dir
from egress_gateway.lab.azure.emulator import Emulator
from egress_gateway.lab.control import ControlError, Operation
from egress_gateway.lab.fabric.fabric import Fabric
from egress_gateway.lab.kube.client import KubeClient, KubeError
from egress_gateway.lab.kube.server import ApiServer
from egress_gateway.lab.protocols import BackendError, ClusterSpec, MachineSpec
from egress_gateway.lab.runtime.machines import Machines, MachinesSettings, Running
from egress_gateway.lab.runtime.node import MachineError
from egress_gateway.lab.runtime.pod import Platform

log = logging.getLogger(__name__)

KUBERNETES_ADDRESS: Final = "10.225.0.4"
AZURE_ADDRESS: Final = "10.225.0.5"
NAMESERVER: Final = "168.63.129.16"
_IP_FREEBIND: Final = 15
_INVENTORY: Final = {
    "links": ["ip", "-o", "-br", "link"],
    "namespaces": ["ls", "/run/netns"],
    "rules": ["ip", "rule"],
    "routes": ["ip", "route", "show", "table", "all", "type", "unicast"],
    "tables": ["nft", "list", "tables"],
}


class Lab:
    """An async context manager; ``run`` until something of it fails."""

    def __init__(
        self,
        *,
        directory: Path,
        ca: bytes,
        tls: ssl.SSLContext,
        kubernetes: list[socket.socket],
        azure: list[socket.socket],
        options: dict[str, Any],
    ) -> None:
        self._directory = directory
        self._ca = ca
        self._tls = tls
        self._kubernetes = kubernetes
        self._azure = azure
        self._cluster: ClusterSpec | None = None
        self._specs: dict[str, MachineSpec] = {}
        self._inside = _listen(KUBERNETES_ADDRESS), _listen(AZURE_ADDRESS)
        self.emulator = Emulator(
            backend=self,
            verifier=self,
            operation_seconds=float(options.get("operation_seconds", 0.2)),
            state=Path(options["state"]) if options.get("state") else None,
        )
        self.fabric = Fabric(self.emulator.resources, token=self._machine_token)
        platform = Platform(
            api_host=KUBERNETES_ADDRESS, api_port=443, ca=ca.decode(), nameserver=NAMESERVER
        )
        self.machines = Machines(
            MachinesSettings(platform=platform),
            lambda node: self.server.node_transport(node),
            self.fabric,
        )
        self.server = self._new_server()

    def _new_server(self) -> ApiServer:
        """An empty API server on the lab's sockets."""
        return ApiServer(
            sockets=[s.dup() for s in (*self._kubernetes, self._inside[0])],
            tls=self._tls,
            ca_pem=self._ca.decode(),
            services=IPv4Network("10.0.0.0/16"),
            address=f"{KUBERNETES_ADDRESS}:443",
            runtime=self.machines,
        )

    @property
    def admin(self) -> KubeClient:
        return KubeClient(self.server.transport())

    async def __aenter__(self) -> Lab:
        await self.fabric.start()
        await self.server.start()
        await self.emulator.serve([*self._azure, self._inside[1]], self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.machines.close()
        await self.emulator.close()
        await self.server.stop()
        await self.fabric.close()

    async def run(self) -> None:
        """Follows the resources; returns only by cancellation."""
        await self.fabric.run()

    # -- protocols.ClusterBackend

    async def create_cluster(self, spec: ClusterSpec) -> None:
        if self._cluster is not None and self._cluster.cluster_id != spec.cluster_id:
            raise BackendError(
                f"this lab holds the cluster {self._cluster.name} already: "
                "delete it, or start a second lab for another one"
            )
        self._cluster = spec
        self.server.api.version = f"v{spec.kubernetes_version}"
        await self._install(spec)

    async def delete_cluster(self, cluster_id: str) -> None:
        await self.machines.close()
        self._specs.clear()
        self._cluster = None
        await self.server.stop()
        self.server = self._new_server()
        await self.server.start()

    async def kubeconfig(self, cluster_id: str, *, admin: bool) -> bytes:
        words = cluster_id.split("/")
        group, name = words[4], words[-1]
        # az calls a context "<cluster>-admin" when its user begins with clusterAdmin
        user = f"{'clusterAdmin' if admin else 'clusterUser'}_{group}_{name}"
        url = f"https://{_address(self._kubernetes[0])}"
        return self.server.kubeconfig(url, name=name, user=user)

    async def start_machine(self, cluster_id: str, machine: MachineSpec) -> None:
        self._specs[machine.name] = machine
        try:
            await self.machines.start(machine)
        except (MachineError, KubeError) as error:
            raise BackendError(f"machine {machine.name}: {error}") from error

    async def stop_machine(self, cluster_id: str, vm_id: str) -> None:
        found = [m for m in self._specs.values() if m.vm_id.lower() == vm_id.lower()]
        for machine in found:
            await self.admin.delete("nodes", machine.name)
            await self.machines.stop(machine.name)
            del self._specs[machine.name]

    # -- protocols.TokenVerifier

    def verify(self, assertion: str) -> tuple[str, str]:
        return self.server.verify(assertion)

    async def _install(self, spec: ClusterSpec) -> None:
        """What `kubectl apply -f deploy/` and one Secret do."""
        for document in _manifests("crds"):
            await self.admin.apply(document)
        for folder in ("manifests", "manifests/admission"):
            for document in _manifests(folder):
                await self.admin.apply(document)
        azure = {
            "cloud": "custom",
            "tenantId": spec.tenant,
            "subscriptionID": spec.subscription,
            "resourceGroup": spec.node_resource_group,
            "location": spec.location,
            "vnetName": spec.vnet_name,
            "subnetName": spec.subnet_name,
            "useFederatedWorkloadIdentityExtension": True,
            "aadClientId": spec.identity_client_id,
            "aadFederatedTokenFile": "/var/run/secrets/azure/tokens/azure-identity-token",
            "resourceManagerEndpoint": f"https://{AZURE_ADDRESS}",
            "activeDirectoryEndpoint": f"https://{AZURE_ADDRESS}",
            "caBundle": "/etc/egress-gateway/ca.crt",
        }
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "egress-gateway-azure", "namespace": names.SYSTEM_NAMESPACE},
            "stringData": {"azure.json": json.dumps(azure), "ca.crt": self._ca.decode()},
        }
        await self.admin.apply(secret)

    async def _machine_token(
        self, nic_id: str, resource: str, client_id: str | None
    ) -> Mapping[str, Any]:
        """Managed identities of machines, for the metadata service."""
        if client_id is None:
            raise PermissionError("name the identity's client_id: the machine may hold several")
        try:
            return self.emulator.machine_token(resource, client_id)
        except LookupError as error:
            raise PermissionError(str(error)) from error

    # -- what the control socket offers

    def operations(self) -> dict[str, Operation]:
        return {
            "status": self._status,
            "cut": self._cut,
            "mend": self._mend,
            "power_cut": self._power_cut,
            "power_on": self._power_on,
            "inventory": self._inventory,
            "requests": self._requests,
            "unexpected": self._unexpected,
            "fabric": self._fabric,
            "fault": self._fault,
        }

    async def _status(self, _: dict[str, Any]) -> Any:
        """Machines, and where to enter them: process ids and paths are the lab's own."""
        machines = []
        for name, spec in sorted(self._specs.items()):
            running = self.machines.get(name)
            machines.append(
                {
                    "name": name,
                    "state": "running" if running else "off",
                    "pid": running.node.pid if running else None,
                    "pool": spec.pool,
                    "addresses": [str(spec.address)],
                    "pods": str(running.pod_cidr) if running else None,
                }
            )
        return {
            "cluster": self._cluster.name if self._cluster else None,
            "memory_bytes": await asyncio.to_thread(_memory),
            "machines": machines,
            "internet": str(self.fabric.internet.namespace.path),
        }

    async def _cut(self, arguments: dict[str, Any]) -> Any:
        nic = self._machine(arguments["node"]).nic_id
        direction = arguments.get("direction", "both")
        if direction == "internet":
            await self.fabric.cut_internet(nic)
        else:
            await self.fabric.cut(
                nic,
                inbound=direction in ("both", "inbound"),
                outbound=direction in ("both", "outbound"),
            )
        return {}

    async def _mend(self, arguments: dict[str, Any]) -> Any:
        await self.fabric.mend(self._machine(arguments["node"]).nic_id)
        return {}

    async def _power_cut(self, arguments: dict[str, Any]) -> Any:
        await self.machines.power_cut(self._machine(arguments["node"]).name)
        return {}

    async def _power_on(self, arguments: dict[str, Any]) -> Any:
        await self.machines.start(self._machine(arguments["node"]))
        return {}

    async def _inventory(self, _: dict[str, Any]) -> Any:
        running = [r for n in self.machines.names() if (r := self.machines.get(n))]
        found = await asyncio.gather(*(_take_inventory(r) for r in running))
        return {r.spec.name: kinds for r, kinds in zip(running, found, strict=True)}

    async def _requests(self, arguments: dict[str, Any]) -> Any:
        """What the Internet's and the company's hosts were asked, by path."""
        start = arguments.get("path_prefix", "/")
        sites = (self.fabric.internet, self.fabric.on_premises)
        return [
            {"source": str(r.source), "path": r.path, "host": r.host, "time": r.time}
            for site in sites
            for r in site.requests
            if r.path.startswith(start)
        ]

    async def _unexpected(self, arguments: dict[str, Any]) -> Any:
        """Packets that reached a host of the Internet (``host``: its name, or ``destination``:
        its address) from outside the networks ``expected``."""
        if "host" in arguments:
            destination = self.fabric.names.get(arguments["host"])
            if destination is None:
                known = ", ".join(sorted(self.fabric.names))
                raise ControlError(f"no host {arguments['host']!r} in this lab; there are: {known}")
        else:
            destination = IPv4Address(arguments["destination"])
        expected = [IPv4Network(text) for text in arguments["expected"]]
        seen = self.fabric.internet.unexpected(destination, expected)
        return [
            {"source": str(one.source), "protocol": one.protocol, "packets": one.packets}
            for one in seen
        ]

    async def _fabric(self, _: dict[str, Any]) -> Any:
        return await self.fabric.describe()

    async def _fault(self, arguments: dict[str, Any]) -> Any:
        return self.emulator.faults.command(arguments)

    def _machine(self, name: str) -> MachineSpec:
        found = self._specs.get(name)
        if found is None:
            known = ", ".join(sorted(self._specs)) or "none"
            raise ControlError(f"no machine {name!r} in this lab; there are: {known}")
        return found


def _memory() -> int:
    """Bytes that the lab's processes hold together, shared pages counted once (Pss, proc(5)).
    The lab is PID 1 of its namespace: what ``/proc`` shows is the lab."""
    total = 0
    for file in Path("/proc").glob("[0-9]*/smaps_rollup"):
        with contextlib.suppress(OSError):
            lines = file.read_text().splitlines()
            total += sum(int(x.split()[1]) * 1024 for x in lines if x.startswith("Pss:"))
    return total


async def _take_inventory(machine: Running) -> dict[str, list[str]]:
    found = {}
    for kind, command in _INVENTORY.items():
        with contextlib.suppress(MachineError):
            done = await machine.node.run(command)
            found[kind] = sorted(line.strip() for line in done.stdout.decode().splitlines())
    return found


def _manifests(folder: str) -> Iterator[dict[str, Any]]:
    """The YAML documents of ``deploy/<folder>``: namespaces first, then by file name."""
    documents = [
        document
        for file in sorted((deploy_dir() / folder).glob("*.yaml"))
        for document in yaml.load_all(file.read_text(), Loader=yaml.CSafeLoader)
        if document
    ]
    yield from sorted(documents, key=lambda d: d["kind"] != "Namespace")


def _listen(address: str) -> socket.socket:
    """NB: before the fabric has the address: it comes up with the router."""
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    server.bind((address, 443))
    server.listen(256)
    server.setblocking(False)
    return server


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"{host}:{port}"
