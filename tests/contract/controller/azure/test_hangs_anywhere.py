"""Whatever write of Azure hangs, on both kinds of pool: others keep what they have, deletions end.
When it goes on, everything is as it was meant."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.controller.azure_lab import azure_lab
from tests.contract.controller.test_as_azure_answers import provisioned, whole
from tests.contract.controller.test_controller import (
    World,
    api_server,
    condition,
    controller,
)
from tests.contract.controller.test_others_and_accidents import SOON, gone


@pytest.fixture(params=["VirtualMachineScaleSets", "VirtualMachines"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with (
        azure_lab(tmp_path, compute_share=None) as azure,
        api_server(tmp_path) as (_, kube, path),
    ):
        (tmp_path / "azure.json").write_text(json.dumps(azure.config))
        await azure.add_pool("npegress", kind=request.param, size=28)
        made = World(azure, kube)
        await made.add_gateway_nodes()
        async with controller(tmp_path, path, drift_interval=3.0):
            yield made


HANGS = {
    "prefix creation": ("PUT", "publicIPPrefixes/"),
    "prefix deletion": ("DELETE", "publicIPPrefixes/"),
    "balancer": ("PUT", "loadBalancers/"),
    "interface": ("PUT", r"(networkInterfaces/|virtualMachines/\d+$)"),
    "address creation": ("PUT", "publicIPAddresses/"),
    "address deletion": ("DELETE", "publicIPAddresses/"),
    "model": ("PUT", r"virtualMachineScaleSets/[^/]+$"),
}


@pytest.mark.parametrize("hangs", HANGS)
async def test_what_hangs_costs_nobody_what_he_has(world: World, hangs: str) -> None:
    before = await world.azure.resources()
    brought = await world.azure.add_prefix("pip", 28)
    await world.azure.grant(brought)
    for name in ("old", "leaving"):
        await world.write(name, publicIpPrefixId=brought)
    await world.write("managed")
    for name in ("old", "leaving", "managed"):
        await world.until(name, whole, timeout=SOON)
    method, path = HANGS[hangs]
    world.azure.emulator.faults.add("hang", method=method, path=path, times=None)
    await world.write("new")
    await world.write("beside", publicIpPrefixId=brought)
    for name in ("leaving", "managed"):
        await gone(world, name)
    for name in ("new", "beside"):
        await world.until(name, lambda s: bool(condition(s, "Provisioned")), timeout=SOON)
    assert whole(await world.until("old", lambda s: True))
    world.azure.emulator.faults.clear()
    for name in ("old", "new", "beside"):
        await world.until(name, whole, timeout=SOON)
    for name in ("old", "new", "beside"):
        await gone(world, name)
    await as_before(world, before)


async def as_before(world: World, before: object) -> None:
    async with asyncio.timeout(SOON):
        while await world.azure.resources() != before:
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("world", ["VirtualMachineScaleSets"], indirect=True)
async def test_one_that_is_made_again_at_once_while_writes_hang_is_what_was_asked_for_last(
    world: World,
) -> None:
    """Under one name: managed, gone, of a brought prefix."""
    before = await world.azure.resources()
    brought = await world.azure.add_prefix("pip", 28)
    await world.azure.grant(brought)
    await world.write("again")
    await world.until("again", whole, timeout=SOON)
    world.azure.emulator.faults.add("hang", method="PUT", path="providers/", times=None)
    await gone(world, "again")
    await world.write("again", publicIpPrefixId=brought)
    await world.until("again", lambda s: bool(condition(s, "Provisioned")), timeout=SOON)
    world.azure.emulator.faults.clear()
    await world.until("again", whole, timeout=SOON)
    await gone(world, "again")
    await as_before(world, before)


@pytest.mark.parametrize("world", ["VirtualMachines"], indirect=True)
async def test_an_address_that_hangs_keeps_no_other_configuration_from_its_machines(
    world: World,
) -> None:
    brought = await world.azure.add_prefix("pip", 28)
    await world.azure.grant(brought)
    path = "publicIPAddresses/egressgateway-"  # of managed prefixes alone
    world.azure.emulator.faults.add("hang", method="PUT", path=path, times=None)
    await world.write("new")
    await world.write("beside", publicIpPrefixId=brought)
    await world.until("beside", whole, timeout=SOON)
    assert not provisioned(await world.until("new", lambda s: True))
    world.azure.emulator.faults.clear()
    await world.until("new", whole, timeout=SOON)
