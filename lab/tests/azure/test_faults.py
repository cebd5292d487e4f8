"""The ways in which Azure says no, on demand and by its own rules."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from egress_gateway_lab.azure.client import RequestFailed
from lab.tests.azure.conftest import Person, make_cluster, make_gateway_pool, make_prefix, send
from lab.tests.azure.running import GROUP, NODE_GROUP, Running
from lab.tests.azure.test_access import scale_set_with

VERSION = "2024-05-01"
PREFIX = f"{GROUP}/providers/Microsoft.Network/publicIPPrefixes/pip"
SETS = f"{NODE_GROUP}/providers/Microsoft.Compute/virtualMachineScaleSets"


@pytest.mark.parametrize(
    ("kind", "options", "status", "code"),
    [
        ("conflict", {}, 409, "AnotherOperationInProgress"),
        ("throttle", {"retry_after": 7}, 429, "SubscriptionRequestsThrottled"),
        ("error", {"status": 503, "code": "ServiceUnavailable"}, 503, "ServiceUnavailable"),
    ],
)
async def test_a_request_can_be_made_to_fail_once(
    azure: Running, person: Person, kind: Any, options: dict[str, Any], status: int, code: str
) -> None:
    rule = azure.emulator.faults.add(kind, method="GET", path="publicipprefixes/pip$", **options)
    async with person() as client:
        await client.put(GROUP, {"location": "swedencentral"}, VERSION)
        with pytest.raises(RequestFailed) as error:
            await make_prefix(client)
        assert (error.value.status, error.value.code) == (status, code)
        assert (await client.get(PREFIX, VERSION))["name"] == "pip"
    assert rule.hits == 1


async def test_an_accepted_operation_can_fail_later(azure: Running, person: Person) -> None:
    azure.emulator.faults.add(
        "fail-operation", method="PUT", path="publicIPPrefixes", code="InternalServerError"
    )
    async with person() as client:
        await client.put(GROUP, {"location": "swedencentral"}, VERSION)
        with pytest.raises(RequestFailed) as error:
            await make_prefix(client)
        assert error.value.code == "InternalServerError"
        failed = await client.get(PREFIX, VERSION)
        assert failed["properties"]["provisioningState"] == "Failed"
        mended = await make_prefix(client)
        assert mended["properties"]["provisioningState"] == "Succeeded"


async def test_a_cut_connection_leaves_the_write_done(azure: Running, person: Person) -> None:
    azure.emulator.faults.add("cut", method="PUT", path="publicIPPrefixes")
    async with person() as client:
        await client.put(GROUP, {"location": "swedencentral"}, VERSION)
        with pytest.raises(aiohttp.ClientError):
            await make_prefix(client)
        assert (await client.get(PREFIX, VERSION))["name"] == "pip"


async def test_one_write_at_a_time_on_a_resource(azure: Running, person: Person) -> None:
    azure.emulator.azure.operations.seconds = 600
    async with person() as client:
        await client.put(GROUP, {"location": "swedencentral"}, VERSION)
        body = {"location": "swedencentral", "properties": {"prefixLength": 30}}
        url = f"{azure.base}{PREFIX}?api-version={VERSION}"
        status, _, _ = await send(client, "PUT", url, body)
        assert status == 201
        with pytest.raises(RequestFailed) as error:
            await make_prefix(client)
        assert error.value.code == "AnotherOperationInProgress"


async def test_a_prefix_too_small_fails_the_instance_and_changes_nothing(
    azure: Running, person: Person
) -> None:
    async with person() as client:
        await make_cluster(client)
        await make_gateway_pool(client)
        prefix = await make_prefix(client, "small", 31)
        for number in ("a", "b"):
            path = f"{GROUP}/providers/Microsoft.Network/publicIPAddresses/{number}"
            body = {
                "location": "swedencentral",
                "sku": {"name": "Standard"},
                "properties": {"publicIPPrefix": {"id": prefix["id"]}},
            }
            await client.put(path, body, VERSION)
        model = next(s for s in await client.list(SETS, VERSION) if "npegress" in s["name"])
        wanted = scale_set_with(model, prefix["id"])["properties"]["virtualMachineProfile"]
        body = {"properties": {"networkProfileConfiguration": wanted["networkProfile"]}}
        instance = f"{model['id']}/virtualMachines/0"
        with pytest.raises(RequestFailed, match="can provide 2 public ips at maximum") as error:
            await client.put(instance, body, VERSION)
        assert error.value.code == "PublicIpPrefixOutOfIpAddressesForVMScaleSet"
        failed = await client.get(instance, VERSION)
        assert failed["properties"]["provisioningState"] == "Failed"
        nics = await client.list(f"{instance}/networkInterfaces", VERSION)
        assert len(nics[0]["properties"]["ipConfigurations"]) == 1


async def test_references_are_checked(azure: Running, person: Person) -> None:
    async with person() as client:
        await make_cluster(client)
        await make_gateway_pool(client)
        model = next(s for s in await client.list(SETS, VERSION) if "npegress" in s["name"])
        with pytest.raises(RequestFailed) as error:
            await client.put(model["id"], scale_set_with(model, PREFIX), VERSION)
        assert error.value.code == "InvalidResourceReference"
        elsewhere = GROUP.replace("00000001", "00000002") + "/providers/Microsoft.Network/x/y"
        with pytest.raises(RequestFailed) as error:
            await client.get(elsewhere, VERSION)
        assert error.value.code == "SubscriptionNotFound"


async def test_an_instance_keeps_its_configuration_until_it_is_upgraded(
    azure: Running, person: Person
) -> None:
    async with person() as client:
        await make_cluster(client)
        await make_gateway_pool(client)
        prefix = await make_prefix(client)
        model = next(s for s in await client.list(SETS, VERSION) if "npegress" in s["name"])
        await client.put(model["id"], scale_set_with(model, prefix["id"]), VERSION)
        instances = f"{model['id']}/virtualMachines"
        states = [
            i["properties"]["latestModelApplied"] for i in await client.list(instances, VERSION)
        ]
        assert states == [False, False]
        assert await client.list(f"{model['id']}/publicIPAddresses", VERSION) == []
        await client.post(f"{model['id']}/manualupgrade", {"instanceIds": ["1"]}, VERSION)
        states = [
            i["properties"]["latestModelApplied"] for i in await client.list(instances, VERSION)
        ]
        assert states == [False, True]
        assert len(await client.list(f"{model['id']}/publicIPAddresses", VERSION)) == 1
