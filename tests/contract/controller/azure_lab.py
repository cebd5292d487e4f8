"""ARM's emulator with a cluster and a gateway pool, and the shipped cloud signed in to it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egress_gateway.api import names
from egress_gateway.cloud.azure.account.config import AzureConfig
from egress_gateway.cloud.azure.cloud import AzureCloud
from egress_gateway_lab import pki
from egress_gateway_lab.apiserver.wire.client import KubeClient
from egress_gateway_lab.azure.client import ArmClient
from egress_gateway_lab.azure.emulator import ADDON_SUBJECT, SUBSCRIPTION, TENANT, Emulator
from egress_gateway_lab.protocols import ClusterSpec, MachineSpec

GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg"
CLUSTER = f"{GROUP}/providers/Microsoft.ContainerService/managedClusters/aks"
TOKEN = "the-token"
NETWORK_CONTRIBUTOR = "4d97b98b-1d4f-4787-a291-c67834d212e7"


class NoMachines:
    """Clusters and machines that exist on paper; remembers them."""

    def __init__(self) -> None:
        self.machines: dict[str, MachineSpec] = {}
        self.identity = ""

    async def create_cluster(self, spec: ClusterSpec) -> None:
        self.identity = spec.identity_client_id

    async def delete_cluster(self, cluster_id: str) -> None: ...

    async def kubeconfig(self, cluster_id: str, *, admin: bool) -> bytes:
        return b""

    async def start_machine(self, cluster_id: str, machine: MachineSpec) -> None:
        self.machines[machine.vm_id] = machine

    async def stop_machine(self, cluster_id: str, vm_id: str) -> None:
        self.machines.pop(vm_id, None)

    async def power_off(self, cluster_id: str, vm_id: str) -> None:
        self.machines.pop(vm_id, None)


class Verifier:
    def verify(self, assertion: str) -> tuple[str, str]:
        if assertion != TOKEN:
            raise PermissionError("not our token")
        return "https://cluster.lab.invalid", ADDON_SUBJECT


async def add_node(kube: KubeClient, machine: MachineSpec) -> None:
    """The Node of a machine that has joined the cluster."""
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": machine.name, "labels": dict(machine.labels)},
        "spec": {"providerID": machine.provider_id},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    await kube.create("nodes", node)
    await kube.patch("nodes", machine.name, node, subresource="status")


async def report_ready(kube: KubeClient, sgc: dict[str, Any]) -> None:
    """What gateway agents report for the nodes that the status lists."""
    namespace, name = sgc["metadata"]["namespace"], sgc["metadata"]["name"]
    ready = {
        "staticGatewayConfiguration": f"{namespace}/{name}",
        "uid": sgc["metadata"]["uid"],
        "interfaceName": "wg-6000",
    }
    for gateway in sgc["status"]["gateways"]:
        report = {
            "apiVersion": names.API_VERSION,
            "kind": "GatewayStatus",
            "metadata": {"name": gateway["node"], "namespace": names.SYSTEM_NAMESPACE},
            "spec": {"readyGatewayConfigurations": [ready]},
        }
        await kube.apply(report, resource="gatewaystatuses")


@dataclass
class AzureLab:
    emulator: Emulator
    person: ArmClient
    cloud: AzureCloud
    machines: NoMachines
    cluster: dict[str, Any]
    config: dict[str, Any]

    @property
    def node_group(self) -> str:
        return str(self.cluster["properties"]["nodeResourceGroup"])

    @property
    def principal(self) -> str:
        return str(self.cluster["identity"]["principalId"])

    async def add_pool(
        self, name: str, *, count: int = 2, size: int = 30, kind: str = "VirtualMachineScaleSets"
    ) -> None:
        body = {
            "properties": {
                "mode": "Gateway",
                "type": kind,
                "count": count,
                "gatewayProfile": {"publicIPPrefixSize": size},
                "vmSize": "standard_d2pds_v6",
            }
        }
        await self.person.put(f"{CLUSTER}/agentPools/{name}", body, "2025-01-01")

    async def add_prefix(self, name: str, size: int = 30) -> str:
        prefix_id = f"{GROUP}/providers/Microsoft.Network/publicIPPrefixes/{name}"
        body = {
            "location": "swedencentral",
            "sku": {"name": "Standard"},
            "properties": {
                "prefixLength": size,
                "publicIPAddressVersion": "IPv6" if size > 32 else "IPv4",
            },
        }
        await self.person.put(prefix_id, body, "2024-05-01")
        return prefix_id

    async def add_ipv6(self, network: str, space: str) -> None:
        """Gives the cluster's virtual network and subnet IPv6, as a person does."""
        group = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{self.node_group}"
        kind = f"{group}/providers/Microsoft.Network/virtualNetworks"
        (found,) = await self.person.list(kind, "2024-05-01")
        found["properties"]["addressSpace"]["addressPrefixes"].append(space)
        (subnet,) = found["properties"]["subnets"]
        four = subnet["properties"].pop("addressPrefix")
        subnet["properties"]["addressPrefixes"] = [four, network]
        await self.person.put(found["id"], found, "2024-05-01")

    async def grant(self, scope: str, number: int = 1) -> None:
        name = f"00000000-0000-0000-0000-{number:012}"
        role = (
            f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Authorization"
            f"/roleDefinitions/{NETWORK_CONTRIBUTOR}"
        )
        body = {"properties": {"roleDefinitionId": role, "principalId": self.principal}}
        assignment = f"{scope}/providers/Microsoft.Authorization/roleAssignments/{name}"
        await self.person.put(assignment, body, "2022-04-01")

    async def resources(self) -> set[str]:
        """Everything in the node resource group that a person could see there."""
        found = set()
        for kind in ("loadBalancers", "publicIPPrefixes", "publicIPAddresses"):
            path = (
                f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{self.node_group}"
                f"/providers/Microsoft.Network/{kind}"
            )
            found |= {item["name"] for item in await self.person.list(path, "2024-05-01")}
        return found


@contextlib.asynccontextmanager
async def azure_lab(directory: Path, **options: Any) -> AsyncIterator[AzureLab]:
    """A fresh emulator on loopback, a cluster in it, and our cloud as the cluster's identity."""
    identity = pki.issue(addresses=["127.0.0.1"], names=["localhost"])
    ca = directory / "ca.crt"
    ca.write_bytes(identity.ca)
    token = directory / "token"
    token.write_text(TOKEN)
    machines = NoMachines()
    listening = socket.create_server(("127.0.0.1", 0))
    base = f"https://127.0.0.1:{listening.getsockname()[1]}"
    options = {"operation_seconds": 0.02} | options
    emulator = Emulator(backend=machines, verifier=Verifier(), **options)
    await emulator.serve([listening], identity.context(directory))
    trust = ssl.create_default_context(cafile=str(ca))
    try:
        async with ArmClient(base, trust, client_id="me", secret="x", poll_seconds=0.01) as person:
            await person.put(GROUP, {"location": "swedencentral"}, "2024-11-01")
            cluster = await person.put(CLUSTER, _CLUSTER_BODY, "2025-01-01")
            config = azure_json(base, cluster["properties"]["nodeResourceGroup"], ca) | {
                "aadClientId": machines.identity,
                "useFederatedWorkloadIdentityExtension": True,
                "aadFederatedTokenFile": str(token),
            }
            cloud = AzureCloud(_config(config))
            try:
                yield AzureLab(emulator, person, cloud, machines, cluster, config)
            finally:
                await cloud.close()
    finally:
        await emulator.close()


_CLUSTER_BODY: dict[str, Any] = {
    "location": "swedencentral",
    "identity": {"type": "SystemAssigned"},
    "properties": {
        "kubernetesVersion": "1.34",
        "dnsPrefix": "aks",
        "networkProfile": {
            "networkPlugin": "azure",
            "networkPluginMode": "overlay",
            "loadBalancerSku": "standard",
            "outboundType": "loadBalancer",
            "staticEgressGatewayProfile": {"enabled": True},
        },
        "agentPoolProfiles": [
            {"name": "nodepool1", "count": 1, "mode": "System", "vmSize": "standard_d2pds_v6"}
        ],
    },
}


def azure_json(base: str, group: str, ca: Path) -> dict[str, Any]:
    """The Azure file for an emulator, without an identity."""
    return {
        "cloud": "AzureStackCloud",
        "resourceManagerEndpoint": base,
        "activeDirectoryEndpoint": base,
        "caBundle": str(ca),
        "tenantId": TENANT,
        "subscriptionId": SUBSCRIPTION,
        "resourceGroup": group,
        "location": "swedencentral",
        "pollingInterval": 0.05,
    }


def _config(content: dict[str, Any]) -> AzureConfig:
    from egress_gateway.cloud.azure.account.config import parse

    return parse(content)
