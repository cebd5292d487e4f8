"""Who may do what: the walk-through's refusal and its mend, and the roles' meaning."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from egress_gateway_lab.azure.client import ArmClient, RequestFailed
from egress_gateway_lab.azure.emulator import ADDON_SUBJECT, SUBSCRIPTION
from egress_gateway_lab.azure.providers import authorization
from lab.tests.azure.conftest import Person, make_cluster, make_gateway_pool, make_prefix
from lab.tests.azure.running import CLUSTER, GROUP, NODE_GROUP, Running

ROLES = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Authorization/roleDefinitions"
VERSION = "2024-05-01"


def identity(azure: Running, role: str | None, scope: str = GROUP) -> str:
    """Client id of a new identity that holds a role."""

    async def make() -> str:
        principal = azure.emulator.directory.add_managed_identity("tester")
        azure.emulator.directory.federate(principal.client_id, "tester")
        if role:
            authorization.assign(azure.emulator.azure, scope, role, principal.object_id)
        return principal.client_id

    client_id: str = azure.call(make())
    return client_id


class Federated(ArmClient):
    """A client that signs in with a token of the cluster instead of a secret."""

    subject = "tester"

    async def sign_in(self) -> str:
        form = {
            "grant_type": "client_credentials",
            "client_id": self._client_id,
            "client_assertion": f"https://issuer|{self.subject}",
            "scope": f"{self.base}/.default",
        }
        url = f"{self.base}/tenant/oauth2/v2.0/token"
        async with self.session.post(url, data=form, ssl=self.tls) as response:
            body = await response.json(content_type=None)
            if response.status != 200:
                raise RequestFailed(response.status, body["error"], body["error_description"])
            return str(body["access_token"])


def federated(azure: Running, client_id: str, subject: str = "tester") -> Federated:
    trust = ssl.create_default_context(cafile=azure.ca_file)
    client = Federated(azure.base, trust, client_id=client_id, secret="", poll_seconds=0.01)
    client.subject = subject
    return client


def refused(error: pytest.ExceptionInfo[RequestFailed]) -> tuple[int, str]:
    return error.value.status, error.value.code


def scale_set_with(model: dict[str, Any], prefix_id: str) -> dict[str, Any]:
    """The PUT that gives the gateway pool's model an address of a prefix."""
    profile = model["properties"]["virtualMachineProfile"]["networkProfile"]
    configurations = profile["networkInterfaceConfigurations"][0]["properties"]["ipConfigurations"]
    subnet = configurations[0]["properties"]["subnet"]
    public = {"name": "egressgateway-x", "properties": {"publicIPPrefix": {"id": prefix_id}}}
    extra = {"primary": False, "subnet": subnet, "publicIPAddressConfiguration": public}
    configurations.append({"name": "egressgateway-x", "properties": extra})
    properties = {"virtualMachineProfile": {"networkProfile": profile}}
    return {"location": model["location"], "properties": properties}


async def test_the_cluster_may_use_a_brought_prefix_only_when_the_role_is_granted(
    azure: Running, person: Person
) -> None:
    async with person() as owner:
        cluster = await make_cluster(owner)
        await make_gateway_pool(owner)
        prefix = await make_prefix(owner)
        principal = cluster["identity"]["principalId"]
        client_id = azure.machines.clusters[CLUSTER].identity_client_id
        async with federated(azure, client_id, ADDON_SUBJECT) as controller:
            sets = f"{NODE_GROUP}/providers/Microsoft.Compute/virtualMachineScaleSets"
            pools = await controller.list(sets, VERSION)
            model = next(p for p in pools if "npegress" in p["name"])
            body = scale_set_with(model, prefix["id"])

            with pytest.raises(RequestFailed) as error:
                await controller.get(prefix["id"], VERSION)
            assert refused(error) == (403, "AuthorizationFailed")
            assert error.value.message == (
                f"The client '{client_id}' with object id '{principal}' does not have "
                "authorization to perform action 'Microsoft.Network/publicIPPrefixes/read' "
                f"over scope '{prefix['id']}' or the scope is invalid. If access was recently "
                "granted, please refresh your credentials."
            )
            await grant(owner, prefix["id"], "acdd72a7-3385-48ef-bd42-f606fba81ae7", principal)
            await controller.get(prefix["id"], VERSION)
            with pytest.raises(RequestFailed) as error:
                await controller.put(model["id"], body, VERSION)
            assert refused(error) == (403, "LinkedAuthorizationFailed")
            assert "Microsoft.Network/publicIPPrefixes/join/action" in error.value.message
            assert prefix["id"] in error.value.message

            await grant(owner, prefix["id"], "4d97b98b-1d4f-4787-a291-c67834d212e7", principal)
            await controller.put(model["id"], body, VERSION)


async def grant(client: ArmClient, scope: str, role: str, principal: str) -> dict[str, Any]:
    name = f"00000000-0000-0000-0000-{role[-12:]}"
    return await client.put(
        f"{scope}/providers/Microsoft.Authorization/roleAssignments/{name}",
        {"properties": {"roleDefinitionId": f"{ROLES}/{role}", "principalId": principal}},
        "2022-04-01",
    )


@pytest.mark.parametrize(
    ("role", "reads", "writes", "assigns"),
    [
        ("Owner", True, True, True),
        ("Contributor", True, True, False),
        ("Network Contributor", True, True, False),
        ("Reader", True, False, False),
        ("Virtual Machine Contributor", False, False, False),
        (None, False, False, False),
    ],
)
async def test_roles_mean_what_they_mean_for_a_prefix(
    azure: Running, person: Person, role: str | None, reads: bool, writes: bool, assigns: bool
) -> None:
    client_id = identity(azure, role)
    async with person() as owner:
        await owner.put(GROUP, {"location": "swedencentral"}, VERSION)
        prefix = await make_prefix(owner)
    principal = azure.emulator.directory.find(client_id)
    assert principal is not None
    async with federated(azure, client_id) as client:
        assert await allowed(client.get(prefix["id"], VERSION)) is reads
        assert await allowed(make_prefix(client, "another")) is writes
        reader = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
        given = grant(client, prefix["id"], reader, principal.object_id)
        assert await allowed(given) is assigns


async def allowed(request: Any) -> bool:
    try:
        await request
    except RequestFailed as error:
        if error.code != "AuthorizationFailed":
            raise
        return False
    return True


async def test_lists_of_the_subscription_show_what_the_caller_may_see(
    azure: Running, person: Person
) -> None:
    client_id = identity(azure, "Reader")
    async with person() as owner:
        for group in (GROUP, GROUP + "2"):
            await owner.put(group, {"location": "swedencentral"}, VERSION)
        await make_prefix(owner)
        path = f"{GROUP}2/providers/Microsoft.Network/publicIPPrefixes/hidden"
        body = {"location": "swedencentral", "properties": {"prefixLength": 31}}
        await owner.put(path, body, VERSION)
    everywhere = f"/subscriptions/{SUBSCRIPTION}"
    async with federated(azure, client_id) as client:
        listed = f"{everywhere}/providers/Microsoft.Network/publicIPPrefixes"
        assert [p["name"] for p in await client.list(listed, VERSION)] == ["pip"]
        groups = await client.list(f"{everywhere}/resourceGroups", VERSION)
        assert [g["name"] for g in groups] == ["rg"]
        assert len(await client.list("/subscriptions", VERSION)) == 1


@pytest.mark.parametrize(
    ("assertion", "number"),
    [("https://issuer|someone-else", "AADSTS700213"), ("garbage", "AADSTS700027")],
)
async def test_only_the_federated_subject_signs_in_as_an_identity(
    azure: Running, assertion: str, number: str
) -> None:
    client_id = identity(azure, "Reader")
    async with federated(azure, client_id) as client:
        form = {
            "grant_type": "client_credentials",
            "client_id": client_id,
            "client_assertion": assertion,
        }
        url = f"{azure.base}/tenant/oauth2/v2.0/token"
        async with client.session.post(url, data=form, ssl=client.tls) as response:
            assert response.status == 401
            body = await response.json()
            assert body["error_description"].startswith(number)


async def test_a_managed_identity_has_no_secret(azure: Running, person: Person) -> None:
    client_id = identity(azure, "Reader")
    async with person(client_id) as client:
        with pytest.raises(RequestFailed, match="AADSTS7000215"):
            await client.get(GROUP, VERSION)


async def test_calls_without_a_good_token_are_sent_to_the_authority(azure: Running) -> None:
    async with federated(azure, "nobody") as client:
        url = f"{azure.base}{GROUP}?api-version={VERSION}"
        for headers in ({}, {"Authorization": "Bearer x.y.z"}):
            async with client.session.get(url, headers=headers, ssl=client.tls) as response:
                assert response.status == 401
                assert "authorization_uri" in response.headers["WWW-Authenticate"]
                body = await response.json()
                assert body["error"]["code"] == "AuthenticationFailed"
