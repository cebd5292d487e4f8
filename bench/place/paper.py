"""Azure and Kubernetes on loopback for the controller alone: no network, machines on paper only.

The ARM emulator and the API server are the lab's own; machines exist as resources and as Node
objects, and no packet flows. Public addresses come from 198.18.0.0/15 (RFC 2544, benchmarking):
1,000 prefixes do not fit into the documentation ranges.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final

import yaml

from bench.place.process import component
from egress_gateway.api import names
from egress_gateway.api.manifests import crd_files, deploy_dir
from egress_gateway_lab import pki
from egress_gateway_lab.apiserver.server import ApiServer
from egress_gateway_lab.apiserver.wire.client import KubeClient
from egress_gateway_lab.azure.client import ArmClient
from egress_gateway_lab.azure.emulator import COMPUTE_SHARE, SUBSCRIPTION, TENANT, Emulator
from tests.contract.controller.azure_lab import TOKEN, NoMachines, Verifier, add_node

GROUP: Final = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg"
CLUSTER: Final = f"{GROUP}/providers/Microsoft.ContainerService/managedClusters/aks"
SGCS: Final = "staticgatewayconfigurations"
_LOCATION: Final = "swedencentral"
_SIZE: Final = "standard_d2pds_v6"


@dataclass
class Paper:
    """Both APIs, and what is needed to start a controller against them."""

    directory: Path
    emulator: Emulator
    person: ArmClient
    kube: KubeClient
    machines: NoMachines
    kubeconfig: Path

    async def add_pool(self, name: str) -> None:
        """A gateway pool of two machines, and their Nodes."""
        profile = {"mode": "Gateway", "count": 2, "vmSize": _SIZE}
        body = {"properties": {**profile, "gatewayProfile": {"publicIPPrefixSize": 31}}}
        await self.person.put(f"{CLUSTER}/agentPools/{name}", body, "2025-01-01")
        for machine in list(self.machines.machines.values()):
            if machine.pool != name:
                continue
            await add_node(self.kube, machine)

    def requests(self) -> int:
        """Answered so far, polls of operations included; sign-in left out, as Azure's."""
        return len(self.emulator.requests)

    @contextlib.asynccontextmanager
    async def controller(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """The shipped controller as a process of its own, with the shipped settings."""
        settings = {
            "AZURE_CONFIG": self.directory / "azure.json",
            "KUBECONFIG": self.kubeconfig,
            "IDENTITY": "bench",
            "HEALTH_ADDRESS": "127.0.0.1",
            "HEALTH_PORT": 0,
        }
        async with component("controller", settings, self.directory / "controller.log") as process:
            yield process


@contextlib.asynccontextmanager
async def paper(
    directory: Path, *, operation_seconds: float, azure_headers: bool = False
) -> AsyncIterator[Paper]:
    """Both APIs up, a cluster in Azure, our manifests in Kubernetes; no pool yet."""
    identity = pki.issue(addresses=["127.0.0.1"], names=["localhost"])
    (directory / "ca.crt").write_bytes(identity.ca)
    (directory / "token").write_text(TOKEN)
    tls = identity.context(directory)
    machines = NoMachines()
    arm, api = _listen(), _listen()
    emulator = Emulator(
        backend=machines,
        verifier=Verifier(),
        operation_seconds=operation_seconds,
        poll_hold_seconds=0.0,
        prefix_networks=[IPv4Network("198.18.0.0/15")],
        compute_share=COMPUTE_SHARE if azure_headers else None,
        public_ip_quota=4096,  # more than 1,000 prefixes of two: the quota is not what is measured
    )
    emulator.requests = deque()  # the usual one forgets the oldest of many thousands
    server = ApiServer(
        sockets=[api], tls=tls, ca_pem=identity.ca.decode(), services=IPv4Network("10.0.0.0/16")
    )
    base = f"https://127.0.0.1:{arm.getsockname()[1]}"
    await emulator.serve([arm], tls)
    await server.start()
    try:
        trust = ssl.create_default_context(cafile=str(directory / "ca.crt"))
        async with ArmClient(base, trust, client_id="me", secret="x", poll_seconds=0.05) as person:
            cluster = await _cluster(person)
            azure = _azure_json(directory, base, cluster, machines.identity)
            if azure_headers:  # the interval of Azure, not that of a cloud of one's own
                azure["pollingInterval"] = 5.0
            (directory / "azure.json").write_text(json.dumps(azure))
            kube = KubeClient(server.transport())
            path = await _install(server, kube, directory, api.getsockname()[1])
            yield Paper(directory, emulator, person, kube, machines, path)
    finally:
        await emulator.close()
        await server.stop()


def _listen() -> socket.socket:
    opened = socket.create_server(("127.0.0.1", 0), backlog=128)
    opened.setblocking(False)
    return opened


async def _cluster(person: ArmClient) -> dict[str, Any]:
    await person.put(GROUP, {"location": _LOCATION}, "2024-11-01")
    network = {
        "networkPlugin": "azure",
        "networkPluginMode": "overlay",
        "loadBalancerSku": "standard",
        "outboundType": "loadBalancer",
        "staticEgressGatewayProfile": {"enabled": True},
    }
    pool = {"name": "nodepool1", "count": 1, "mode": "System", "vmSize": _SIZE}
    body = {
        "location": _LOCATION,
        "identity": {"type": "SystemAssigned"},
        "properties": {
            "kubernetesVersion": "1.34",
            "dnsPrefix": "aks",
            "networkProfile": network,
            "agentPoolProfiles": [pool],
        },
    }
    return await person.put(CLUSTER, body, "2025-01-01")


def _azure_json(directory: Path, base: str, cluster: dict[str, Any], client: str) -> dict[str, Any]:
    return {
        "cloud": "AzureStackCloud",
        "resourceManagerEndpoint": base,
        "activeDirectoryEndpoint": base,
        "caBundle": str(directory / "ca.crt"),
        "tenantId": TENANT,
        "subscriptionId": SUBSCRIPTION,
        "resourceGroup": cluster["properties"]["nodeResourceGroup"],
        "location": _LOCATION,
        "useFederatedWorkloadIdentityExtension": True,
        "aadClientId": client,
        "aadFederatedTokenFile": str(directory / "token"),
    }


async def _install(server: ApiServer, kube: KubeClient, directory: Path, port: int) -> Path:
    """What `kubectl apply -f deploy/` brings for the controller; its account's kubeconfig."""
    manifests = deploy_dir() / "manifests"
    for file in [*crd_files(), manifests / "namespace.yaml", manifests / "rbac.yaml"]:
        for document in yaml.safe_load_all(file.read_text()):
            await kube.apply(document)
    token = await kube.create(
        "serviceaccounts",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
        namespace=names.SYSTEM_NAMESPACE,
        name="egress-gateway-controller",
        sub="token",
    )
    config = yaml.safe_load(server.kubeconfig(f"https://127.0.0.1:{port}"))
    config["users"][0]["user"] = {"token": token["status"]["token"]}
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path
