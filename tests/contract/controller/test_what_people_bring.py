"""What people bring that cannot work, of kinds that the issue does not name: one Problem each, with
cause and mend, and everybody else goes on."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway.cloud.azure import cloud
from egress_gateway_lab.azure.providers.compute.scalesets import ScaleSets
from egress_gateway_lab.azure.providers.network.loadbalancers import LoadBalancers
from tests.contract.controller.azure_lab import GROUP
from tests.contract.controller.pools.test_own_scale_set import (
    SET,
    SUBNET,
    VERSION,
    build,
    damage_set,
    grant,
    write,
)
from tests.contract.controller.test_as_azure_answers import provisioned, scale_set, whole
from tests.contract.controller.test_controller import World, condition, reason, running
from tests.contract.controller.test_others_and_accidents import SOON, balancer_id, gone

NETWORK = f"{GROUP}/providers/Microsoft.Network"
PREFIXES = f"{NETWORK}/publicIPPrefixes"
Json = dict[str, Any]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path, share=None, drift_interval=2.0) as made:
        yield made


async def goes_on(world: World, name: str = "good") -> None:
    await world.write(name)
    await world.until(name, whole, timeout=SOON)


def said(sgc: Json) -> str:
    return f"{reason(sgc)}: {condition(sgc, 'Ready').get('message', '')}"


def provisioned_false(sgc: Json) -> bool:
    return condition(sgc, "Provisioned").get("status") == "False"


# --- prefixes -----------------------------------------------------------------------------------


async def test_a_prefix_that_was_deleted_since_it_was_last_used(world: World) -> None:
    """What is known of a brought prefix is believed for half an hour."""
    prefix = await world.azure.add_prefix("pip")
    await world.azure.grant(GROUP)
    await world.write("a", publicIpPrefixId=prefix)
    await world.until("a", provisioned, timeout=SOON)
    await gone(world, "a")
    await world.azure.person.delete(prefix, VERSION)
    await world.write("b", publicIpPrefixId=prefix)
    sgc = await world.until("b", lambda s: reason(s) == "PublicIPPrefixNotFound", timeout=SOON)
    assert "pip" in said(sgc)
    await goes_on(world)
    await world.azure.add_prefix("pip")
    await world.until("b", whole, timeout=SOON)


async def test_a_prefix_whose_addresses_somebody_else_uses(world: World) -> None:
    prefix = await world.azure.add_prefix("pip")
    await world.azure.grant(prefix)
    for name in ("x", "y", "z"):
        body = {
            "location": "swedencentral",
            "sku": {"name": "Standard"},
            "properties": {
                "publicIPAllocationMethod": "Static",
                "publicIPPrefix": {"id": prefix},
            },
        }
        await world.azure.person.put(f"{NETWORK}/publicIPAddresses/{name}", body, VERSION)
    await world.write("a", publicIpPrefixId=prefix)
    sgc = await world.until("a", lambda s: "addresses" in said(s), timeout=SOON)
    assert "pip" in said(sgc) or "prefix" in said(sgc)
    await goes_on(world)
    await world.azure.person.delete(f"{NETWORK}/publicIPAddresses/x", VERSION)
    await world.until("a", whole, timeout=SOON)


@pytest.mark.parametrize(
    ("prefix", "named"),
    [
        (PREFIXES.replace("/subscriptions/", "/subscriptions/f") + "/pip", "subscription"),
        (f"{PREFIXES}/six", "IPv6"),
    ],
    ids=["of another subscription", "of IPv6"],
)
async def test_what_is_no_prefix_of_ours(world: World, prefix: str, named: str) -> None:
    await world.azure.grant(await world.azure.add_prefix("six", 126))
    await world.write("a", publicIpPrefixId=prefix)
    sgc = await world.until("a", lambda s: named in said(s), timeout=SOON)
    assert provisioned_false(sgc)
    await goes_on(world)


@pytest.mark.parametrize("named", ["prefix", "group"])
async def test_what_does_not_answer_keeps_only_who_names_it_waiting(
    world: World, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud, "NAMED_SECONDS", 2.0)
    await build(world)
    await grant(world)
    slow = await world.azure.add_prefix("slow")
    await world.azure.grant(slow)
    path = {"prefix": "publicIPPrefixes/slow$", "group": "rg-own/.*virtualMachineScaleSets$"}[named]
    world.azure.emulator.faults.add("delay", method="GET", path=path, seconds=600, times=None)
    if named == "prefix":
        await world.write("a", publicIpPrefixId=slow)
    else:
        await write(world, "a")
    sgc = await world.until("a", lambda s: "has not answered" in said(s), timeout=SOON)
    assert reason(sgc) == "AzureError"
    await goes_on(world)
    world.azure.emulator.faults.clear()
    await world.until("a", provisioned, timeout=SOON)


# --- load balancers of our name -----------------------------------------------------------------


def basic(document: Json) -> None:
    document["sku"] = {"name": "Basic"}


def cross_region(document: Json) -> None:
    document["sku"]["tier"] = "Global"


def elsewhere(document: Json) -> None:
    document["location"] = "westeurope"


@pytest.mark.parametrize(
    ("damage", "named"), [(basic, "Basic"), (cross_region, "Global"), (elsewhere, "westeurope")]
)
async def test_somebody_s_load_balancer_of_our_name_that_cannot_serve(
    world: World, damage: Callable[[Json], None], named: str
) -> None:
    body: Json = {
        "location": "swedencentral",
        "sku": {"name": "Standard", "tier": "Regional"},
        "properties": {
            "frontendIPConfigurations": [
                {"name": "x", "properties": {"subnet": {"id": await subnet(world)}}}
            ]
        },
    }
    lab = world.azure
    await lab.person.put(balancer_id(lab), body, VERSION)
    document = copy.deepcopy(lab.emulator.azure.store.get(balancer_id(lab)))
    assert document is not None
    damage(document)
    LoadBalancers(lab.emulator.azure).save(document)
    await world.write("a")
    sgc = await world.until("a", lambda s: named in said(s), timeout=SOON)
    assert provisioned_false(sgc)
    assert "kubeegressgateway-ilb" in said(sgc)
    assert "gatewayLoadBalancerName" in said(sgc), "what mends it"


async def subnet(world: World) -> str:
    model = await scale_set(world)
    profile = model["properties"]["virtualMachineProfile"]["networkProfile"]
    (nic,) = profile["networkInterfaceConfigurations"]
    found: str = nic["properties"]["ipConfigurations"][0]["properties"]["subnet"]["id"]
    return found


# --- scale sets ---------------------------------------------------------------------------------


def no_network(properties: Json) -> None:
    properties["virtualMachineProfile"]["networkProfile"]["networkInterfaceConfigurations"] = []


def no_profile(properties: Json) -> None:
    del properties["virtualMachineProfile"]


def no_ip_configuration(properties: Json) -> None:
    profile = properties["virtualMachineProfile"]["networkProfile"]
    (nic,) = profile["networkInterfaceConfigurations"]
    nic["properties"]["ipConfigurations"] = []


def two_nics_none_primary(properties: Json) -> None:
    profile = properties["virtualMachineProfile"]["networkProfile"]
    (nic,) = profile["networkInterfaceConfigurations"]
    nic["properties"].pop("primary", None)
    other = copy.deepcopy(nic) | {"name": "other"}
    profile["networkInterfaceConfigurations"] = [nic, other]


@pytest.mark.parametrize(
    "damage", [no_network, no_profile, no_ip_configuration, two_nics_none_primary]
)
async def test_a_scale_set_without_a_place_for_our_addresses(
    world: World, damage: Callable[[Json], None]
) -> None:
    await build(world)
    await grant(world)
    damage_set(world, damage)
    await write(world, "bad")
    sgc = await world.until("bad", lambda s: reason(s) == "GatewayPoolUnusable", timeout=SOON)
    assert "az vmss" in said(sgc), "what mends it"
    await goes_on(world)
    await gone(world, "bad")


@pytest.mark.parametrize("size", ["33", "0", "thirty", "-4"])
async def test_a_pool_whose_tag_names_no_length_of_a_prefix(world: World, size: str) -> None:
    await goes_on(world, "old")
    pool = copy.deepcopy(world.azure.emulator.azure.store.get((await scale_set(world))["id"]))
    assert pool is not None
    pool["tags"][names.POOL_PREFIX_SIZE_TAG] = size
    ScaleSets(world.azure.emulator.azure).save(pool)
    await world.write("a")
    sgc = await world.until("a", lambda s: reason(s) == "GatewayPoolNotFound", timeout=SOON)
    assert "28 to 31" in said(sgc)
    assert len((await world.until("old", lambda s: True))["status"]["gateways"]) == 2


async def test_a_subnet_without_an_address_left(world: World) -> None:
    await build(world)
    await grant(world)
    network = SUBNET.partition("/subnets/")[0]
    document = await world.azure.person.get(network, VERSION)
    small = {"name": "small", "properties": {"addressPrefix": "10.77.2.0/29"}}
    document["properties"]["subnets"].append(small)
    await world.azure.person.put(network, document, VERSION)
    body = await world.azure.person.get(SET, VERSION)
    profile = body["properties"]["virtualMachineProfile"]["networkProfile"]
    (nic,) = profile["networkInterfaceConfigurations"]
    nic["properties"]["ipConfigurations"][0]["properties"]["subnet"]["id"] = (
        f"{network}/subnets/small"
    )
    path = SET.replace("own-gateways", "small")
    made = {key: body[key] for key in ("location", "sku", "properties")}
    await world.azure.person.put(path, made, VERSION)
    await write(world, "a", vmssName="small")
    sgc = await world.until("a", lambda s: reason(s) == "QuotaExceeded", timeout=SOON)
    assert "SubnetIsFull" in said(sgc)
    assert "larger" in said(sgc), "what mends it"
    await goes_on(world)
    await gone(world, "a")
