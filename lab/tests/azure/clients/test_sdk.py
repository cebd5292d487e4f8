"""The story's requests, made by Azure's own SDKs the way the controller makes them."""

from __future__ import annotations

from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity.aio import ClientAssertionCredential
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.compute.aio import ComputeManagementClient as AsyncComputeClient
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.network.aio import NetworkManagementClient as AsyncNetworkClient

from egress_gateway_lab.azure.emulator import ADDON_SUBJECT, SUBSCRIPTION, TENANT
from lab.tests.azure.conftest import Person, make_cluster, make_gateway_pool, make_prefix
from lab.tests.azure.running import CLUSTER, Running, credential

MC = "MC_rg_aks_swedencentral"
UID = "egressgateway-4b015864-070c-4dab-8cb8-223265aa6ea5"


def options(azure: Running) -> dict[str, Any]:
    return {
        "base_url": azure.base,
        "credential_scopes": [f"{azure.base}/.default"],
        "polling_interval": 1,
        "connection_verify": azure.ca_file,
    }


async def lab(person: Person) -> None:
    """Cluster, gateway pool, a prefix that the cluster's identity may use."""
    async with person() as client:
        cluster = await make_cluster(client)
        await make_gateway_pool(client)
        prefix = await make_prefix(client)
        role = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Authorization/roleDefinitions"
        assignment = "00000000-0000-0000-0000-00000000000f"
        await client.put(
            f"{prefix['id']}/providers/Microsoft.Authorization/roleAssignments/{assignment}",
            {
                "properties": {
                    "roleDefinitionId": f"{role}/4d97b98b-1d4f-4787-a291-c67834d212e7",
                    "principalId": cluster["identity"]["principalId"],
                }
            },
            "2022-04-01",
        )


def balancer_body(pool: str, subnet: str, location: str) -> Any:
    lb = (
        f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{MC}/providers/Microsoft.Network/"
        "loadBalancers/kubeegressgateway-ilb"
    )
    rule = {
        "frontendIPConfiguration": {"id": f"{lb}/frontendIPConfigurations/{pool}"},
        "backendAddressPool": {"id": f"{lb}/backendAddressPools/{pool}"},
        "probe": {"id": f"{lb}/probes/one"},
        "protocol": "Udp",
        "frontendPort": 6000,
        "backendPort": 6000,
        "enableFloatingIP": True,
    }
    probe = {
        "protocol": "Http",
        "port": 8082,
        "requestPath": "/gw/one",
        "intervalInSeconds": 5,
        "probeThreshold": 1,
    }
    front = {"privateIPAllocationMethod": "Dynamic", "subnet": {"id": subnet}}
    return {
        "location": location,
        "sku": {"name": "Standard", "tier": "Regional"},
        "properties": {
            "frontendIPConfigurations": [{"name": pool, "properties": front}],
            "backendAddressPools": [{"name": pool}],
            "loadBalancingRules": [{"name": "one", "properties": rule}],
            "probes": [{"name": "one", "properties": probe}],
        },
    }


def with_gateway(nics: list[dict[str, Any]], subnet: str, pool_id: str, prefix: str) -> Any:
    """NIC configurations with a gateway ipConfig added, as documents."""
    primary = nics[0]["properties"]["ipConfigurations"][0]["properties"]
    primary["loadBalancerBackendAddressPools"].append({"id": pool_id})
    public = {"name": UID, "properties": {"publicIPPrefix": {"id": prefix}}}
    extra = {"primary": False, "subnet": {"id": subnet}, "publicIPAddressConfiguration": public}
    nics[0]["properties"]["ipConfigurations"].append({"name": UID, "properties": extra})
    return nics


async def test_one_configuration_from_nothing_to_its_addresses_and_back(
    azure: Running, person: Person
) -> None:
    await lab(person)
    identity = azure.machines.clusters[CLUSTER].identity_client_id

    credential = ClientAssertionCredential(
        TENANT,
        identity,
        lambda: f"https://issuer|{ADDON_SUBJECT}",
        authority=azure.base,
        disable_instance_discovery=True,
        connection_verify=azure.ca_file,
    )
    network = AsyncNetworkClient(credential, SUBSCRIPTION, **options(azure))
    compute = AsyncComputeClient(credential, SUBSCRIPTION, **options(azure))
    async with credential, network, compute:
        await provision_and_clean_up(network, compute)


async def provision_and_clean_up(network: AsyncNetworkClient, compute: AsyncComputeClient) -> None:
    with pytest.raises(ResourceNotFoundError):
        await network.load_balancers.get(MC, "kubeegressgateway-ilb")
    sets = [s async for s in compute.virtual_machine_scale_sets.list(MC)]
    pool = next(s for s in sets if (s.tags or {})["aks-managed-poolName"] == "npegress")
    assert (pool.tags or {})["aks-managed-gatewayIPPrefixSize"] == "30"
    assert pool.unique_id
    assert pool.name
    model = pool.as_dict()
    nics = model["properties"]["virtualMachineProfile"]["networkProfile"][
        "networkInterfaceConfigurations"
    ]
    subnet = nics[0]["properties"]["ipConfigurations"][0]["properties"]["subnet"]["id"]

    poller = await network.load_balancers.begin_create_or_update(
        MC, "kubeegressgateway-ilb", balancer_body(pool.unique_id, subnet, pool.location)
    )
    balancer = await poller.result()
    assert balancer.provisioning_state == "Succeeded"
    frontend = balancer.frontend_ip_configurations[0]
    assert frontend.private_ip_address.startswith("10.224.0.")
    assert frontend.load_balancing_rules[0].id.endswith("/loadBalancingRules/one")

    prefix = await network.public_ip_prefixes.get("rg", "pip")
    assert prefix.id
    nics = with_gateway(nics, subnet, balancer.backend_address_pools[0].id, prefix.id)
    profile = {"networkProfile": {"networkInterfaceConfigurations": nics}}
    change: Any = {"location": pool.location, "properties": {"virtualMachineProfile": profile}}
    writing = await compute.virtual_machine_scale_sets.begin_create_or_update(MC, pool.name, change)
    updated = await writing.result()
    assert updated.sku
    assert updated.sku.capacity == 2, "a section that the request left out stays"
    assert (updated.tags or {})["aks-managed-poolName"] == "npegress"

    body: Any = {"properties": {"networkProfileConfiguration": profile["networkProfile"]}}
    pollers = [
        await compute.virtual_machine_scale_set_vms.begin_update(MC, pool.name, i, body)
        for i in ("0", "1")
    ]
    for following in pollers:
        assert (await following.result()).provisioning_state == "Succeeded"
    assert await public_addresses(network, pool.name) == {"203.0.113.0", "203.0.113.1"}
    balancer = await network.load_balancers.get(MC, "kubeegressgateway-ilb")
    assert len(balancer.backend_address_pools[0].backend_ip_configurations) == 2

    with pytest.raises(HttpResponseError) as refused:
        await network.load_balancers.begin_delete(MC, "kubeegressgateway-ilb")
    assert code_of(refused.value) == "LoadBalancerInUseByVirtualMachineScaleSet"
    with pytest.raises(HttpResponseError) as refused:
        await network.public_ip_prefixes.begin_delete("rg", "pip")
    assert code_of(refused.value) == "InUsePublicIpPrefixCannotBeDeleted"

    await take_back(network, compute, model, pool.name)
    assert await public_addresses(network, pool.name) == set()
    await (await network.load_balancers.begin_delete(MC, "kubeegressgateway-ilb")).result()
    await (await network.public_ip_prefixes.begin_delete("rg", "pip")).result()
    with pytest.raises(HttpResponseError) as gone:
        await network.public_ip_prefixes.get("rg", "pip")
    assert code_of(gone.value) == "AuthorizationFailed", "the role went with its scope"


def code_of(error: HttpResponseError) -> str | None:
    return error.error.code if error.error else None


async def take_back(
    network: AsyncNetworkClient, compute: AsyncComputeClient, model: Any, name: str
) -> None:
    """Removes the gateway ipConfig from model and instances."""
    profile = model["properties"]["virtualMachineProfile"]["networkProfile"]
    properties = profile["networkInterfaceConfigurations"][0]["properties"]
    properties["ipConfigurations"] = properties["ipConfigurations"][:1]
    properties["ipConfigurations"][0]["properties"]["loadBalancerBackendAddressPools"].pop()
    without: Any = {
        "location": model["location"],
        "properties": {"virtualMachineProfile": {"networkProfile": profile}},
    }
    poller = await compute.virtual_machine_scale_sets.begin_create_or_update(MC, name, without)
    await poller.result()
    instances = compute.virtual_machine_scale_set_vms
    for instance in ("0", "1"):
        body: Any = {"properties": {"networkProfileConfiguration": profile}}
        await (await instances.begin_update(MC, name, instance, body)).result()


async def public_addresses(network: AsyncNetworkClient, scale_set: str) -> set[str]:
    listed = network.public_ip_addresses.list_virtual_machine_scale_set_public_ip_addresses(
        MC, scale_set
    )
    found = {a.ip_address async for a in listed}
    by_nic = set()
    nics = network.network_interfaces.list_virtual_machine_scale_set_network_interfaces(
        MC, scale_set
    )
    async for nic in nics:
        for configuration in nic.ip_configurations:
            if configuration.public_ip_address:
                by_nic.add(configuration.public_ip_address.id)
    assert len(by_nic) == len(found)
    return found


async def test_blocking_clients_and_etags(azure: Running, person: Person) -> None:
    await lab(person)
    with (
        credential(azure) as signed_in,
        NetworkManagementClient(signed_in, SUBSCRIPTION, **options(azure)) as network,
        ComputeManagementClient(signed_in, SUBSCRIPTION, **options(azure)) as compute,
    ):
        sets = {s.name for s in compute.virtual_machine_scale_sets.list_all()}
        assert any("npegress" in (name or "") for name in sets)
        prefix = network.public_ip_prefixes.get("rg", "pip")
        before = prefix.etag
        prefix.tags = {"owner": "someone"}
        changed = network.public_ip_prefixes.begin_create_or_update("rg", "pip", prefix).result()
        assert changed.ip_prefix == prefix.ip_prefix, "an update keeps the addresses"
        assert changed.etag != before
        balancer = network.load_balancers.get(MC, "kubernetes")
        stale = {"If-Match": 'W/"00000000-0000-0000-0000-000000000000"'}
        with pytest.raises(HttpResponseError) as refused:
            network.load_balancers.begin_create_or_update(MC, "kubernetes", balancer, headers=stale)
        assert refused.value.status_code == 412
        fresh = {"If-Match": balancer.etag}
        poller = network.load_balancers.begin_create_or_update(
            MC, "kubernetes", balancer, headers=fresh
        )
        assert poller.result().outbound_rules[0].name == "aksOutboundRule"
