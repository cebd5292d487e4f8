"""The controller on an Azure that hangs, forgets, strips and is written by others too."""

from __future__ import annotations

import asyncio
import copy
import operator
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from egress_gateway_lab.azure.emulator import SUBSCRIPTION
from egress_gateway_lab.azure.providers.compute.nics import NIC
from tests.contract.controller.pools.test_own_scale_set import (
    SET,
    SUBNET,
    VERSION,
    build,
    grant,
    write,
)
from tests.contract.controller.test_controller import (
    SGCS,
    World,
    condition,
    reason,
    running,
)

MODEL = r"virtualMachineScaleSets/[^/]+$"


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[World]:
    """A world whose controller looks every three seconds, whether anything has changed or not: more
    often than Compute's buckets allow, so that nobody counts here."""
    async with running(tmp_path, share=None, drift_interval=3.0) as made:
        yield made


def provisioned(sgc: dict[str, Any]) -> bool:
    return condition(sgc, "Provisioned").get("status") == "True"


def whole(sgc: dict[str, Any]) -> bool:
    return (
        provisioned(sgc)
        and reason(sgc, "Provisioned") == "Provisioned"
        and "in place" in condition(sgc, "Provisioned")["message"]
        and len(sgc["status"].get("gateways", [])) == 2
    )


async def scale_set(world: World) -> dict[str, Any]:
    path = (
        f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{world.azure.node_group}"
        "/providers/Microsoft.Compute/virtualMachineScaleSets"
    )
    found = await world.azure.person.list(path, VERSION)
    return next(s for s in found if "npegress" in s["name"])


async def until_resources(world: World, count: int) -> None:
    """Until nothing is left that a deletion had to leave behind."""
    async with asyncio.timeout(60):
        while len(await world.azure.resources()) != count:
            await asyncio.sleep(0.2)


async def delete(world: World, name: str) -> None:
    await world.kube.delete(SGCS, name, namespace="default")


async def test_an_instance_that_hangs_for_ever_keeps_nobody_waiting(quick: World) -> None:
    faults = quick.azure.emulator.faults
    for name in ("old", "leaving"):
        await quick.write(name)
    for name in ("old", "leaving"):
        await quick.until(name, whole)
    before = await quick.azure.resources()
    faults.add("hang", method="PUT", path=r"virtualMachines/0$", times=None)
    await quick.write("first")
    await quick.until("first", provisioned, timeout=60)
    await quick.write("second")
    sgc = await quick.until("second", provisioned, timeout=60)
    assert "(Updating)" in condition(sgc, "Provisioned")["message"], "who is waited for"
    assert len(sgc["status"]["gateways"]) == 1
    await quick.agents_are_ready(sgc)
    await quick.until("second", lambda s: reason(s) == "Ready")
    await delete(quick, "leaving")
    await quick.kube.wait_for(
        SGCS, "leaving", lambda found: found is None, namespace="default", timeout=60
    )
    faults.clear()
    for name in ("old", "first", "second"):
        await quick.until(name, whole, timeout=60)
    await until_resources(quick, len(before) + 1)


async def test_a_load_balancer_that_hangs_stops_only_who_needs_it(quick: World) -> None:
    """Azure writes nothing that refers to a load balancer under way; status and deletion go on."""
    for name in ("old", "leaving"):
        await quick.write(name)
    for name in ("old", "leaving"):
        await quick.until(name, whole)
    before = await quick.azure.resources()
    quick.azure.emulator.faults.add("hang", method="PUT", path="loadBalancers/", times=None)
    await quick.write("new")
    sgc = await quick.until(
        "new", lambda s: "load balancer" in condition(s, "Provisioned").get("message", "")
    )
    assert condition(sgc, "Accepted")["status"] == "True"
    await delete(quick, "leaving")
    await quick.kube.wait_for(
        SGCS, "leaving", lambda found: found is None, namespace="default", timeout=60
    )
    assert whole(await quick.until("old", lambda s: True))
    quick.azure.emulator.faults.clear()
    await quick.until("new", whole, timeout=60)
    await until_resources(quick, len(before))


async def test_what_somebody_writes_between_our_look_and_our_write_stays(quick: World) -> None:
    node_group = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{quick.azure.node_group}"
    balancers = f"{node_group}/providers/Microsoft.Network/loadBalancers"
    (found,) = await quick.azure.person.list(balancers, VERSION)
    found["properties"]["backendAddressPools"].append({"name": "service"})
    await quick.azure.person.put(found["id"], found, VERSION)
    pool = f"{found['id']}/backendAddressPools/service"
    fault = quick.azure.emulator.faults.add("join-pool", method="PUT", path=MODEL, pool=pool)
    await quick.write("a")
    await quick.until("a", whole)
    assert fault.hits == 1
    profile = (await scale_set(quick))["properties"]["virtualMachineProfile"]
    (nic,) = profile["networkProfile"]["networkInterfaceConfigurations"]
    joined = [
        p["id"].lower()
        for c in nic["properties"]["ipConfigurations"]
        for p in c["properties"].get("loadBalancerBackendAddressPools") or ()
    ]
    assert pool.lower() in joined
    assert any("kubeegressgateway-ilb" in each for each in joined)


@pytest.mark.parametrize("field", ["publicIPPrefix", "publicIPAddressConfiguration"])
async def test_a_field_that_azure_does_not_keep_is_named_and_written_ever_less(
    quick: World, field: str
) -> None:
    fault = quick.azure.emulator.faults.add(
        "modify", method="PUT", path=MODEL, drop=field, times=None
    )
    await quick.write("a")
    sgc = await quick.until("a", lambda s: reason(s, "Provisioned") == "WriteNotKept", timeout=60)
    assert "publicIPPrefix" in condition(sgc, "Provisioned")["message"]
    assert "model" in condition(sgc, "Provisioned")["message"]
    assert fault.hits <= 3
    quick.azure.emulator.faults.clear()
    await quick.until("a", whole, timeout=60)


async def test_addresses_that_a_rollout_strips_are_written_again_and_missed_meanwhile(
    quick: World,
) -> None:
    await quick.write("a")
    sgc = await quick.until("a", whole)
    await quick.agents_are_ready(sgc)
    model = await scale_set(quick)
    instances = await quick.azure.person.list(f"{model['id']}/virtualMachines", VERSION)
    lab = quick.azure.emulator.faults
    lab.add("strip", method="PUT", path="virtualMachines/", times=4)
    for instance in instances:
        body = {"location": instance["location"], "tags": {"rolled": "out"}}
        await quick.azure.person.put(instance["id"], body, VERSION)
    await quick.until("a", lambda s: condition(s, "Ready").get("status") == "False")
    await quick.until("a", whole, timeout=60)


def ip_configs_of_nics(world: World, damage: Callable[[dict[str, Any]], Any], which: str) -> None:
    """Changes the ipConfigs of the pool's NICs whose id fits, and no document: a rollout."""
    store = world.azure.emulator.azure.store
    for nic in store.of_type(NIC):
        if re.search(f"npegress.*{which}", nic["id"], re.IGNORECASE):
            changed = copy.deepcopy(nic)
            for config in changed["properties"]["ipConfigurations"]:
                damage(config["properties"])
            store.put(NIC, changed)


async def test_a_public_address_that_one_network_interface_lacks_is_given_again(
    quick: World,
) -> None:
    await quick.write("a")
    await quick.until("a", whole)
    lose = operator.methodcaller("pop", "publicIPAddress", None)
    ip_configs_of_nics(quick, lose, "virtualMachines/1/")
    sgc = await quick.until("a", lambda s: len(s["status"].get("gateways", [])) == 1)
    assert "_1 " in condition(sgc, "Provisioned")["message"]
    await quick.until("a", whole, timeout=60)


async def test_a_network_interface_that_left_the_backend_pool_joins_it_again(quick: World) -> None:
    """Its document says that it is in it: without this, the load balancer has nobody."""
    await quick.write("a")
    await quick.until("a", whole)
    member = "loadBalancerBackendAddressPools"
    ip_configs_of_nics(quick, operator.methodcaller("pop", member, None), "")
    nics = quick.azure.emulator.azure.store.of_type
    async with asyncio.timeout(60):
        while not all(
            any(c["properties"].get(member) for c in nic["properties"]["ipConfigurations"])
            for nic in nics(NIC)
            if "npegress" in nic["id"]
        ):
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("path", [MODEL, r"virtualMachines/\d+$", "loadBalancers/"])
async def test_a_race_that_is_lost_again_and_again_is_won_in_the_end(
    quick: World, path: str
) -> None:
    rule = quick.azure.emulator.faults.add(
        "error", method="PUT", path=path, times=7, status=412, code="PreconditionFailed"
    )
    await quick.write("a")
    await quick.until("a", whole, timeout=60)
    assert rule.hits == 7


@pytest.mark.parametrize(
    ("path", "drop"),
    [
        ("loadBalancers/", "enableFloatingIP"),
        ("loadBalancers/", "loadBalancingRules"),
        (MODEL, "loadBalancerBackendAddressPools"),
        (r"virtualMachines/\d+$", "publicIPAddressConfiguration"),
    ],
)
async def test_whatever_a_policy_takes_away_is_told(quick: World, path: str, drop: str) -> None:
    faults = quick.azure.emulator.faults
    rule = faults.add("modify", method="PUT", path=path, drop=drop, times=None)
    await quick.write("a")
    await quick.until("a", lambda s: reason(s, "Provisioned") == "WriteNotKept", timeout=60)
    assert rule.hits <= 8
    faults.clear()
    await quick.until("a", whole, timeout=60)


@pytest.mark.parametrize("flag", [None, False], ids=["none", "false"])
async def test_a_scale_set_made_by_hand_carries_no_primary_and_serves(
    quick: World, flag: bool | None
) -> None:
    await build(quick)
    document = await quick.azure.person.get(SET, VERSION)
    (nic,) = document["properties"]["virtualMachineProfile"]["networkProfile"][
        "networkInterfaceConfigurations"
    ]
    unflag(nic, flag)
    await quick.azure.person.put(SET, document, VERSION)
    for instance in await quick.azure.person.list(f"{SET}/virtualMachines", VERSION):
        (nic,) = instance["properties"]["networkProfileConfiguration"][
            "networkInterfaceConfigurations"
        ]
        unflag(nic, flag)
        await quick.azure.person.put(instance["id"], instance, VERSION)
    await grant(quick)
    for name in ("one", "two"):
        await write(quick, name)
        await quick.until(name, provisioned, timeout=60)
    await delete(quick, "one")
    await quick.until_gone("one")


def unflag(nic: dict[str, Any], flag: bool | None) -> None:
    for config in nic["properties"]["ipConfigurations"]:
        config["properties"].pop("primary", None)
        if flag is not None:
            config["properties"]["primary"] = flag


async def test_what_cannot_be_a_gateway_pool_is_one_s_own_problem(quick: World) -> None:
    await build(quick)
    await grant(quick)
    document = await quick.azure.person.get(SET, VERSION)
    document["properties"]["orchestrationMode"] = "Flexible"
    path = SET.replace("own-gateways", "flexible")
    config = {"name": "primary", "properties": {"primary": True, "subnet": {"id": SUBNET}}}
    nic = {"name": "nic", "properties": {"primary": True, "ipConfigurations": [config]}}
    body = {
        "location": "swedencentral",
        "sku": {"name": "Standard_D2pds_v6", "capacity": 1},
        "properties": {
            "orchestrationMode": "Flexible",
            "virtualMachineProfile": {"networkProfile": {"networkInterfaceConfigurations": [nic]}},
        },
    }
    await quick.azure.person.put(path, body, VERSION)
    await write(quick, "bad", vmssName="flexible")
    await quick.write("good")
    sgc = await quick.until("bad", lambda s: reason(s) == "GatewayPoolUnusable")
    message = condition(sgc, "Ready")["message"]
    assert "Flexible" in message
    assert "Uniform" in message
    await quick.until("good", whole)
