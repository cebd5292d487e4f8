"""The lab's cluster on the embedded API server: it, the emulated kubelets, the plain manifests."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any, Final

import yaml

from egress_gateway.api import names
from egress_gateway.api.manifests import deploy_dir
from egress_gateway_lab.apiserver.server import ApiServer
from egress_gateway_lab.apiserver.wire.client import KubeClient, KubeError
from egress_gateway_lab.protocols import BackendError, ClusterSpec, Fabric, MachineSpec
from egress_gateway_lab.runtime.kubelet.images import previous
from egress_gateway_lab.runtime.kubelet.pod import Platform
from egress_gateway_lab.runtime.nodes.machines import Machines, MachinesSettings
from egress_gateway_lab.runtime.nodes.node import MachineError


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedSettings:
    """``address``: the API's, on the fabric."""

    address: str
    nameserver: str
    ca: bytes
    tls: ssl.SSLContext


class EmbeddedKubernetes:
    """Serves on ``listening``: the host's loopback first, then the fabric's address."""

    kind: Final = "embedded"

    def __init__(
        self, settings: EmbeddedSettings, listening: list[socket.socket], fabric: Fabric
    ) -> None:
        self._settings = settings
        self._listening = listening
        platform = Platform(
            api_host=settings.address,
            api_port=443,
            ca=settings.ca.decode(),
            nameserver=settings.nameserver,
        )
        self.machines = Machines(
            MachinesSettings(platform=platform),
            lambda node: self.server.node_transport(node),
            fabric,
        )
        self.server = self._new_server()

    def _new_server(self) -> ApiServer:
        """An empty API server on the lab's sockets."""
        return ApiServer(
            sockets=[s.dup() for s in self._listening],
            tls=self._settings.tls,
            ca_pem=self._settings.ca.decode(),
            services=IPv4Network("10.0.0.0/16"),
            address=f"{self._settings.address}:443",
            runtime=self.machines,
        )

    @property
    def admin(self) -> KubeClient:
        return KubeClient(self.server.transport())

    async def start(self) -> None:
        await self.server.start()

    async def close(self) -> None:
        await self.machines.close()
        await self.server.stop()

    async def create(self, spec: ClusterSpec, azure: Mapping[str, Any]) -> None:
        """What `kubectl apply -f deploy/` and one Secret do. Where another checkout is named, whose
        chart is to be installed, the namespace alone."""
        self.server.api.version = f"v{spec.kubernetes_version}"
        for folder in ("crds", "manifests", "manifests/admission"):
            for document in _manifests(folder):
                if document["kind"] == "Namespace" or not previous():
                    await self.admin.apply(document)
        content = {"azure.json": json.dumps(azure), "ca.crt": self._settings.ca.decode()}
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "egress-gateway-azure", "namespace": names.SYSTEM_NAMESPACE},
            "stringData": content,
        }
        await self.admin.apply(secret)

    async def delete(self) -> None:
        """Ends all machines; the API server that comes after is empty."""
        await self.machines.close()
        await self.server.stop()
        self.server = self._new_server()
        await self.server.start()

    def kubeconfig(self, *, name: str, user: str) -> bytes:
        """An administrator's kubeconfig for the host's loopback."""
        url = "https://{}:{}".format(*self._listening[0].getsockname()[:2])
        return self.server.kubeconfig(url, name=name, user=user)

    def verify(self, assertion: str) -> tuple[str, str]:
        """``protocols.TokenVerifier``."""
        return self.server.verify(assertion)

    def outage(self, program: str, *, begins: bool) -> None:
        raise LookupError(f"{program} is no program here: start the lab with --kubernetes real")

    def wipe_disk(self, name: str) -> None:
        self.machines.wipe_disk(name)

    async def lose_sandbox(self, namespace: str, pod: str) -> None:
        """Raises ``LookupError``."""
        self.machines.lose_sandbox(namespace, pod)

    async def start_machine(self, machine: MachineSpec) -> None:
        """Raises ``BackendError``."""
        try:
            await self.machines.start(machine)
        except (MachineError, KubeError) as error:
            raise BackendError(f"machine {machine.name}: {error}") from error

    async def stop_machine(self, name: str) -> None:
        await self.admin.delete("nodes", name)
        await self.machines.stop(name)


def _manifests(folder: str) -> Iterator[dict[str, Any]]:
    """The YAML documents of ``deploy/<folder>``: namespaces first, then by file name."""
    documents = [
        document
        for file in sorted((deploy_dir() / folder).glob("*.yaml"))
        for document in yaml.load_all(file.read_text(), Loader=yaml.CSafeLoader)
        if document
    ]
    yield from sorted(documents, key=lambda d: d["kind"] != "Namespace")
