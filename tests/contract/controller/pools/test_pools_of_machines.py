"""Pools of VirtualMachines on an Azure that refuses, strips and is written by policies too."""

from __future__ import annotations

import asyncio

import pytest

from egress_gateway_lab.azure.providers.network.publicaddresses import PublicIPAddresses
from tests.contract.controller.azure.test_hangs_anywhere import world
from tests.contract.controller.test_as_azure_answers import whole
from tests.contract.controller.test_controller import World, condition, reason
from tests.contract.controller.test_others_and_accidents import SOON, gone

__all__ = ["world"]

pytestmark = pytest.mark.parametrize("world", ["VirtualMachines"], indirect=True)
MANAGED = "publicIPAddresses/egressgateway-"


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (400, "PublicIPCountLimitReached", "QuotaExceeded"),
        (400, "PublicIPPrefixOutOfIpAddresses", "PublicIPPrefixExhausted"),
        (409, "AnotherOperationInProgress", "Conflict"),
        (403, "RequestDisallowedByPolicy", "AzureError"),
    ],
)
async def test_addresses_that_are_refused_are_one_s_own_trouble(
    world: World, status: int, code: str, told: str
) -> None:
    brought = await world.azure.add_prefix("pip", 28)
    await world.azure.grant(brought)
    await world.write("old", publicIpPrefixId=brought)
    await world.until("old", whole, timeout=SOON)
    faults = world.azure.emulator.faults
    faults.add("error", method="PUT", path=MANAGED, times=None, status=status, code=code)
    await world.write("bad")
    await world.write("good", publicIpPrefixId=brought)
    await world.until("good", whole, timeout=SOON)
    await world.until("bad", lambda s: reason(s, "Provisioned") == told, timeout=SOON)
    await gone(world, "old")
    faults.clear()
    await world.until("bad", whole, timeout=SOON)


@pytest.mark.parametrize(
    ("path", "drop"),
    [("publicIPAddresses/", "publicIPPrefix"), ("networkInterfaces/", "publicIPAddress")],
)
async def test_what_a_policy_takes_away_is_told_and_leaves_nothing_behind(
    world: World, path: str, drop: str
) -> None:
    before = await world.azure.resources()
    faults = world.azure.emulator.faults
    rule = faults.add("modify", method="PUT", path=path, drop=drop, times=None)
    await world.write("a")
    sgc = await world.until("a", lambda s: reason(s, "Provisioned") == "WriteNotKept", timeout=SOON)
    assert drop in condition(sgc, "Provisioned")["message"] or rule.hits
    assert rule.hits <= 12
    faults.clear()
    await world.until("a", whole, timeout=SOON)
    await gone(world, "a")
    async with asyncio.timeout(SOON):
        while await world.azure.resources() != before:
            await asyncio.sleep(0.2)


async def test_a_prefix_with_the_longest_name(world: World) -> None:
    brought = await world.azure.add_prefix("p" * 80, 28)
    await world.azure.grant(brought)
    for name in ("a", "b"):
        await world.write(name, publicIpPrefixId=brought)
    for name in ("a", "b"):
        await world.until(name, whole, timeout=SOON)
    kind = PublicIPAddresses.type
    for name in ("a", "b"):
        await gone(world, name)
    async with asyncio.timeout(SOON):
        while any("pppp" in a["name"] for a in world.azure.emulator.azure.store.of_type(kind)):
            await asyncio.sleep(0.2)
