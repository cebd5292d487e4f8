"""The parts of a lab, put together: the only module that knows all of them.

Azure asks for clusters and machines (``ClusterBackend``); this makes them out of Kubernetes (the
embedded server with emulated kubelets, or the real programs) and the fabric. Our components are
installed as on any cluster and get no other word from the lab.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from egress_gateway_lab import pki
from egress_gateway_lab.azure.emulator import COMPUTE_SHARE, Emulator
from egress_gateway_lab.control import ControlError, Operation
from egress_gateway_lab.embedded import EmbeddedKubernetes, EmbeddedSettings
from egress_gateway_lab.fabric.fabric import Fabric
from egress_gateway_lab.protocols import BackendError, ClusterSpec, MachineSpec
from egress_gateway_lab.runtime.nodes.node import MachineError, Node

if TYPE_CHECKING:
    from egress_gateway_lab.realcluster.real import RealKubernetes

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
        name: str,
        directory: Path,
        authority: pki.Authority,
        kubernetes: socket.socket,
        azure: socket.socket,
        options: dict[str, Any],
    ) -> None:
        self._name = name
        self._directory = directory
        self._authority = authority
        self._azure = azure, _listen(AZURE_ADDRESS)
        self._cluster: ClusterSpec | None = None
        self._specs: dict[str, MachineSpec] = {}
        self._tls = authority.server(
            addresses=["127.0.0.1", KUBERNETES_ADDRESS, AZURE_ADDRESS],
            names=["localhost", "kubernetes.default.svc", "management.lab.invalid"],
        ).context(directory)
        self.emulator = Emulator(
            backend=self,
            verifier=self,
            operation_seconds=float(options.get("operation_seconds", 0.2)),
            compute_share=options.get("compute_share", COMPUTE_SHARE),
            least_gateways=int(options.get("least_gateways", 2)),
            state=Path(options["state"]) if options.get("state") else None,
        )
        self.fabric = Fabric(self.emulator.resources, token=self._machine_token)
        real = options.get("kubernetes") == "real"
        self.kubernetes = self._real(kubernetes, options) if real else self._embedded(kubernetes)

    def _embedded(self, listening: socket.socket) -> EmbeddedKubernetes:
        settings = EmbeddedSettings(
            address=KUBERNETES_ADDRESS,
            nameserver=NAMESERVER,
            ca=self._authority.ca,
            tls=self._tls,
        )
        return EmbeddedKubernetes(settings, [listening, _listen(KUBERNETES_ADDRESS)], self.fabric)

    def _real(self, listening: socket.socket, options: dict[str, Any]) -> RealKubernetes:
        # Labs of the other kind need not know of it.
        from egress_gateway_lab.realcluster.real import RealKubernetes, RealSettings

        settings = RealSettings(
            lab=self._name,
            directory=self._directory,
            address=KUBERNETES_ADDRESS,
            nameserver=NAMESERVER,
            authority=self._authority,
            restart_limit=options.get("restart_limit"),
        )
        return RealKubernetes(settings, listening, self.fabric)

    async def __aenter__(self) -> Lab:
        await self.fabric.start()
        await self.kubernetes.start()
        await self.emulator.serve([*self._azure], self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.emulator.close()
        await self.kubernetes.close()
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
        try:
            await self.kubernetes.create(spec, _azure_configuration(spec))
        except BackendError:
            self._cluster = None
            raise

    async def delete_cluster(self, cluster_id: str) -> None:
        await self.kubernetes.delete()
        self._specs.clear()
        self._cluster = None

    async def kubeconfig(self, cluster_id: str, *, admin: bool) -> bytes:
        words = cluster_id.split("/")
        group, name = words[4], words[-1]
        # az calls a context "<cluster>-admin" when its user begins with clusterAdmin
        user = f"{'clusterAdmin' if admin else 'clusterUser'}_{group}_{name}"
        return self.kubernetes.kubeconfig(name=name, user=user)

    async def start_machine(self, cluster_id: str, machine: MachineSpec) -> None:
        self._specs[machine.name] = machine
        await self.kubernetes.start_machine(machine)

    async def stop_machine(self, cluster_id: str, vm_id: str) -> None:
        found = [m for m in self._specs.values() if m.vm_id.lower() == vm_id.lower()]
        for machine in found:
            await self.kubernetes.stop_machine(machine.name)
            del self._specs[machine.name]

    async def power_off(self, cluster_id: str, vm_id: str) -> None:
        for machine in self._specs.values():
            if machine.vm_id.lower() == vm_id.lower() and self._running(machine.name):
                await self.kubernetes.machines.power_cut(machine.name)

    # -- protocols.TokenVerifier

    def verify(self, assertion: str) -> tuple[str, str]:
        return self.kubernetes.verify(assertion)

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
            "lose_sandbox": self._lose_sandbox,
            "inventory": self._inventory,
            "run": self._run,
            "control_plane": self._control_plane,
            "requests": self._requests,
            "unexpected": self._unexpected,
            "ipv6_sources": self._ipv6_sources,
            "fabric": self._fabric,
            "fault": self._fault,
            "quota": self._quota,
        }

    async def _status(self, _: dict[str, Any]) -> Any:
        """Machines, and where to enter them: process ids and paths are the lab's own."""
        machines = []
        for name, spec in sorted(self._specs.items()):
            running = self._running(name)
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
            "kubernetes_kind": self.kubernetes.kind,
            "memory_bytes": await asyncio.to_thread(_memory),
            "machines": machines,
            "internet": str(self.fabric.internet.namespace.path),
        }

    async def _cut(self, arguments: dict[str, Any]) -> Any:
        nic = self._machine(arguments["node"]).nic_id
        direction = arguments.get("direction", "both")
        if direction == "internet":
            await self.fabric.cut_internet(nic)
        elif direction == "tunnels":
            await self.fabric.cut_tunnels(nic)
        elif direction in ("large", "internet6"):
            await self.fabric.cut(nic, inbound=False, outbound=False, **{direction: True})
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
        await self.kubernetes.machines.power_cut(self._machine(arguments["node"]).name)
        return {}

    async def _power_on(self, arguments: dict[str, Any]) -> Any:
        """With ``reimage`` the machine has lost its disk."""
        if arguments.get("reimage"):
            self.kubernetes.wipe_disk(self._machine(arguments["node"]).name)
        await self.kubernetes.start_machine(self._machine(arguments["node"]))
        return {}

    async def _lose_sandbox(self, arguments: dict[str, Any]) -> Any:
        """Kills a pod's pause process: ``namespace``, ``pod``."""
        await self.kubernetes.lose_sandbox(arguments["namespace"], arguments["pod"])
        return {}

    async def _inventory(self, _: dict[str, Any]) -> Any:
        running = {n: r.node for n in sorted(self._specs) if (r := self._running(n))}
        found = await asyncio.gather(*(_take_inventory(node) for node in running.values()))
        return dict(zip(running, found, strict=True))

    async def _run(self, arguments: dict[str, Any]) -> Any:
        """A command on a machine, as `az vmss run-command` runs one: ``node``, ``command`` (words),
        ``stdin`` (text), ``limit`` (seconds)."""
        machine = self._running(self._machine(arguments["node"]).name)
        if machine is None:
            raise ControlError(f"machine {arguments['node']} is off")
        stdin = str(arguments.get("stdin", "")).encode()
        done = await machine.node.run(
            list(arguments["command"]), stdin=stdin, limit=float(arguments.get("limit", 60))
        )
        shown = {"stdout": done.stdout, "stderr": done.stderr}
        return {"code": done.code} | {k: v.decode(errors="replace") for k, v in shown.items()}

    async def _control_plane(self, arguments: dict[str, Any]) -> Any:
        """``kill`` a ``program`` of the real control plane, or ``start`` it again (``action``)."""
        self.kubernetes.outage(arguments["program"], begins=arguments["action"] == "kill")
        return {}

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

    async def _ipv6_sources(self, _: dict[str, Any]) -> Any:
        """IPv6 packets that reached the Internet, by source; the link's own talk left out."""
        seen = await asyncio.to_thread(self.fabric.internet.packets6)
        own = {source for source in seen if source.is_link_local or source.is_unspecified}
        return {str(source): packets for source, packets in seen.items() if source not in own}

    async def _fabric(self, _: dict[str, Any]) -> Any:
        return await self.fabric.describe()

    async def _quota(self, arguments: dict[str, Any]) -> Any:
        return self.emulator.azure.addresses.command(arguments)

    async def _fault(self, arguments: dict[str, Any]) -> Any:
        return self.emulator.faults.command(arguments)

    def _running(self, name: str) -> Any:
        """A machine that is up, with ``node`` and ``pod_cidr``; None if it is off."""
        return self.kubernetes.machines.get(name)

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


async def _take_inventory(node: Node) -> dict[str, list[str]]:
    found = {}
    for kind, command in _INVENTORY.items():
        with contextlib.suppress(MachineError):
            done = await node.run(command)
            found[kind] = sorted(line.strip() for line in done.stdout.decode().splitlines())
    return found


def _azure_configuration(spec: ClusterSpec) -> dict[str, Any]:
    """azure.json: where the components find Azure, and who they are there."""
    return {
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


def _listen(address: str) -> socket.socket:
    """NB: before the fabric has the address: it comes up with the router."""
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    server.bind((address, 443))
    server.listen(256)
    server.setblocking(False)
    return server
