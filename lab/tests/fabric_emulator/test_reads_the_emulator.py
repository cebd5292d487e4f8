"""What the emulator writes is what the fabric reads."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from egress_gateway_lab.azure.client import ArmClient
from egress_gateway_lab.fabric.network import Network, observe
from lab.tests.azure.conftest import make_cluster, make_gateway_pool, make_prefix
from lab.tests.azure.running import NODE_GROUP, Running, running, signed_in

ILB = f"{NODE_GROUP}/providers/Microsoft.Network/loadBalancers/kubeegressgateway-ilb"


async def story(azure: Running) -> tuple[Network, Network]:
    """The network before and after a configuration's resources, as a controller makes them."""
    async with signed_in(azure) as client:
        await make_cluster(client)
        await make_gateway_pool(client)
        before = observe(azure.emulator.resources)
        prefix = await make_prefix(client)
        await client.put(ILB, balancer(await subnet(client)), "2024-05-01")
        for nic in before.nics.values():
            if "npegress" in nic.id:
                await add_secondary(client, nic.machine_id, prefix["id"])
        return before, observe(azure.emulator.resources)


async def subnet(client: ArmClient) -> str:
    base = f"{NODE_GROUP}/providers/Microsoft.Network/virtualNetworks"
    networks = await client.get(base, "2024-05-01")
    return str(networks["value"][0]["properties"]["subnets"][0]["id"])


async def add_secondary(client: ArmClient, instance: str, prefix: str) -> None:
    document = await client.get(instance, "2024-07-01")
    profile = document["properties"]["networkProfileConfiguration"]
    (nic,) = profile["networkInterfaceConfigurations"]
    first = nic["properties"]["ipConfigurations"][0]
    pools = first["properties"].setdefault("loadBalancerBackendAddressPools", [])
    pools.append({"id": f"{ILB}/backendAddressPools/pool"})
    public = {"name": "egressgateway-u", "properties": {"publicIPPrefix": {"id": prefix}}}
    second = {
        "name": "egressgateway-u",
        "properties": {
            "primary": False,
            "subnet": first["properties"]["subnet"],
            "publicIPAddressConfiguration": public,
        },
    }
    nic["properties"]["ipConfigurations"].append(second)
    body = {"properties": {"networkProfileConfiguration": profile}}
    await client.put(instance, body, "2024-07-01")


def balancer(subnet_id: str) -> dict[str, Any]:
    inside = {"subnet": {"id": subnet_id}, "privateIPAllocationMethod": "Dynamic"}
    probe = {"protocol": "Http", "port": 8082, "requestPath": "/gw/u", "intervalInSeconds": 5}
    rule = {
        "frontendIPConfiguration": {"id": f"{ILB}/frontendIPConfigurations/pool"},
        "backendAddressPool": {"id": f"{ILB}/backendAddressPools/pool"},
        "probe": {"id": f"{ILB}/probes/u"},
        "protocol": "Udp",
        "frontendPort": 6000,
        "backendPort": 6000,
        "enableFloatingIP": True,
    }
    return {
        "location": "swedencentral",
        "sku": {"name": "Standard"},
        "properties": {
            "frontendIPConfigurations": [{"name": "pool", "properties": inside}],
            "backendAddressPools": [{"name": "pool"}],
            "probes": [{"name": "u", "properties": probe}],
            "loadBalancingRules": [{"name": "u", "properties": rule}],
        },
    }


async def test_the_emulator_s_resources_become_translations_and_balancing(tmp_path: Path) -> None:
    with running(tmp_path) as azure:
        before, after = await story(azure)
    assert before.prefixes == (IPv4Network("10.224.0.0/12"),)
    (outbound,) = before.outbound
    (address,) = outbound.addresses
    assert address in IPv4Network("192.0.2.0/24")
    assert len(before.nics) == 3
    for nic in before.nics.values():
        assert nic.subnet == IPv4Network("10.224.0.0/16")
        assert outbound.pool in nic.primary.pools
        assert nic.machine_id
    (rule,) = after.balancing
    assert rule.floating
    assert rule.frontend in IPv4Network("10.224.0.0/16")
    assert rule.probe is not None
    assert rule.probe.path == "/gw/u"
    gateways = [nic for nic in after.nics.values() if rule.pool in nic.primary.pools]
    assert len(gateways) == 2
    public = {config.public for nic in gateways for config in nic.ip_configs[1:]}
    assert len(public) == 2
    assert all(isinstance(a, IPv4Address) and a in IPv4Network("203.0.113.0/24") for a in public)
