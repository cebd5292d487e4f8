"""Long-running operations in every shape that Azure announces them in, and their collisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient

from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.client import RequestFailed
from egress_gateway_lab.azure.emulator import SUBSCRIPTION
from lab.tests.azure.clients.test_sdk import MC, options
from lab.tests.azure.conftest import Person, make_cluster, make_gateway_pool, make_prefix, send
from lab.tests.azure.running import GROUP, NODE_GROUP, Running, credential, running

VERSION = "2024-05-01"
NETWORK = f"{GROUP}/providers/Microsoft.Network"
SETS = f"{NODE_GROUP}/providers/Microsoft.Compute/virtualMachineScaleSets"
PREFIX_BODY: Any = {
    "location": "swedencentral",
    "sku": {"name": "Standard"},
    "properties": {"prefixLength": 30},
}


@pytest.mark.parametrize("shape", ["async", "location", "both"])
@pytest.mark.parametrize("fails", [False, True])
async def test_the_sdk_follows_every_shape_to_its_end(
    azure: Running, person: Person, shape: str, fails: bool
) -> None:
    async with person() as client:
        await client.put(GROUP, {"location": "swedencentral"}, VERSION)
    azure.emulator.faults.add("shape", method="PUT", path="publicIPPrefixes", shape=shape)
    azure.emulator.azure.operations.hold = 0
    # One that is to fail must still be under way when it is told so.
    azure.emulator.azure.operations.seconds = 5 if fails else 1
    with (
        credential(azure) as signed_in,
        NetworkManagementClient(signed_in, SUBSCRIPTION, **options(azure)) as network,
    ):
        poller = network.public_ip_prefixes.begin_create_or_update("rg", "pip", PREFIX_BODY)
        if fails:
            (operation,) = azure.emulator.azure.operations.under_way()
            error = ArmError(500, "InternalServerError", "An error occurred.")
            azure.emulator.azure.operations.fail(operation.name, error)
            with pytest.raises(HttpResponseError) as refused:
                poller.result()
            assert refused.value.error is not None
            assert refused.value.error.code == "InternalServerError"
        else:
            made = poller.result()
            assert made.ip_prefix == "203.0.113.0/30"
            assert made.provisioning_state == "Succeeded"


async def test_a_network_and_its_subnets_are_written_one_at_a_time(
    azure: Running, person: Person
) -> None:
    async with person() as client:
        await client.put(GROUP, {"location": "swedencentral"}, VERSION)
        space = {"addressSpace": {"addressPrefixes": ["10.9.0.0/16"]}}
        body = {"location": "swedencentral", "properties": space}
        await client.put(f"{NETWORK}/virtualNetworks/net", body, VERSION)
        azure.emulator.azure.operations.seconds = 600
        subnet = {"properties": {"addressPrefix": "10.9.1.0/24"}}
        one, two = (f"{azure.base}{NETWORK}/virtualNetworks/net{p}?api-version={VERSION}"
                    for p in ("/subnets/one", ""))  # fmt: skip
        assert (await send(client, "PUT", one, subnet))[0] == 201
        status, answer, headers = await send(client, "PUT", two, body)
        assert (status, answer["error"]["code"]) == (409, "AnotherOperationInProgress")
        assert headers["Retry-After"] == "1"


async def test_a_cluster_and_its_pools_are_written_one_at_a_time(
    azure: Running, person: Person
) -> None:
    async with person() as client:
        cluster = await make_cluster(client)
        azure.emulator.azure.operations.seconds = 600
        url = f"{azure.base}{cluster['id']}?api-version={VERSION}"
        assert (await send(client, "PUT", url, cluster))[0] == 200
        with pytest.raises(RequestFailed, match="in progress operation on aks") as error:
            await make_gateway_pool(client)
        assert (error.value.status, error.value.code) == (409, "OperationNotAllowed")


async def test_etags_guard_every_network_resource(azure: Running, person: Person) -> None:
    async with person() as client:
        await make_cluster(client, "1.34")
        await make_gateway_pool(client, type="VirtualMachines")
        await make_prefix(client)
        token = await client.sign_in()
        kinds = ("virtualNetworks", "loadBalancers", "publicIPAddresses", "publicIPPrefixes",
                 "networkInterfaces")  # fmt: skip
        for kind in kinds:
            group = GROUP if kind == "publicIPPrefixes" else NODE_GROUP
            (first, *_) = await client.list(f"{group}/providers/Microsoft.Network/{kind}", VERSION)
            url = f"{azure.base}{first['id']}?api-version={VERSION}"
            fresh = first["etag"]
            for method, etag, expected in (
                ("PUT", 'W/"stale"', 412),
                ("PATCH", 'W/"stale"', 412),
                ("DELETE", 'W/"stale"', 412),
                ("PUT", fresh, 200),
                ("PUT", fresh, 412),
            ):
                headers = {"Authorization": f"Bearer {token}", "If-Match": etag}
                async with client.session.request(
                    method, url, json=first, headers=headers, ssl=client.tls
                ) as response:
                    assert response.status == expected, (kind, method, etag)
                    if expected == 412:
                        body = await response.json()
                        assert body["error"]["code"] == "PreconditionFailed"
                    else:
                        announced = {**response.headers, "status": str(expected)}
                        await client.wait(announced)


@pytest.mark.parametrize("mode", ["Automatic", "Rolling"])
async def test_upgrade_policies_bring_the_model_to_the_instances(
    azure: Running, person: Person, mode: str
) -> None:
    async with person() as client:
        await make_cluster(client)
        await make_gateway_pool(client)
        model = next(s for s in await client.list(SETS, VERSION) if "npegress" in s["name"])
        model["properties"]["upgradePolicy"]["mode"] = mode
        profile = model["properties"]["virtualMachineProfile"]["networkProfile"]
        profile["networkInterfaceConfigurations"][0]["properties"]["enableIPForwarding"] = False
        await client.put(model["id"], model, VERSION)
        instances = await client.list(f"{model['id']}/virtualMachines", VERSION)
        assert [i["properties"]["latestModelApplied"] for i in instances] == [True, True]
        nics = await client.list(f"{model['id']}/networkInterfaces", VERSION)
        assert {n["properties"]["enableIPForwarding"] for n in nics} == {False}


async def test_instances_can_be_restarted_and_made_anew(azure: Running, person: Person) -> None:
    async with person() as client:
        await make_cluster(client)
        await make_gateway_pool(client)
    before = dict(azure.machines.machines)
    with (
        credential(azure) as signed_in,
        ComputeManagementClient(signed_in, SUBSCRIPTION, **options(azure)) as compute,
    ):
        name = next(
            s.name or ""
            for s in compute.virtual_machine_scale_sets.list(MC)
            if "npegress" in (s.name or "")
        )
        machines = compute.virtual_machine_scale_set_vms
        azure.machines.starts.clear()
        machines.begin_restart(MC, name, "0").result()
        machines.begin_reimage(MC, name, "1").result()
        assert [m.rpartition("/")[2] for m in azure.machines.starts] == ["0", "1"]
        compute.virtual_machine_scale_sets.begin_restart(MC, name).result()
        assert len(azure.machines.starts) == 4
        with pytest.raises(HttpResponseError):
            machines.begin_restart(MC, name, "7")
    assert azure.machines.machines == before, "same machines, same addresses"


def test_a_subscription_has_a_quota_of_public_addresses(tmp_path: Path) -> None:
    with (
        running(tmp_path, public_ip_quota=5) as azure,
        credential(azure) as signed_in,
        NetworkManagementClient(signed_in, SUBSCRIPTION, **options(azure)) as network,
    ):
        azure.call(_group(azure))
        network.public_ip_prefixes.begin_create_or_update("rg", "pip", PREFIX_BODY).result()
        body: Any = {"location": "swedencentral", "sku": {"name": "Standard"}, "properties": {}}
        network.public_ip_addresses.begin_create_or_update("rg", "one", body).result()
        with pytest.raises(HttpResponseError) as refused:
            network.public_ip_addresses.begin_create_or_update("rg", "two", body)
        assert refused.value.error is not None
        assert refused.value.error.code == "PublicIPCountLimitReached"
        network.public_ip_addresses.begin_create_or_update("rg", "one", body).result()
        body["properties"] = {"publicIPPrefix": {"id": f"{NETWORK}/publicIPPrefixes/pip"}}
        network.public_ip_addresses.begin_create_or_update("rg", "inside", body).result()
        azure.emulator.azure.addresses.command({"public_addresses": 6})
        body["properties"] = {}
        network.public_ip_addresses.begin_create_or_update("rg", "two", body).result()


async def _group(azure: Running) -> None:
    store = azure.emulator.azure.store
    document = {"id": GROUP, "name": "rg", "location": "swedencentral", "properties": {}}
    store.put("Microsoft.Resources/resourceGroups", document)


async def test_a_nic_has_256_configurations_and_300_rules_at_most(
    azure: Running, person: Person
) -> None:
    async with person() as client:
        await make_cluster(client)
        await make_gateway_pool(client)
        model = next(s for s in await client.list(SETS, VERSION) if "npegress" in s["name"])
        profile = model["properties"]["virtualMachineProfile"]["networkProfile"]
        nic = profile["networkInterfaceConfigurations"][0]["properties"]
        subnet = nic["ipConfigurations"][0]["properties"]["subnet"]
        balancer = f"{NODE_GROUP}/providers/Microsoft.Network/loadBalancers/internal"

        def rules(count: int) -> dict[str, Any]:
            rule = {
                "frontendIPConfiguration": {"id": f"{balancer}/frontendIPConfigurations/f"},
                "backendAddressPool": {"id": f"{balancer}/backendAddressPools/p"},
                "protocol": "Udp",
            }
            listed = [
                {"name": f"r{i}", "properties": {**rule, "frontendPort": i, "backendPort": i}}
                for i in range(1, count + 1)
            ]
            properties = {
                "frontendIPConfigurations": [{"name": "f", "properties": {"subnet": subnet}}],
                "backendAddressPools": [{"name": "p"}],
                "loadBalancingRules": listed,
            }
            return {"location": "swedencentral", "properties": properties}

        await client.put(balancer, rules(301), VERSION)
        await client.put(balancer, rules(300), VERSION)
        pool = {"id": f"{balancer}/backendAddressPools/p"}
        nic["ipConfigurations"][0]["properties"]["loadBalancerBackendAddressPools"] = [pool]
        await client.put(model["id"], model, VERSION)
        await client.post(f"{model['id']}/manualupgrade", {"instanceIds": ["*"]}, VERSION)
        with pytest.raises(RequestFailed) as error:
            await client.put(balancer, rules(301), VERSION)
        assert error.value.code == "LoadBalancingRulesPerNicLimitReached"
        nic["ipConfigurations"] += [
            {"name": f"extra{i}", "properties": {"subnet": subnet}} for i in range(256)
        ]
        with pytest.raises(RequestFailed) as error:
            await client.put(model["id"], model, VERSION)
        assert error.value.code == "MaxIPConfigurationsPerNicExceeded"


async def test_instances_are_not_written_while_their_scale_set_is(
    azure: Running, person: Person
) -> None:
    """The other way round it goes: else one machine that hangs would stop the autoscaler."""
    async with person() as client:
        await make_cluster(client)
        await make_gateway_pool(client)
        model = next(s for s in await client.list(SETS, VERSION) if "npegress" in s["name"])
        azure.emulator.azure.operations.seconds = 600

        async def write(path: str) -> tuple[int, str]:
            body = {"location": "swedencentral", "properties": {}}
            url = f"{azure.base}{model['id']}{path}?api-version={VERSION}"
            status, answer, _ = await send(client, "PUT", url, body)
            return status, answer.get("error", {}).get("code", "")

        assert await write("/virtualMachines/0") == (200, "")
        assert await write("/virtualMachines/1") == (200, "")
        assert await write("/virtualMachines/0") == (409, "Conflict")
        assert await write("") == (200, "")
        assert await write("") == (409, "Conflict")
        azure.call(azure.emulator.azure.operations.close())
        assert await write("") == (200, "")
        assert await write("/virtualMachines/0") == (409, "Conflict")


@pytest.mark.parametrize("state", ["Updating", "Failed", "Deleting"])
async def test_what_is_not_provisioned_cannot_be_referred_to(
    azure: Running, person: Person, state: str
) -> None:
    async with person() as client:
        await client.put(GROUP, {"location": "swedencentral"}, VERSION)
        prefix = await make_prefix(client)
        operations = azure.emulator.azure.operations
        url = f"{azure.base}{prefix['id']}?api-version={VERSION}"
        if state == "Failed":
            azure.emulator.faults.add("fail-operation", method="PUT", path="publicIPPrefixes")
            with pytest.raises(RequestFailed):
                await client.put(prefix["id"], PREFIX_BODY, VERSION)
        else:
            operations.seconds = 600
            method, body = ("DELETE", None) if state == "Deleting" else ("PUT", PREFIX_BODY)
            assert (await send(client, method, url, body))[0] in (200, 202)
        body = {
            "location": "swedencentral",
            "sku": {"name": "Standard"},
            "properties": {"publicIPPrefix": {"id": prefix["id"]}},
        }
        with pytest.raises(RequestFailed, match=f"Resource is in {state} state") as error:
            await client.put(f"{NETWORK}/publicIPAddresses/one", body, VERSION)
        assert (error.value.status, error.value.code) == (
            409,
            "ReferencedResourceNotProvisioned",
        )
        if state == "Failed":  # the same write again mends it
            await client.put(prefix["id"], PREFIX_BODY, VERSION)
            await client.put(f"{NETWORK}/publicIPAddresses/one", body, VERSION)
