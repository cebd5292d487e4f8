"""Gateway pools as AKS makes them: nodes, NICs that outlive machines, upgrades in place."""

from __future__ import annotations

from typing import Any

import pytest

from egress_gateway_lab.azure.client import ArmClient, RequestFailed
from lab.tests.azure.conftest import make_cluster, make_gateway_pool
from lab.tests.azure.running import CLUSTER, NODE_GROUP, Running
from lab.tests.azure.test_beside_us import SETS, instance_body, make_pool

VERSION = "2026-06-01"
POOL = f"{CLUSTER}/agentPools/npegress"
VMS = f"{NODE_GROUP}/providers/Microsoft.Compute/virtualMachines"
NICS = f"{NODE_GROUP}/providers/Microsoft.Network/networkInterfaces"
NETWORKS = f"{NODE_GROUP}/providers/Microsoft.Network/virtualNetworks"


def gateways(azure: Running) -> list[Any]:
    return [m for m in azure.machines.machines.values() if m.pool == "npegress"]


# -- marks


async def test_gateway_nodes_carry_aks_s_own_label_and_taint(
    azure: Running, client: ArmClient
) -> None:
    await make_cluster(client)
    await make_gateway_pool(client, nodeTaints=["mine=yes:NoExecute"], nodeLabels={"a": "b"})
    pool = await client.get(POOL, VERSION)
    assert pool["properties"]["upgradeSettings"] == {"maxSurge": "0", "maxUnavailable": "5%"}
    for machine in gateways(azure):
        assert machine.labels["kubernetes.azure.com/mode"] == "gateway"
        assert "kubeegressgateway.azure.com/mode" not in machine.labels
        assert machine.labels["a"] == "b"
        assert ("kubernetes.azure.com/mode", "gateway", "NoSchedule") in machine.taints
        assert ("mine", "yes", "NoExecute") in machine.taints


# -- a NIC for each address


@pytest.mark.parametrize(("size", "nics"), [(31, 2), (30, 4), (29, 8)])
async def test_a_machine_pool_has_a_nic_for_each_address_of_its_prefix_size(
    azure: Running, client: ArmClient, size: int, nics: int
) -> None:
    await make_cluster(client, "1.34")
    gateway = {"publicIPPrefixSize": size}
    await make_gateway_pool(client, type="VirtualMachines", gatewayProfile=gateway)
    found = await client.list(NICS, VERSION)
    assert len(found) == nics
    assert all(n["tags"]["aks-managed-static-gateway-nic"] == "true" for n in found)
    assert sum("virtualMachine" in n["properties"] for n in found) == 2


async def test_nics_and_their_addresses_outlive_machines(azure: Running, client: ArmClient) -> None:
    await make_cluster(client, "1.34")
    pool = await make_gateway_pool(client, type="VirtualMachines")
    before = await addresses(client)
    assert len(set(before.values())) == 4
    for count in (4, 2, 3):
        pool["properties"]["count"] = count
        pool = await client.put(POOL, pool, VERSION)
        assert await addresses(client) == before
        assert len(await client.list(VMS, VERSION)) == len(gateways(azure)) == count
    (first, *_) = await client.list(VMS, VERSION)
    await client.delete(first["id"], VERSION)
    await client.put(POOL, pool, VERSION)
    assert await addresses(client) == before
    held = [n["properties"]["virtualMachine"]["id"] for n in await attached(client)]
    assert len(set(held)) == 3, "one machine a NIC"
    await client.delete(POOL, VERSION)
    assert await client.list(NICS, VERSION) == []


async def addresses(client: ArmClient) -> dict[str, str]:
    """The private address of each NIC."""
    return {
        n["name"]: n["properties"]["ipConfigurations"][0]["properties"]["privateIPAddress"]
        for n in await client.list(NICS, VERSION)
    }


async def attached(client: ArmClient) -> list[dict[str, Any]]:
    return [n for n in await client.list(NICS, VERSION) if "virtualMachine" in n["properties"]]


# -- az aks nodepool upgrade --node-image-only


@pytest.mark.parametrize("kind", ["VirtualMachineScaleSets", "VirtualMachines"])
async def test_a_node_image_is_upgraded_in_place_one_machine_at_a_time(
    azure: Running, client: ArmClient, kind: str
) -> None:
    await make_cluster(client, "1.34")
    pool = await make_gateway_pool(client, type=kind)
    before = {m.vm_id: m.address for m in gateways(azure)}
    azure.machines.starts.clear()
    await client.post(f"{POOL}/upgradeNodeImageVersion", None, VERSION)
    assert azure.machines.starts == list(before)
    assert {m.vm_id: m.address for m in gateways(azure)} == before
    after = await client.get(POOL, VERSION)
    image = after["properties"]["nodeImageVersion"]
    assert image != pool["properties"]["nodeImageVersion"]
    assert after["properties"]["provisioningState"] == "Succeeded"
    again = await client.put(POOL, pool, VERSION)
    assert again["properties"]["count"] == 2


async def test_an_upgrade_of_the_image_keeps_what_an_instance_was_given(
    azure: Running, client: ArmClient
) -> None:
    model, body = await make_pool(client)
    await client.put(f"{model['id']}/virtualMachines/1", instance_body(body), VERSION)
    before = await client.list(f"{model['id']}/networkInterfaces", VERSION)
    await client.post(f"{POOL}/upgradeNodeImageVersion", None, VERSION)
    assert await client.list(f"{model['id']}/networkInterfaces", VERSION) == before


async def test_an_upgrade_that_a_machine_does_not_come_back_from_fails(
    azure: Running, client: ArmClient
) -> None:
    await make_cluster(client)
    await make_gateway_pool(client)
    azure.machines.refuse = "000001"
    with pytest.raises(RequestFailed, match="does not boot"):
        await client.post(f"{POOL}/upgradeNodeImageVersion", None, VERSION)
    pool = await client.get(POOL, VERSION)
    assert pool["properties"]["provisioningState"] == "Failed"
    with pytest.raises(RequestFailed) as error:
        await client.post(f"{POOL}/abort", None, VERSION)
    assert error.value.status == 405


# -- what AKS refuses


@pytest.mark.parametrize(
    ("size", "count", "fits"),
    [(31, 1, False), (31, 0, False), (31, 3, False), (31, 2, True), (28, 17, False)],
)
async def test_a_gateway_pool_has_at_least_two_nodes_and_no_more_than_addresses(
    azure: Running, client: ArmClient, size: int, count: int, fits: bool
) -> None:
    await make_cluster(client)
    profile = {"publicIPPrefixSize": size}
    if fits:
        await make_gateway_pool(client, count=count, gatewayProfile=profile)
        return
    with pytest.raises(RequestFailed, match=f"invalid node count {count}, ") as error:
        await make_gateway_pool(client, count=count, gatewayProfile=profile)
    assert error.value.code == "StaticEgressGatewayInvalidGatewayNodeCount"


async def test_the_feature_and_dual_stack_do_not_go_together(
    azure: Running, client: ArmClient
) -> None:
    cluster = await make_cluster(client)
    network = cluster["properties"]["networkProfile"]
    network["ipFamilies"] = ["IPv4", "IPv6"]
    with pytest.raises(RequestFailed, match="dual-stack") as error:
        await client.put(CLUSTER, cluster, VERSION)
    assert error.value.status == 400
    network["staticEgressGatewayProfile"]["enabled"] = False
    await client.put(CLUSTER, cluster, VERSION)


# -- subnets


async def test_a_pool_may_have_a_subnet_of_its_own(azure: Running, client: ArmClient) -> None:
    await make_cluster(client)
    (network,) = await client.list(NETWORKS, VERSION)
    subnet = f"{network['id']}/subnets/gateways"
    with pytest.raises(RequestFailed) as error:
        await make_gateway_pool(client, vnetSubnetID=subnet)
    assert error.value.code == "InvalidResourceReference"
    await client.put(subnet, {"properties": {"addressPrefix": "10.226.7.0/24"}}, VERSION)
    pool = await make_gateway_pool(client, vnetSubnetID=subnet)
    assert pool["properties"]["vnetSubnetID"] == subnet
    assert all(str(m.address).startswith("10.226.7.") for m in gateways(azure))
    with pytest.raises(RequestFailed, match="not in the cluster's virtual network"):
        await make_gateway_pool(client, vnetSubnetID=f"{NODE_GROUP}/x/virtualNetworks/y/subnets/z")


async def test_machine_pools_are_refused_by_their_own_code_before_1_34(
    azure: Running, client: ArmClient
) -> None:
    await make_cluster(client, "1.33")
    with pytest.raises(RequestFailed) as error:
        await make_gateway_pool(client, type="VirtualMachines")
    assert error.value.code == "StaticEgressGatewayOnlySupportVMSSNodepool"


# -- LocalDNS


@pytest.mark.parametrize(
    ("profile", "version", "on"),
    [
        ({"mode": "Required"}, "1.34", True),
        ({"mode": "Preferred"}, "1.34", False),
        (None, "1.34", False),
        (None, "1.37", True),
        ({"mode": "Preferred"}, "1.37", True),
        ({"mode": "Disabled"}, "1.37", False),
    ],
)
async def test_local_dns_is_where_it_is_required_and_from_1_37(
    azure: Running, client: ArmClient, profile: Any, version: str, on: bool
) -> None:
    await make_cluster(client, version)
    extra = {} if profile is None else {"localDNSProfile": profile}
    pool = await make_gateway_pool(client, **extra)
    if profile is not None:
        shown = pool["properties"]["localDNSProfile"]
        assert shown == {**profile, "state": "Enabled" if on else "Disabled"}
    assert {m.local_dns for m in gateways(azure)} == {on}


async def test_nodes_boot_anew_when_local_dns_comes_or_goes(
    azure: Running, client: ArmClient
) -> None:
    await make_cluster(client)
    pool = await make_gateway_pool(client)
    azure.machines.starts.clear()
    for mode, on in (("Required", True), ("Required", True), ("Disabled", False)):
        pool["properties"]["localDNSProfile"] = {"mode": mode}
        pool = await client.put(POOL, pool, VERSION)
        assert {m.local_dns for m in gateways(azure)} == {on}
    assert len(azure.machines.starts) == 4, "two machines, twice"
    pool["properties"]["localDNSProfile"] = {"mode": "Sometimes"}
    with pytest.raises(RequestFailed, match=r"localDNSProfile\.mode"):
        await client.put(POOL, pool, VERSION)


# -- zones


@pytest.mark.parametrize("kind", ["VirtualMachineScaleSets", "VirtualMachines"])
async def test_machines_of_a_pool_are_spread_over_its_zones(
    azure: Running, client: ArmClient, kind: str
) -> None:
    await make_cluster(client, "1.34")
    await make_gateway_pool(client, type=kind, availabilityZones=["1", "2"], count=4)
    zones = [m.labels["topology.kubernetes.io/zone"] for m in gateways(azure)]
    assert sorted(zones) == ["swedencentral-1"] * 2 + ["swedencentral-2"] * 2
    if kind == "VirtualMachineScaleSets":
        (model, *_) = [s for s in await client.list(SETS, VERSION) if "npegress" in s["name"]]
        assert model["zones"] == ["1", "2"]
        instances = await client.list(f"{model['id']}/virtualMachines", VERSION)
        assert [i["zones"] for i in instances] == [["1"], ["2"], ["1"], ["2"]]


async def test_an_empty_size_is_aks_s_choice(azure: Running, client: ArmClient) -> None:
    """``az aks nodepool add`` without ``--node-vm-size`` sends an empty one."""
    await make_cluster(client)
    pool = await make_gateway_pool(client, vmSize="")
    assert pool["properties"]["vmSize"]
