"""ARM's manners: discovery, operations, pages, missing things, and Graph's look-ups."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from egress_gateway_lab.azure.client import ArmClient, RequestFailed
from egress_gateway_lab.azure.emulator import SUBSCRIPTION
from lab.tests.azure.conftest import Person, make_cluster, make_prefix, send
from lab.tests.azure.running import CLUSTER, GROUP, Running, running, signed_in

VERSION = "2024-05-01"
PREFIXES = f"{GROUP}/providers/Microsoft.Network/publicIPPrefixes"


async def ask(client: ArmClient, method: str, path: str, body: Any = None) -> Any:
    status, answer, _ = await send(client, method, client.base + path, body)
    assert status == 200, answer
    return answer


async def test_what_az_asks_before_it_signs_in(azure: Running, person: Person) -> None:
    async with person() as client:

        async def get(path: str) -> Any:
            async with client.session.get(azure.base + path, ssl=client.tls) as response:
                assert response.status == 200
                return await response.json()

        old = await get("/metadata/endpoints?api-version=2019-05-01")
        assert old[0]["resourceManager"] == azure.base
        new = await get("/metadata/endpoints?api-version=2022-09-01")
        assert new["authentication"]["loginEndpoint"] == f"{azure.base}/adfs"
        assert new["microsoftGraphResourceId"] == f"{azure.base}/"
        assert all(new["suffixes"].values())
        found = await get("/adfs/adfs/v2.0/.well-known/openid-configuration")
        assert found["token_endpoint"].startswith(azure.base)


async def test_the_look_ups_of_a_role_assignment(azure: Running, person: Person) -> None:
    async with person() as client:
        cluster = await make_cluster(client)
        prefix = await make_prefix(client)
        principal = cluster["identity"]["principalId"]
        wanted = f"servicePrincipalNames/any(c:c eq '{principal}')"
        none = await ask(client, "GET", f"/v1.0/servicePrincipals?$filter={wanted}")
        assert none["value"] == [], "an object id is no service principal name"
        found = await ask(client, "POST", "/v1.0/directoryObjects/getByIds", {"ids": [principal]})
        assert found["value"][0]["id"] == principal
        path = f"{prefix['id']}/providers/Microsoft.Authorization/roleDefinitions"
        wanted = "roleName eq 'Network Contributor'"
        roles = await client.get(f"{path}?$filter={wanted}", "2022-05-01-preview")
        assert [r["properties"]["roleName"] for r in roles["value"]] == ["Network Contributor"]


async def test_a_write_is_accepted_with_its_operation(azure: Running, person: Person) -> None:
    async with person() as client:
        await client.put(GROUP, {"location": "swedencentral"}, VERSION)
        body = {"location": "swedencentral", "properties": {"prefixLength": 30}}
        url = f"{azure.base}{PREFIXES}/pip?api-version={VERSION}"
        status, answer, headers = await send(client, "PUT", url, body)
        assert status == 201
        assert answer["properties"]["provisioningState"] == "Creating"
        assert "Retry-After" not in headers, "as recorded of Microsoft.Network"
        assert headers["Azure-AsyncOperation"].startswith(azure.base)
        await client.wait(headers)
        status, answer, _ = await send(client, "PUT", url, body)
        assert (status, answer["properties"]["provisioningState"]) == (200, "Updating")
        while (await client.get(f"{PREFIXES}/pip", VERSION))["properties"][
            "provisioningState"
        ] != "Succeeded":
            await asyncio.sleep(0.01)
        status, _, headers = await send(client, "DELETE", url, None)
        assert status == 202
        assert {"Azure-AsyncOperation", "Location"} <= set(headers)
        await client.wait(headers)
        status, _, _ = await send(client, "DELETE", url, None)
        assert status == 204
        url = f"{azure.base}{GROUP}?api-version={VERSION}"
        status, _, headers = await send(client, "DELETE", url, None)
        assert status == 202
        assert "Azure-AsyncOperation" not in headers, "group deletion has a Location only"
        await client.wait(headers)
        with pytest.raises(RequestFailed) as error:
            await client.get(GROUP, VERSION)
        assert error.value.code == "ResourceGroupNotFound"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", f"{PREFIXES}/none?api-version=1", None, 404, "ResourceNotFound"),
        ("GET", f"{PREFIXES}/none", None, 400, "MissingApiVersionParameter"),
        ("GET", f"{GROUP}x/providers/Microsoft.Network/loadBalancers?api-version=1", None, 404,
         "ResourceGroupNotFound"),
        ("GET", f"{GROUP}/providers/Microsoft.Network/teapots?api-version=1", None, 404,
         "InvalidResourceType"),
        ("PUT", f"{PREFIXES}/p?api-version=1", {"properties": {"prefixLength": 30}}, 400,
         "LocationRequired"),
        ("PUT", f"{PREFIXES}/p?api-version=1",
         {"location": "swedencentral", "properties": {"prefixLength": 24}}, 400,
         "InvalidPublicIpPrefixLength"),
        ("PUT", f"{GROUP}/providers/Microsoft.Network/virtualNetworks/no/subnets/s?api-version=1",
         {"properties": {"addressPrefix": "10.0.0.0/24"}}, 404, "ParentResourceNotFound"),
    ],
)  # fmt: skip
async def test_refusals_in_arms_words(
    azure: Running, person: Person, method: str, path: str, body: Any, status: int, code: str
) -> None:
    async with person() as client:
        await client.put(GROUP, {"location": "swedencentral"}, VERSION)
        got, answer, _ = await send(client, method, azure.base + path, body)
        assert (got, answer["error"]["code"]) == (status, code)


async def test_ids_match_in_any_case_and_keep_theirs(azure: Running, person: Person) -> None:
    async with person() as client:
        await client.put(GROUP, {"location": "swedencentral"}, VERSION)
        made = await make_prefix(client, "PiP")
        assert made["id"].endswith("/resourceGroups/rg/providers/Microsoft.Network"
                                   "/publicIPPrefixes/PiP")  # fmt: skip
        assert (await client.get(made["id"].lower(), VERSION))["id"] == made["id"]


async def test_long_lists_come_in_pages(tmp_path: Path) -> None:
    with running(tmp_path, page_size=2) as azure:
        async with signed_in(azure) as client:
            await client.put(GROUP, {"location": "swedencentral"}, VERSION)
            for number in range(5):
                await make_prefix(client, f"p{number}", 31)
            first = await client.get(PREFIXES, VERSION)
            assert len(first["value"]) == 2
            everything = await client.list(PREFIXES, VERSION)
            assert [p["name"] for p in everything] == ["p0", "p1", "p2", "p3", "p4"]
            blocks = {p["properties"]["ipPrefix"] for p in everything}
            assert len(blocks) == 5


async def test_the_subscription_and_its_providers(azure: Running, person: Person) -> None:
    async with person() as client:
        base = f"/subscriptions/{SUBSCRIPTION}"
        assert (await client.list("/subscriptions", VERSION))[0]["subscriptionId"] == SUBSCRIPTION
        assert (await client.list("/tenants", VERSION))[0]["tenantId"]
        assert (await client.list(f"{base}/locations", VERSION))[0]["name"] == "swedencentral"
        provider = await client.get(f"{base}/providers/Microsoft.ContainerService", VERSION)
        assert provider["registrationState"] == "Registered"
        types = {t["resourceType"] for t in provider["resourceTypes"]}
        assert "managedClusters" in types
        path = f"{base}/providers/Microsoft.Network/register"
        assert (await client.post(path, None, VERSION))["namespace"] == "Microsoft.Network"
        await make_cluster(client)
        listed = await client.list(f"{GROUP}/resources", VERSION)
        assert [r["id"] for r in listed] == [CLUSTER]
