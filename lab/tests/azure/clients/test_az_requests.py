"""What `az` asks in a way of its own, and the SDKs do not."""

from __future__ import annotations

import pytest

from egress_gateway_lab.azure.client import RequestFailed
from lab.tests.azure.conftest import Person, make_cluster, make_gateway_pool
from lab.tests.azure.running import CLUSTER, GROUP, Running

VERSION = "2024-11-01"


async def test_a_virtual_machines_pool_counts_its_machines_by_size(
    azure: Running, person: Person
) -> None:
    """`az aks nodepool add --vm-set-type VirtualMachines` leaves ``count`` out; `scale` sends the
    old one along."""
    async with person() as client:
        await make_cluster(client, "1.34")
        pool = {
            "mode": "Gateway",
            "type": "VirtualMachines",
            "virtualMachinesProfile": {"scale": {"manual": [{"size": "standard_d2", "count": 3}]}},
            "gatewayProfile": {"publicIPPrefixSize": 30},
        }
        url = f"{CLUSTER}/agentPools/npvm"
        made = await client.put(url, {"properties": pool}, "2026-06-01")
        assert made["properties"]["count"] == 3
        made["properties"]["virtualMachinesProfile"]["scale"]["manual"][0]["count"] = 2
        await client.put(url, made, "2026-06-01")
    assert len(azure.emulator.resources.list("Microsoft.Compute/virtualMachines")) == 2


async def test_a_group_lists_its_own_resources_alone(person: Person) -> None:
    """`az resource list -g` asks the subscription, with a filter."""
    async with person() as client:
        await make_cluster(client)
        everywhere = f"{GROUP.rpartition('/resourceGroups/')[0]}/resources"
        query = f"{VERSION}&$filter=resourceGroup%20eq%20'RG'"
        listed = await client.get(everywhere, query)
        assert [r["name"] for r in listed["value"]] == ["aks"]
        with pytest.raises(RequestFailed, match="filter"):
            await client.get(everywhere, f"{VERSION}&$filter=tagName%20ne%20'x'")


async def test_versions_and_upgrades_are_what_the_service_takes(person: Person) -> None:
    """`az aks get-versions` and `az aks get-upgrades`: what they offer is not refused."""
    async with person() as client:
        await make_cluster(client)
        subscription = GROUP.rpartition("/resourceGroups/")[0]
        space = f"{subscription}/providers/Microsoft.ContainerService"
        known = await client.get(f"{space}/locations/swedencentral/kubernetesVersions", VERSION)
        assert [v["version"] for v in known["values"] if v["isDefault"]] == ["1.33"]
        profile = await client.get(f"{CLUSTER}/upgradeProfiles/default", VERSION)
        offered = profile["properties"]["controlPlaneProfile"]["upgrades"]
        for step in offered:
            cluster = await client.get(CLUSTER, VERSION)
            cluster["properties"]["kubernetesVersion"] = step["kubernetesVersion"]
            made = await client.put(CLUSTER, cluster, VERSION)
            assert made["properties"]["currentKubernetesVersion"] == step["kubernetesVersion"]
        assert len(offered) == 2, "a newer patch, and the next minor version"


async def test_an_empty_version_means_the_cluster_s(person: Person) -> None:
    """`az aks update` and `az aks nodepool add` without -k."""
    async with person() as client:
        cluster = await make_cluster(client, "1.34.1")
        cluster["properties"]["kubernetesVersion"] = ""
        updated = await client.put(CLUSTER, cluster, "2026-06-01")
        assert updated["properties"]["kubernetesVersion"] == "1.34.1"
        pool = await make_gateway_pool(client, orchestratorVersion="")
        assert pool["properties"]["currentOrchestratorVersion"] == "1.34.1"
