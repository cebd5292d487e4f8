"""The last configuration leaves, and with it what all shared, beside machines and deletions that
hang."""

from __future__ import annotations

import asyncio

import pytest

from egress_gateway.controller import reconcile
from tests.contract.controller.azure.test_hangs_anywhere import world
from tests.contract.controller.test_as_azure_answers import whole
from tests.contract.controller.test_controller import World, condition
from tests.contract.controller.test_others_and_accidents import SOON, gone

__all__ = ["world"]

HANGS = [("PUT", r"(networkInterfaces/|virtualMachines/\d+$)"), ("DELETE", ".")]


async def test_the_last_one_leaves_beside_machines_and_deletions_that_hang(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document says that the machine has left the backend; its network interface has not."""
    monkeypatch.setattr(reconcile, "LINGER_SECONDS", 2.0)
    before = await world.azure.resources()
    await world.write("last")
    await world.until("last", whole, timeout=SOON)
    for method, path in HANGS:
        world.azure.emulator.faults.add("hang", method=method, path=path, times=None)
    await gone(world, "last")
    await world.write("next")
    await world.until("next", lambda s: bool(condition(s, "Provisioned")), timeout=SOON)
    world.azure.emulator.faults.clear()
    await world.until("next", whole, timeout=SOON)
    await gone(world, "next")
    async with asyncio.timeout(SOON):
        while await world.azure.resources() != before:
            await asyncio.sleep(0.2)
