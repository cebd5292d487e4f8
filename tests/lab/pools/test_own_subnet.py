"""A gateway pool in a subnet of its own (kube-egress-gateway#1329): its pods' packets arrive."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway_lab.demo.world import VM_SIZE, World
from tests.lab.test_bad_input import remove

pytestmark = pytest.mark.root
GATEWAYS = "npsubnet"
SUBNET = ipaddress.IPv4Network("10.226.7.0/24")
INTERNET = "http://ifconfig.me"


async def gateways_in_a_subnet(world: World) -> str:
    """``az network vnet subnet create`` and ``az aks nodepool add --vnet-subnet-id``; the subnet's
    id."""
    networks = f"{await world.node_group_id()}/providers/Microsoft.Network/virtualNetworks"
    (network,) = await world.arm.list(networks, "2024-05-01")
    subnet = f"{network['id']}/subnets/gateways"
    await world.arm.put(subnet, {"properties": {"addressPrefix": str(SUBNET)}}, "2024-05-01")
    properties: dict[str, Any] = {
        "count": 2,
        "mode": "Gateway",
        "vmSize": VM_SIZE,
        "osType": "Linux",
        "type": "VirtualMachineScaleSets",
        "vnetSubnetID": subnet,
        "gatewayProfile": {"publicIPPrefixSize": 31},
    }
    pool = f"{world.cluster_id}/agentPools/{GATEWAYS}"
    await world.arm.put(pool, {"properties": properties}, "2026-06-01")
    return subnet


async def test_pods_leave_by_gateways_of_another_subnet(world: World) -> None:
    subnet = await gateways_in_a_subnet(world)
    for node in await world.nodes(pool=GATEWAYS):
        (address,) = [
            a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"
        ]
        assert ipaddress.ip_address(address) in SUBNET
    await world.configure("subnet", {"gatewayNodepoolName": GATEWAYS})
    sgc = await world.configuration_condition(
        "subnet", lambda c: (c["type"], c["status"]) == ("Ready", "True"), timeout=120
    )
    prefix = ipaddress.ip_network(sgc["status"]["egressIpPrefix"])
    meta = {"name": "by-subnet", "namespace": "default"}
    spec = {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "nginx"}],
    }
    annotations = {names.POD_ANNOTATION: "subnet"}
    pod = {"kind": "Pod", "metadata": meta | {"annotations": annotations}, "spec": spec}
    await world.kube.create("pods", pod)
    await world.pod_ready("by-subnet", timeout=120)
    assert ipaddress.ip_address(await world.curl("by-subnet", INTERNET)) in prefix
    await world.kube.delete("pods", "by-subnet", namespace="default")
    await remove(world, "subnet")
    await world.arm.delete(f"{world.cluster_id}/agentPools/{GATEWAYS}", "2026-06-01")
    await world.arm.delete(subnet, "2024-05-01")
