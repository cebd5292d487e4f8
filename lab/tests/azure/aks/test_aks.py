"""Clusters and pools: what the service makes, what it refuses, what it leaves."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from egress_gateway_lab.azure.client import RequestFailed
from lab.tests.azure.conftest import Person, make_cluster, make_gateway_pool, make_prefix
from lab.tests.azure.running import CLUSTER, GROUP, NODE_GROUP, Running

VERSION = "2026-06-01"
BALANCER = f"{NODE_GROUP}/providers/Microsoft.Network/loadBalancers/kubernetes"


async def test_a_cluster_is_made_of_the_resources_that_aks_makes(
    azure: Running, person: Person
) -> None:
    async with person() as client:
        cluster = await make_cluster(client, count=3)
        assert cluster["properties"]["nodeResourceGroup"] == "MC_rg_aks_swedencentral"
        assert cluster["properties"]["agentPoolProfiles"][0]["count"] == 3
        balancer = await client.get(BALANCER, VERSION)
        rule = balancer["properties"]["outboundRules"][0]
        assert rule["name"] == "aksOutboundRule"
        members = balancer["properties"]["backendAddressPools"][0]["properties"]
        assert len(members["backendIPConfigurations"]) == 3
        shown = cluster["properties"]["networkProfile"]["loadBalancerProfile"]
        address = await client.get(shown["effectiveOutboundIPs"][0]["id"], VERSION)
        assert address["properties"]["ipAddress"].startswith("192.0.2.")
    machines = sorted(azure.machines.machines.values(), key=lambda m: m.name)
    assert [str(m.address) for m in machines] == ["10.224.0.4", "10.224.0.5", "10.224.0.6"]
    first = machines[0]
    assert first.name.startswith("aks-nodepool1-")
    assert first.name.endswith("-vmss000000")
    assert first.provider_id.startswith("azure:///subscriptions/")
    assert "/resourceGroups/mc_rg_aks_swedencentral/" in first.provider_id
    assert first.labels["kubernetes.azure.com/mode"] == "system"
    assert first.taints == ()


async def test_a_gateway_pool_has_label_taint_and_tags(azure: Running, person: Person) -> None:
    async with person() as client:
        await make_cluster(client)
        pool = await make_gateway_pool(client)
        assert pool["properties"]["provisioningState"] == "Succeeded"
        assert pool["properties"]["currentOrchestratorVersion"] == "1.30.5"
    machines = [m for m in azure.machines.machines.values() if m.pool == "npegress"]
    assert len(machines) == 2
    assert "kubeegressgateway.azure.com/mode" not in machines[0].labels, "AKS gives its own alone"
    assert machines[0].labels["kubernetes.azure.com/mode"] == "gateway"
    assert machines[0].labels["kubernetes.azure.com/agentpool"] == "npegress"
    assert machines[0].taints == (("kubernetes.azure.com/mode", "gateway", "NoSchedule"),)
    sets = azure.emulator.resources.list("Microsoft.Compute/virtualMachineScaleSets")
    tags = next(s["tags"] for s in sets if "npegress" in s["name"])
    assert tags["aks-managed-poolName"] == "npegress"
    assert tags["aks-managed-gatewayIPPrefixSize"] == "30"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gatewayProfile": {"publicIPPrefixSize": 27}}, "between 28 and 31"),
        ({"gatewayProfile": {"publicIPPrefixSize": 31}, "count": 3}, "max node count 2"),
        ({"enableAutoScaling": True, "minCount": 1, "maxCount": 2}, "autoscaler"),
        ({"osType": "Windows"}, "Linux"),
        ({"podSubnetID": "/subscriptions/x"}, "Pod Subnet"),
        ({"mode": "Exit"}, "Allowed are System, User, Gateway"),
        ({"mode": "User"}, "mode is not Gateway"),
        ({"orchestratorVersion": "1.31.1"}, "cannot be newer than the control plane"),
        ({"minCount": 1, "maxCount": 2}, "autoscaler"),
        ({"mode": "User", "gatewayProfile": None, "podSubnetID": "/subscriptions/x"}, "Pod Subnet"),
        ({"count": 5}, "invalid node count 5, exceeding max node count 4"),
        ({"count": -1}, "count is invalid"),
        ({"vmSize": "Enormous_X"}, "VM size of Enormous_X"),
        ({"availabilityZones": ["1", "9"]}, "zones 1, 9"),
        ({"maxPods": 5}, "not between 10 and 250"),
        ({"nodeLabels": {"kubernetes.azure.com/mode": "user"}}, "reserved"),
        ({"nodeLabels": {"a b": "c"}}, "no label"),
        ({"enableNodePublicIP": True}, "does not model .*enableNodePublicIP"),
        ({"scaleSetPriority": "Spot"}, "does not model .*scaleSetPriority"),
        ({"mode": "User", "gatewayProfile": None, "osType": "Windows"}, "does not model .*osType"),
        (
            {"mode": "User", "gatewayProfile": None, "enableAutoScaling": True, "maxCount": 2},
            "does not model .*enableAutoScaling",
        ),
    ],
)
async def test_pools_that_the_service_does_not_make(
    azure: Running, person: Person, changes: dict[str, Any], words: str
) -> None:
    async with person() as client:
        await make_cluster(client)
        with pytest.raises(RequestFailed, match=words) as error:
            await make_gateway_pool(client, **changes)
        assert error.value.status == 400
        pools = await client.list(f"{CLUSTER}/agentPools", VERSION)
        assert [p["name"] for p in pools] == ["nodepool1"]


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ({"outboundType": "managedNATGateway"}, "outboundType 'managedNATGateway'"),
        ({"outboundType": "userDefinedRouting"}, "outboundType"),
        ({"networkPlugin": "kubenet"}, "networkPlugin 'kubenet'"),
        ({"networkPolicy": "calico"}, "networkPolicy"),
        ({"networkDataplane": "cilium"}, "networkDataplane"),
        ({"loadBalancerSku": "basic"}, "loadBalancerSku"),
        ({"podCidr": "10.0.64.0/18"}, "overlap"),
        ({"dnsServiceIP": "10.1.0.10"}, "not in the serviceCidr"),
    ],
)
async def test_networks_that_the_lab_does_not_make(
    azure: Running, person: Person, profile: dict[str, Any], words: str
) -> None:
    """Taken and not heeded, they would teach a person what is not so."""
    async with person() as client:
        cluster = await make_cluster(client)
        cluster["properties"]["networkProfile"] |= profile
        cluster["properties"]["networkProfile"]["staticEgressGatewayProfile"] = {"enabled": False}
        with pytest.raises(RequestFailed, match=words) as error:
            await client.put(CLUSTER, cluster, VERSION)
        assert error.value.status == 400


@pytest.mark.parametrize(
    ("kind", "section"), [("networkSecurityGroups", "securityRules"), ("routeTables", "routes")]
)
async def test_rules_that_no_packet_would_heed_are_refused(
    azure: Running, person: Person, kind: str, section: str
) -> None:
    async with person() as client:
        cluster = await make_cluster(client)
        group = cluster["id"].rpartition("/providers/")[0]
        path = f"{group}/providers/Microsoft.Network/{kind}/mine"
        body: dict[str, Any] = {"location": cluster["location"], "properties": {section: []}}
        await client.put(path, body, "2024-05-01")
        body["properties"][section] = [{"name": "r", "properties": {}}]
        with pytest.raises(RequestFailed, match=f"does not model {section}"):
            await client.put(path, body, "2024-05-01")


async def test_a_gateway_pool_needs_the_feature_and_keeps_it(
    azure: Running, person: Person
) -> None:
    async with person() as client:
        cluster = await make_cluster(client)
        profile = cluster["properties"]["networkProfile"]
        profile["staticEgressGatewayProfile"]["enabled"] = False
        await client.put(CLUSTER, cluster, VERSION)
        with pytest.raises(RequestFailed, match="--enable-static-egress-gateway"):
            await make_gateway_pool(client)
        profile["staticEgressGatewayProfile"]["enabled"] = True
        await client.put(CLUSTER, cluster, VERSION)
        await make_gateway_pool(client)
        cluster = await client.get(CLUSTER, VERSION)
        cluster["properties"]["networkProfile"]["staticEgressGatewayProfile"] = {"enabled": False}
        with pytest.raises(RequestFailed, match="gateway node pools \\(npegress\\)"):
            await client.put(CLUSTER, cluster, VERSION)


async def test_scaling_and_deleting_a_pool_moves_its_machines(
    azure: Running, person: Person
) -> None:
    async with person() as client:
        await make_cluster(client)
        pool = await make_gateway_pool(client)
        names = {m.name[-1] for m in azure.machines.machines.values() if m.pool == "npegress"}
        assert names == {"0", "1"}
        pool["properties"]["count"] = 4
        pool = await client.put(pool["id"], pool, VERSION)
        assert count(azure) == 4
        pool["properties"]["count"] = 2
        await client.put(pool["id"], pool, VERSION)
        assert count(azure) == 2
        await client.delete(pool["id"], VERSION)
        assert count(azure) == 0
        with pytest.raises(RequestFailed, match="last one cannot be deleted"):
            await client.delete(f"{CLUSTER}/agentPools/nodepool1", VERSION)


def count(azure: Running, nics_alone: int = 0) -> int:
    """Machines of the pool, which has a NIC for each, and ``nics_alone`` without one."""
    machines = sum(m.pool == "npegress" for m in azure.machines.machines.values())
    nics = azure.emulator.resources.list("Microsoft.Network/networkInterfaces")
    assert sum("npegress" in n["id"] for n in nics) == machines + nics_alone
    return machines


async def test_a_pool_of_virtual_machines_has_machines_and_nics_of_its_own(
    azure: Running, person: Person
) -> None:
    async with person() as client:
        await make_cluster(client, "1.34")
        pool = await make_gateway_pool(client, type="VirtualMachines")
        machines = f"{NODE_GROUP}/providers/Microsoft.Compute/virtualMachines"
        listed = await client.list(machines, VERSION)
        assert [m["tags"]["aks-managed-poolName"] for m in listed] == ["npegress"] * 2
        nic_id = listed[0]["properties"]["networkProfile"]["networkInterfaces"][0]["id"]
        nic = await client.get(nic_id, VERSION)
        assert nic["tags"]["aks-managed-static-gateway-nic"] == "true"
        assert nic["properties"]["virtualMachine"]["id"] == listed[0]["id"]
        assert count(azure, nics_alone=2) == 2
        with pytest.raises(RequestFailed) as error:
            await client.delete(nic_id, VERSION)
        assert error.value.code == "NicInUse"
        await client.delete(pool["id"], VERSION)
        assert count(azure) == 0
        assert await client.list(machines, VERSION) == []


async def test_a_pool_that_failed_is_finished_by_the_next_write(
    azure: Running, person: Person
) -> None:
    azure.machines.refuse = "npegress"
    async with person() as client:
        await make_cluster(client)
        with pytest.raises(RequestFailed):
            await make_gateway_pool(client)
        azure.machines.refuse = ""
        pool = await make_gateway_pool(client)
        assert pool["properties"]["provisioningState"] == "Succeeded"
        assert count(azure) == 2


async def test_outbound_addresses_can_be_brought_and_given_back(
    azure: Running, person: Person
) -> None:
    async with person() as client:
        cluster = await make_cluster(client)
        prefix = await make_prefix(client)
        path = f"{GROUP}/providers/Microsoft.Network/publicIPAddresses/own"
        body = {
            "location": "swedencentral",
            "sku": {"name": "Standard"},
            "properties": {"publicIPAllocationMethod": "Static"},
        }
        own = await client.put(path, body, VERSION)
        ways: list[tuple[dict[str, Any], str]] = [
            ({"outboundIPs": {"publicIPs": [{"id": own["id"]}]}}, own["id"]),
            (
                {"outboundIPPrefixes": {"publicIPPrefixes": [{"id": prefix["id"]}]}},
                prefix["id"],
            ),
        ]
        for way, expected in ways:
            cluster["properties"]["networkProfile"]["loadBalancerProfile"] = way
            cluster = await client.put(CLUSTER, cluster, VERSION)
            assert effective(cluster) == [expected]
            made = f"{NODE_GROUP}/providers/Microsoft.Network/publicIPAddresses"
            assert await client.list(made, VERSION) == [], "what AKS made is gone"
        with pytest.raises(RequestFailed) as error:
            await client.delete(prefix["id"], VERSION)
        assert error.value.code == "InUsePublicIpPrefixCannotBeDeleted"
        way = {"managedOutboundIPs": {"count": 2}}
        cluster["properties"]["networkProfile"]["loadBalancerProfile"] = way
        cluster = await client.put(CLUSTER, cluster, VERSION)
        assert len(effective(cluster)) == 2
        await client.delete(prefix["id"], VERSION)
        await client.delete(own["id"], VERSION)


def effective(cluster: dict[str, Any]) -> list[str]:
    profile = cluster["properties"]["networkProfile"]["loadBalancerProfile"]
    return [item["id"] for item in profile["effectiveOutboundIPs"]]


async def test_a_machine_that_does_not_boot_fails_the_pool_with_its_words(
    azure: Running, person: Person
) -> None:
    azure.machines.refuse = "npegress"
    async with person() as client:
        await make_cluster(client)
        with pytest.raises(RequestFailed, match="does not boot"):
            await make_gateway_pool(client)
        pool = await client.get(f"{CLUSTER}/agentPools/npegress", VERSION)
        assert pool["properties"]["provisioningState"] == "Failed"


async def test_deleting_the_group_takes_the_cluster_and_all_it_made(
    azure: Running, person: Person
) -> None:
    async with person() as client:
        await make_cluster(client)
        await make_gateway_pool(client)
        await make_prefix(client)
        await client.delete(GROUP, VERSION)
    assert azure.machines.clusters == {}
    left = {e.type for e in azure.emulator.azure.store.everything()}
    assert left == {"Microsoft.Authorization/roleAssignments"}


async def test_credentials_come_from_the_cluster(azure: Running, person: Person) -> None:
    async with person() as client:
        await make_cluster(client)
        answer = await client.post(f"{CLUSTER}/listClusterUserCredential", None, VERSION)
        content = base64.b64decode(answer["kubeconfigs"][0]["value"])
        assert content == b"kubeconfig of aks admin=False"
