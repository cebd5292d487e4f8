"""Deployments of templates, as ``az vmss create`` sends them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.arm.expressions import evaluated
from egress_gateway_lab.azure.client import ArmClient, RequestFailed
from lab.tests.azure.conftest import send
from lab.tests.azure.running import GROUP, Running
from lab.tests.azure.test_access import federated, identity

VERSION = "2024-11-01"
DEPLOYMENT = f"{GROUP}/providers/Microsoft.Resources/deployments/d"
SET = f"{GROUP}/providers/Microsoft.Compute/virtualMachineScaleSets/own"
REGION = {"location": "swedencentral"}
CONFIG = {"name": "ip", "properties": {"subnet": {"id": "[variables('subnet')]"}}}
NIC = {"name": "nic", "properties": {"primary": "true", "ipConfigurations": [CONFIG]}}
TEMPLATE: dict[str, Any] = {
    "$schema": "https://schema.management.azure.com/schemas/2015-01-01/deploymentTemplate.json#",
    "contentVersion": "1.0.0.0",
    "parameters": {"adminPassword": {"type": "securestring"}, "count": {"defaultValue": 2}},
    "variables": {
        "network": "Microsoft.Network/virtualNetworks",
        "subnet": "[concat(resourceId(variables('network'), 'net'), '/subnets/', 'gateways')]",
    },
    "resources": [
        {
            "type": "Microsoft.Compute/virtualMachineScaleSets",
            "name": "own",
            "apiVersion": "2024-11-01",
            "dependsOn": ["Microsoft.Network/virtualNetworks/net"],
            **REGION,
            "tags": {"kept": "true"},
            "sku": {"name": "Standard_D2pds_v6", "capacity": "[parameters('count')]"},
            "properties": {
                "overprovision": "false",
                "virtualMachineProfile": {
                    "osProfile": {"adminPassword": "[parameters('adminPassword')]"},
                    "networkProfile": {"networkInterfaceConfigurations": [NIC]},
                },
            },
        },
        {
            "type": "Microsoft.Network/virtualNetworks",
            "name": "net",
            "apiVersion": "2024-05-01",
            **REGION,
            "properties": {
                "addressSpace": {"addressPrefixes": ["10.77.0.0/16"]},
                "subnets": [{"name": "gateways", "properties": {"addressPrefix": "10.77.1.0/24"}}],
            },
        },
    ],
    "outputs": {
        "VMSS": {
            "type": "object",
            "value": "[reference(resourceId('Microsoft.Compute/virtualMachineScaleSets', 'own'),"
            "providers('Microsoft.Compute', 'virtualMachineScaleSets').apiVersions[0])]",
        }
    },
}


def body(template: dict[str, Any] = TEMPLATE) -> dict[str, Any]:
    parameters = {"adminPassword": {"value": "s3cret"}}
    given = {"template": template, "parameters": parameters, "mode": "Incremental"}
    return {"properties": given}


def changed(**changes: Any) -> dict[str, Any]:
    """The template with changes to its scale set."""
    template = copy.deepcopy(TEMPLATE)
    template["resources"][0] |= changes
    return template


async def test_a_template_is_carried_out_in_the_order_of_what_depends_on_what(
    azure: Running, client: ArmClient
) -> None:
    await client.put(GROUP, REGION, VERSION)
    made = await client.put(DEPLOYMENT, body(), VERSION)
    properties = made["properties"]
    assert properties["provisioningState"] == "Succeeded"
    assert properties["outputs"]["VMSS"]["value"]["overprovision"] is False
    scale_set = await client.get(SET, VERSION)
    assert scale_set["sku"]["capacity"] == 2
    assert scale_set["tags"] == {"kept": "true"}
    assert len(await client.list(f"{SET}/virtualMachines", VERSION)) == 2
    (shown,) = [
        each["properties"]["targetResource"]["id"]
        for each in await client.list(f"{DEPLOYMENT}/operations", VERSION)
        if each["properties"]["targetResource"]["resourceType"].endswith("ScaleSets")
    ]
    assert shown == SET
    for document in (made, scale_set):
        assert "s3cret" not in str(document), "nobody reads a password back"
    await client.put(DEPLOYMENT, body(), VERSION)  # the same again changes nothing
    assert (await client.get(SET, VERSION))["sku"]["capacity"] == 2


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ({"resources": "none"}, "list of resources"),
        (changed(dependsOn=["Microsoft.Compute/virtualMachineScaleSets/own"]), "Circular"),
        (changed(name="[concat('own']"), "is not valid"),
        (changed(name="[uniqueString('own')]"), "uniqueString"),
        (changed(name="[parameters('nothing')]"), "is not valid"),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_a_template_that_makes_no_sense_is_refused_at_once(
    azure: Running, client: ArmClient, template: dict[str, Any], told: str, method: str
) -> None:
    await client.put(GROUP, REGION, VERSION)
    validate = "/validate" if method == "POST" else ""
    url = f"{azure.base}{DEPLOYMENT}{validate}?api-version={VERSION}"
    status, answer, _ = await send(client, method, url, body(template))
    assert (status, answer["error"]["code"]) == (400, "InvalidTemplate")
    assert told in answer["error"]["message"]


async def test_what_can_be_deployed_validates_and_makes_nothing(
    azure: Running, client: ArmClient
) -> None:
    await client.put(GROUP, REGION, VERSION)
    url = f"{azure.base}{DEPLOYMENT}/validate?api-version={VERSION}"
    status, _, _ = await send(client, "POST", url, body())
    assert status == 200
    with pytest.raises(RequestFailed, match="ResourceNotFound"):
        await client.get(SET, VERSION)


async def test_a_resource_that_is_refused_fails_the_deployment_with_its_reason(
    azure: Running, client: ArmClient
) -> None:
    await client.put(GROUP, REGION, VERSION)
    with pytest.raises(RequestFailed, match="DeploymentFailed"):
        await client.put(DEPLOYMENT, body(changed(sku={"name": "x", "capacity": -1})), VERSION)
    left = await client.get(DEPLOYMENT, VERSION)
    assert left["properties"]["provisioningState"] == "Failed"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("[[literal]", "[literal]"),
        ("[concat('it''s ', 'one')]", "it's one"),
        ("[concat('a', concat('b', 'c'))]", "abc"),
        ("[thing().list[1].name]", "second"),
    ],
)
def test_expressions(text: str, value: str) -> None:
    functions: dict[str, Callable[..., Any]] = {
        "concat": lambda *parts: "".join(parts),
        "thing": lambda: {"list": [{"name": "first"}, {"name": "second"}]},
    }
    assert evaluated({"x": [text]}, functions) == {"x": [value]}


@pytest.mark.parametrize("text", ["[]", "[concat(]", "[concat('a') 'b']", "[x.y]", "[thing()[7]]"])
def test_expressions_that_are_none(text: str) -> None:
    with pytest.raises(ArmError, match="not valid"):
        evaluated(text, {"concat": lambda *parts: "".join(parts), "thing": lambda: [1]})


async def test_every_image_of_the_marketplace_has_a_version(client: ArmClient) -> None:
    publisher = "locations/swedencentral/publishers/Canonical"
    image = f"{publisher}/artifacttypes/vmimage/offers/ubuntu/skus/server-arm64/versions"
    path = f"/subscriptions/{GROUP.split('/')[2]}/providers/Microsoft.Compute/{image}/1.0.0"
    found = await client.get(path, VERSION)
    assert found["properties"]["architecture"] == "Arm64"


async def test_a_deployment_has_the_rights_of_who_sent_it(
    azure: Running, client: ArmClient
) -> None:
    await client.put(GROUP, REGION, VERSION)
    async with federated(azure, identity(azure, "Network Contributor")) as limited:
        with pytest.raises(RequestFailed, match="DeploymentFailed"):
            await limited.put(DEPLOYMENT, body(), VERSION)
    made = await client.list(f"{GROUP}/providers/Microsoft.Network/virtualNetworks", VERSION)
    assert [each["name"] for each in made] == ["net"]
    with pytest.raises(RequestFailed, match="ResourceNotFound"):
        await client.get(SET, VERSION)
