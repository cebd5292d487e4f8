"""What AKS documents for gateway pools and versions, held by the service itself."""

from __future__ import annotations

import pytest

from egress_gateway_lab.azure.client import RequestFailed
from lab.tests.azure.conftest import Person, make_cluster, make_gateway_pool
from lab.tests.azure.running import CLUSTER, NODE_GROUP, Running

VERSION = "2026-06-01"


async def test_gateway_pools_of_virtual_machines_need_kubernetes_1_34(
    azure: Running, person: Person
) -> None:
    async with person() as client:
        cluster = await make_cluster(client, "1.33")
        with pytest.raises(RequestFailed, match=r"needs Kubernetes 1\.34 or later"):
            await make_gateway_pool(client, type="VirtualMachines")
        cluster["properties"]["kubernetesVersion"] = "1.34"
        upgraded = await client.put(CLUSTER, cluster, VERSION)
        assert upgraded["properties"]["currentKubernetesVersion"].startswith("1.34.")
        pool = await make_gateway_pool(client, type="VirtualMachines")
        assert pool["properties"]["type"] == "VirtualMachines"


async def test_nodes_run_the_version_that_was_asked_for(azure: Running, person: Person) -> None:
    async with person() as client:
        cluster = await make_cluster(client, "1.33")
        shown = cluster["properties"]
        assert shown["kubernetesVersion"] == "1.33", "as it was asked for"
        assert shown["currentKubernetesVersion"].startswith("1.33.")
        await make_gateway_pool(client, orchestratorVersion="1.32.4")
    (spec,) = azure.machines.clusters.values()
    assert spec.kubernetes_version.startswith("1.33.")
    versions = {m.pool: m.kubernetes_version for m in azure.machines.machines.values()}
    assert versions == {"nodepool1": spec.kubernetes_version, "npegress": "1.32.4"}


@pytest.mark.parametrize(
    ("version", "code"),
    [
        ("1.12", "K8sVersionNotSupported"),
        ("latest", "K8sVersionNotSupported"),
        ("1.32.9", "OperationNotAllowed"),
        ("1.35", "OperationNotAllowed"),
    ],
)
async def test_versions_that_a_cluster_cannot_go_to(
    azure: Running, person: Person, version: str, code: str
) -> None:
    async with person() as client:
        cluster = await make_cluster(client, "1.33.1")
        cluster["properties"]["kubernetesVersion"] = version
        with pytest.raises(RequestFailed) as error:
            await client.put(CLUSTER, cluster, VERSION)
        assert (error.value.status, error.value.code) == (400, code)


async def test_a_gateway_pool_can_be_deleted_under_its_configurations(
    azure: Running, person: Person
) -> None:
    """AKS asks people to delete the configurations first and does not check: its balancer's
    entries stay behind without members, for the controller to clean up."""
    async with person() as client:
        await make_cluster(client)
        pool = await make_gateway_pool(client)
        sets = f"{NODE_GROUP}/providers/Microsoft.Compute/virtualMachineScaleSets"
        model = next(s for s in await client.list(sets, VERSION) if "npegress" in s["name"])
        profile = model["properties"]["virtualMachineProfile"]["networkProfile"]
        nic = profile["networkInterfaceConfigurations"][0]["properties"]
        subnet = nic["ipConfigurations"][0]["properties"]["subnet"]["id"]
        balancer = f"{NODE_GROUP}/providers/Microsoft.Network/loadBalancers/internal"
        front = {"name": "f", "properties": {"subnet": {"id": subnet}}}
        body = {
            "location": "swedencentral",
            "properties": {
                "frontendIPConfigurations": [front],
                "backendAddressPools": [{"name": "p"}],
            },
        }
        made = await client.put(balancer, body, VERSION)
        back = made["properties"]["backendAddressPools"][0]
        nic["ipConfigurations"][0]["properties"]["loadBalancerBackendAddressPools"] = [
            {"id": back["id"]}
        ]
        await client.put(model["id"], model, VERSION)
        await client.post(f"{model['id']}/manualupgrade", {"instanceIds": ["*"]}, VERSION)
        made = await client.get(balancer, VERSION)
        members = made["properties"]["backendAddressPools"][0]["properties"]
        assert len(members["backendIPConfigurations"]) == 2
        await client.delete(pool["id"], VERSION)
        left = await client.get(balancer, VERSION)
        back = left["properties"]["backendAddressPools"][0]["properties"]
        assert "backendIPConfigurations" not in back
        await client.delete(balancer, VERSION)
