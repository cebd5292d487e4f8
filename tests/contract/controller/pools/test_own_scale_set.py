"""``gatewayVmssProfile``: a scale set that somebody made themselves, in a group of their own."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from egress_gateway_lab.azure.emulator import SUBSCRIPTION
from egress_gateway_lab.azure.providers.compute.scalesets import ScaleSets
from tests.contract.controller.azure_lab import azure_lab
from tests.contract.controller.test_controller import (
    SGCS,
    World,
    api_server,
    condition,
    controller,
    reason,
)

OWN: Final = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg-own"
SUBNET: Final = f"{OWN}/providers/Microsoft.Network/virtualNetworks/net/subnets/gateways"
SET: Final = f"{OWN}/providers/Microsoft.Compute/virtualMachineScaleSets/own-gateways"
CONTRIBUTOR: Final = "b24988ac-6180-42a0-ab88-20f7382dd24c"
VERSION: Final = "2024-05-01"
Start = Callable[[], AbstractAsyncContextManager[object]]
"""Starts the controller."""


async def build(world: World, *, network: str = "10.77.1.0/24") -> None:
    person = world.azure.person
    await person.put(OWN, {"location": "swedencentral"}, VERSION)
    subnets = [{"name": "gateways", "properties": {"addressPrefix": network}}]
    space = {"addressSpace": {"addressPrefixes": ["10.77.0.0/16"]}, "subnets": subnets}
    body: dict[str, Any] = {"location": "swedencentral", "properties": space}
    await person.put(SUBNET.partition("/subnets/")[0], body, VERSION)
    primary = {"name": "primary", "properties": {"primary": True, "subnet": {"id": SUBNET}}}
    nic = {"name": "nic", "properties": {"primary": True, "ipConfigurations": [primary]}}
    profile = {"networkProfile": {"networkInterfaceConfigurations": [nic]}}
    body = {
        "location": "swedencentral",
        "sku": {"name": "Standard_D2pds_v6", "capacity": 2},
        "properties": {"virtualMachineProfile": profile, "upgradePolicy": {"mode": "Manual"}},
    }
    await person.put(SET, body, VERSION)


def damage_set(world: World, damage: Callable[[dict[str, Any]], None]) -> None:
    """Changes the properties of the scale set as no request could."""
    azure = world.azure.emulator.azure
    document = copy.deepcopy(azure.store.get(SET))
    assert document is not None
    damage(document["properties"])
    ScaleSets(azure).save(document)


async def grant(world: World) -> str:
    """The assignment's id."""
    definitions = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Authorization/roleDefinitions"
    role = {"roleDefinitionId": f"{definitions}/{CONTRIBUTOR}"}
    body = {"properties": role | {"principalId": world.azure.principal}}
    name = "00000000-0000-0000-0000-000000000077"
    path = f"{OWN}/providers/Microsoft.Authorization/roleAssignments/{name}"
    await world.azure.person.put(path, body, "2022-04-01")
    return path


async def write(world: World, name: str, **profile: Any) -> None:
    given = {"vmssResourceGroup": "rg-own", "vmssName": "own-gateways", "publicIpPrefixSize": 31}
    spec = {"gatewayNodepoolName": "", "gatewayVmssProfile": given | profile}
    await world.write(name, **spec)


def attached(scale_set: dict[str, Any]) -> dict[str, int]:
    """Number of backend pools of each ipConfig of the model."""
    network = scale_set["properties"]["virtualMachineProfile"]["networkProfile"]
    (nic,) = network["networkInterfaceConfigurations"]
    return {
        c["name"]: len(c["properties"].get("loadBalancerBackendAddressPools") or ())
        for c in nic["properties"]["ipConfigurations"]
    }


def is_provisioned(sgc: dict[str, Any]) -> bool:
    return condition(sgc, "Provisioned").get("status") == "True"


async def test_a_scale_set_of_one_s_own_is_told_the_role_then_served_then_left_as_it_was(
    tmp_path: Path,
) -> None:
    """Without a role on that group nobody else suffers: anybody may write a group's name."""
    async with own_scale_set(tmp_path) as (world, start):
        before = await world.azure.person.get(SET, VERSION)
        resources = await world.azure.resources()
        async with start():
            await write(world, "own")
            told = await world.until("own", lambda s: reason(s) == "AuthorizationFailed")
            assert f"--scope {OWN}" in condition(told, "Ready")["message"]
            await world.write("other")
            await world.until("other", is_provisioned)

            await grant(world)
            status = (await world.until("own", is_provisioned))["status"]
            assert status["egressIpPrefix"].endswith("/31")
            assert status["gatewayServerProfile"]["ip"].startswith("10.77.1.")
            addresses = await world.azure.person.list(f"{SET}/publicIPAddresses", VERSION)
            assert len(addresses) == 2
            await write(world, "typo", vmssName="nowhere")
            await world.until("typo", lambda s: reason(s) == "GatewayPoolNotFound")

            for name in ("own", "other", "typo"):
                await world.kube.delete(SGCS, name, namespace="default")
                await world.until_gone(name)
        assert await world.azure.resources() == resources
        after = await world.azure.person.get(SET, VERSION)
        assert attached(before) == attached(after) == {"primary": 0}
        assert await world.azure.person.list(f"{SET}/publicIPAddresses", VERSION) == []


async def test_what_is_in_a_group_that_cannot_be_read_is_not_taken_for_gone(tmp_path: Path) -> None:
    async with own_scale_set(tmp_path) as (world, start):
        assignment = await grant(world)
        async with start():
            await write(world, "own")
            await world.until("own", is_provisioned)
        await world.azure.person.delete(assignment, "2022-04-01")
        async with start():
            await world.kube.delete(SGCS, "own", namespace="default")
            told = await world.until("own", lambda s: reason(s) == "AuthorizationFailed")
            assert f"--scope {OWN}" in condition(told, "Ready")["message"]
            await grant(world)
            await world.until_gone("own")
        assert await world.azure.person.list(f"{SET}/publicIPAddresses", VERSION) == []


@asynccontextmanager
async def own_scale_set(folder: Path) -> AsyncIterator[tuple[World, Start]]:
    async with azure_lab(folder) as azure, api_server(folder) as (_, kube, path):
        (folder / "azure.json").write_text(json.dumps(azure.config))
        await azure.add_pool("npegress")
        world = World(azure, kube)
        await build(world)
        yield world, lambda: controller(folder, path)


async def test_its_nodes_are_gateways_when_an_administrator_has_marked_them(tmp_path: Path) -> None:
    """Those that join without the label are workers, for all that anybody knows."""
    async with own_scale_set(tmp_path) as (world, start):
        await grant(world)
        for number in range(2):
            node = {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": f"own-{number}"},
                "spec": {"providerID": f"azure://{SET.lower()}/virtualMachines/{number}"},
            }
            await world.kube.create("nodes", node)
        async with start():
            await write(world, "own")
            told = await world.until("own", lambda s: reason(s) == "GatewayPoolNotAllowed")
            command = condition(told, "Ready")["message"].partition("kubectl label node NODE ")[2]
            key, _, value = command.partition(" ")[0].partition("=")
            label = {"metadata": {"labels": {key: value}}}
            await world.kube.patch("nodes", "own-1", label)
            await world.until("own", is_provisioned)
            await world.kube.delete(SGCS, "own", namespace="default")
            await world.until_gone("own")
