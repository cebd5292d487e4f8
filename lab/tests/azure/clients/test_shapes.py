"""Names that Azure's own published examples carry, and that our answers must therefore carry.

Members are from the example responses of Azure/azure-rest-api-specs (Microsoft.Network 2018-10-01
and 2023-05-01: LoadBalancerGet, PublicIpPrefixGet, NetworkInterfaceGet;
Microsoft.ContainerService 2024-01-01: ManagedClustersGet; Microsoft.Compute 2022-03-01:
VirtualMachineScaleSetVM_Get) and, where no example is at hand (scale sets, their public
addresses), what the SDKs' models and AKS itself show, less what the lab has no use for (disks,
operating system, diagnostics, ssh keys, portal addresses).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from lab.tests.azure.clients.test_sdk import balancer_body, with_gateway
from lab.tests.azure.conftest import make_cluster, make_gateway_pool, make_prefix
from lab.tests.azure.running import CLUSTER, GROUP, NODE_GROUP, Running, running, signed_in

VERSION = "2024-05-01"
POOL = "p"
BALANCER = f"{NODE_GROUP}/providers/Microsoft.Network/loadBalancers/kubeegressgateway-ilb"

RULE = (
    "name id properties.provisioningState properties.frontendIPConfiguration.id "
    "properties.frontendPort properties.backendPort properties.enableFloatingIP "
    "properties.idleTimeoutInMinutes properties.protocol properties.enableTcpReset "
    "properties.loadDistribution properties.backendAddressPool.id properties.probe.id "
    "properties.disableOutboundSnat"
)
CONFIGURATION = (
    "name id properties.provisioningState properties.privateIPAddress "
    "properties.privateIPAllocationMethod properties.subnet.id properties.primary "
    "properties.privateIPAddressVersion"
)
EXAMPLES: dict[str, str] = {
    "balancer": "name id type location etag sku.name properties.provisioningState "
    "properties.outboundRules properties.inboundNatPools properties.inboundNatRules",
    "balancer properties.frontendIPConfigurations": "name id properties.provisioningState "
    "properties.privateIPAddress properties.privateIPAllocationMethod properties.subnet.id "
    "properties.loadBalancingRules",
    "balancer properties.backendAddressPools": "name id properties.provisioningState "
    "properties.loadBalancingRules properties.backendIPConfigurations",
    "balancer properties.loadBalancingRules": RULE,
    "balancer properties.probes": "name id properties.provisioningState properties.protocol "
    "properties.port properties.requestPath properties.intervalInSeconds "
    "properties.numberOfProbes properties.loadBalancingRules",
    "prefix": "name id etag type location sku.name properties.provisioningState "
    "properties.resourceGuid properties.publicIPAddressVersion properties.prefixLength "
    "properties.ipPrefix properties.ipTags properties.publicIPAddresses",
    "nic": "name id etag properties.provisioningState properties.resourceGuid "
    "properties.ipConfigurations properties.dnsSettings.dnsServers "
    "properties.enableAcceleratedNetworking properties.enableIPForwarding properties.primary "
    "properties.virtualMachine.id",
    "nic properties.ipConfigurations": f"{CONFIGURATION} etag",
    "public": "name id etag properties.provisioningState properties.resourceGuid "
    "properties.ipAddress properties.publicIPAddressVersion properties.publicIPAllocationMethod "
    "properties.idleTimeoutInMinutes properties.ipTags properties.ipConfiguration.id "
    "properties.publicIPPrefix.id",
    "set": "name id type location tags sku.name sku.tier sku.capacity "
    "properties.upgradePolicy.mode properties.provisioningState properties.uniqueId "
    "properties.overprovision properties.singlePlacementGroup "
    "properties.virtualMachineProfile.osProfile.computerNamePrefix "
    "properties.virtualMachineProfile.networkProfile.networkInterfaceConfigurations",
    "instance": "name id type location tags instanceId sku.name sku.tier properties.vmId "
    "properties.latestModelApplied properties.modelDefinitionApplied properties.provisioningState "
    "properties.osProfile.computerName properties.networkProfile.networkInterfaces "
    "properties.networkProfileConfiguration.networkInterfaceConfigurations",
    "cluster": "id location name type identity.principalId identity.tenantId identity.type "
    "sku.name sku.tier properties.provisioningState properties.maxAgentPools "
    "properties.kubernetesVersion properties.currentKubernetesVersion properties.dnsPrefix "
    "properties.fqdn properties.servicePrincipalProfile.clientId properties.nodeResourceGroup "
    "properties.enableRBAC properties.networkProfile.networkPlugin "
    "properties.networkProfile.podCidr properties.networkProfile.serviceCidr "
    "properties.networkProfile.dnsServiceIP properties.networkProfile.loadBalancerSku "
    "properties.networkProfile.outboundType properties.networkProfile.podCidrs "
    "properties.networkProfile.serviceCidrs properties.networkProfile.ipFamilies "
    "properties.networkProfile.loadBalancerProfile.effectiveOutboundIPs",
    "cluster properties.agentPoolProfiles": "name count vmSize maxPods osType provisioningState "
    "orchestratorVersion currentOrchestratorVersion nodeImageVersion upgradeSettings.maxSurge "
    "mode type powerState.code",
}


def lacking(document: Any, names: str) -> Iterator[str]:
    for name in names.split():
        at = document
        for word in name.split("."):
            if not isinstance(at, dict) or word not in at:
                yield name
                break
            at = at[word]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One resource of each kind, all in use by one configuration."""
    with running(tmp_path_factory.mktemp("shapes")) as azure:
        return asyncio.run(build(azure))


async def build(azure: Running) -> dict[str, Any]:
    async with signed_in(azure) as client:
        await make_cluster(client)
        await make_gateway_pool(client)
        prefix = await make_prefix(client)
        sets = f"{NODE_GROUP}/providers/Microsoft.Compute/virtualMachineScaleSets"
        model = next(s for s in await client.list(sets, VERSION) if "npegress" in s["name"])
        profile = model["properties"]["virtualMachineProfile"]["networkProfile"]
        nics = profile["networkInterfaceConfigurations"]
        subnet = nics[0]["properties"]["ipConfigurations"][0]["properties"]["subnet"]["id"]
        await client.put(BALANCER, balancer_body(POOL, subnet, "swedencentral"), VERSION)
        with_gateway(nics, subnet, f"{BALANCER}/backendAddressPools/{POOL}", prefix["id"])
        await client.put(model["id"], model, VERSION)
        await client.post(f"{model['id']}/manualupgrade", {"instanceIds": ["*"]}, VERSION)
        return {
            "balancer": await client.get(BALANCER, VERSION),
            "prefix": await client.get(
                f"{GROUP}/providers/Microsoft.Network/publicIPPrefixes/pip", VERSION
            ),
            "nic": (await client.list(f"{model['id']}/networkInterfaces", VERSION))[0],
            "public": (await client.list(f"{model['id']}/publicIPAddresses", VERSION))[0],
            "set": await client.get(model["id"], VERSION),
            "instance": await client.get(f"{model['id']}/virtualMachines/0", VERSION),
            "cluster": await client.get(CLUSTER, "2026-06-01"),
        }


@pytest.mark.parametrize("example", EXAMPLES)
def test_answers_carry_what_the_official_examples_carry(
    answers: dict[str, Any], example: str
) -> None:
    kind, *way = example.split()
    found = answers[kind]
    for word in way[0].split(".") if way else ():
        found = found[word]
    for item in found if isinstance(found, list) else [found]:
        assert list(lacking(item, EXAMPLES[example])) == []
    assert found, "an empty list says nothing"
