"""What the parts of the lab ask of each other, and nothing more.

``azure`` (the emulator) holds resources and wants machines and clusters made real.
``fabric`` makes packets do what the resources say. ``kube`` is an API server with controllers;
``runtime`` makes nodes and pods. Only ``lab.cluster`` knows all of them. Whoever replaces one part
(real Kubernetes in place of the embedded server, say) implements the protocol named here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any, Protocol

Resource = Mapping[str, Any]
"""An ARM resource as its GET answers it: ``id``, ``name``, ``type``, ``properties``, …"""


class Resources(Protocol):
    """Read-only sight of the emulator's resources. Ids compare without regard to case."""

    @property
    def revision(self) -> int:
        """Grows by at least one with every change."""
        ...

    def get(self, resource_id: str) -> Resource | None: ...

    def list(self, resource_type: str) -> Sequence[Resource]:
        """All resources of a type such as ``Microsoft.Network/loadBalancers``, whole
        documents. Scale set NICs are listed as ``Microsoft.Network/networkInterfaces`` too."""
        ...

    async def changed(self, since: int) -> int:
        """Waits until ``revision > since``; returns the revision."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """A virtual machine that should exist, and the Kubernetes node that it becomes.

    ``nic_id`` is the machine's primary NIC, ``address`` its primary private address,
    ``provider_id`` what ``Node.spec.providerID`` carries (``azure:///subscriptions/…``).
    """

    name: str
    vm_id: str
    nic_id: str
    address: IPv4Address
    provider_id: str
    pool: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[tuple[str, str, str], ...] = ()
    """(key, value, effect)."""
    kubernetes_version: str = ""
    """Of the kubelet, without the ``v``; empty: the runtime's own."""
    local_dns: bool = False
    """AKS's LocalDNS runs on it: pods and the node ask link-local addresses of the node's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """A managed cluster that should exist."""

    cluster_id: str
    name: str
    kubernetes_version: str
    node_resource_group: str
    location: str
    subscription: str
    tenant: str
    vnet_name: str
    subnet_name: str
    identity_client_id: str
    """Client id of the cluster's own identity: who the controller is."""
    pod_cidr: IPv4Network
    service_cidr: IPv4Network


class ClusterBackend(Protocol):
    """Makes clusters and machines real. The emulator awaits it inside its long-running
    operations: a pool is ``Succeeded`` when its nodes are Ready. Raises ``BackendError``."""

    async def create_cluster(self, spec: ClusterSpec) -> None: ...

    async def delete_cluster(self, cluster_id: str) -> None: ...

    async def kubeconfig(self, cluster_id: str, *, admin: bool) -> bytes: ...

    async def start_machine(self, cluster_id: str, machine: MachineSpec) -> None:
        """Boots the machine and waits until its node is Ready. Idempotent."""
        ...

    async def stop_machine(self, cluster_id: str, vm_id: str) -> None:
        """Deletes the Node object and ends the machine. Succeeds if there is none."""
        ...

    async def power_off(self, cluster_id: str, vm_id: str) -> None:
        """Ends the machine and leaves its Node object. Succeeds if there is none."""
        ...


class BackendError(Exception):
    """A machine or cluster could not be made; the message goes into the ARM operation."""


class TokenVerifier(Protocol):
    """Checks workload identity assertions for the token endpoint."""

    def verify(self, assertion: str) -> tuple[str, str]:
        """(issuer, subject) of a valid token of the cluster; raises ``PermissionError``."""
        ...


class Machine(Protocol):
    """A running machine, as the fabric and the runtime share it."""

    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int:
        """Process id (in the lab's PID namespace) of the machine's init."""
        ...


class Fabric(Protocol):
    """The network. It learns NICs, addresses, balancers from ``Resources`` alone; it is only
    told which running machine a NIC is plugged into and where pod addresses live."""

    async def plug(self, nic_id: str, machine: Machine) -> None:
        """Makes the machine's ``eth0`` with the NIC's primary address, and its routes."""
        ...

    async def unplug(self, nic_id: str) -> None: ...

    async def cut(self, nic_id: str, *, inbound: bool = True, outbound: bool = True) -> None:
        """Drops the NIC's packets in the given directions (power or cable gone)."""
        ...

    async def mend(self, nic_id: str) -> None: ...

    async def route_overlay(self, network: IPv4Network | IPv6Network, nic_id: str | None) -> None:
        """Pod addresses ``network`` live behind the NIC (None: nowhere any more)."""
        ...

    def has_ipv6(self, nic_id: str) -> bool:
        """Whether the NIC's subnet has IPv6: pods of its machine get addresses of both
        families."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the Kubernetes API: HTTP status and decoded body."""

    status: int
    body: Any


class KubeTransport(Protocol):
    """The Kubernetes API by path, in process or over HTTPS; same meaning either way."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Answer: ...

    def watch(
        self, path: str, *, query: Mapping[str, str] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Watch events ``{"type", "object"}``; ends when the server ends the watch."""
        ...


class ExecSession(Protocol):
    """A process in a container with its streams."""

    async def read(self) -> tuple[int, bytes] | None:
        """(1 | 2, chunk) from stdout or stderr; None when both have ended."""
        ...

    async def write(self, chunk: bytes) -> None: ...

    async def close_stdin(self) -> None: ...

    async def resize(self, columns: int, rows: int) -> None: ...

    async def wait(self) -> int:
        """Exit code."""
        ...

    async def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ContainerRef:
    """A container of a pod; without a name the pod's first."""

    namespace: str
    pod: str
    container: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """Which part of a container's output; ``previous``: of the run before this one."""

    follow: bool = False
    tail_lines: int | None = None
    previous: bool = False
    timestamps: bool = False


class PodRuntime(Protocol):
    """What an API server asks of kubelets. Raises ``LookupError`` when there is no such running
    container."""

    async def exec(
        self, at: ContainerRef, command: list[str], *, stdin: bool, tty: bool
    ) -> ExecSession: ...

    async def attach(self, at: ContainerRef, *, stdin: bool, tty: bool) -> ExecSession: ...

    def logs(self, at: ContainerRef, options: LogOptions) -> AsyncIterator[bytes]: ...
