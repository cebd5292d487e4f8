"""Whatever write of Azure hangs, on both kinds of pool: others keep what they have, deletions end.
When it goes on, everything is as it was meant."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.controller.azure_lab import azure_lab
from tests.contract.controller.test_as_azure_answers import delete, provisioned, whole
from tests.contract.controller.test_controller import (
    SGCS,
    World,
    api_server,
    condition,
    controller,
)
from tests.contract.controller.test_others_and_accidents import SOON


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
    rule = world.azure.emulator.faults.add("hang", method=method, path=path, times=None)
    await world.write("new")
    await world.write("beside", publicIpPrefixId=brought)
    for name in ("leaving", "managed"):
        await delete(world, name)
    wrong: list[str] = []
    for name in ("leaving", "managed"):
        try:
            await world.kube.wait_for(
                SGCS, name, lambda found: found is None, namespace="default", timeout=50
            )
        except TimeoutError:
            wrong.append(f"{name} stays: {(await world.until(name, lambda s: True)).get('status')}")
    for name in ("new", "beside"):
        sgc = await world.until(name, lambda s: bool(condition(s, "Provisioned")), timeout=SOON)
        if not rule.hits or not provisioned(sgc):
            print(name, condition(sgc, "Provisioned"))
    assert whole(await world.until("old", lambda s: True))
    print("hits", rule.hits)
    world.azure.emulator.faults.clear()
    for name in ("old", "new", "beside"):
        await world.until(name, whole, timeout=SOON)
    for name in ("old", "new", "beside"):
        await delete(world, name)
    for name in ("old", "new", "beside"):
        await world.until_gone(name)
    async with asyncio.timeout(SOON):
        while await world.azure.resources() != before:
            await asyncio.sleep(0.2)
    assert not wrong, wrong
