"""Nobody waits for a configuration in trouble: refusals of the emulated Azure that last."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.controller.test_controller import (
    World,
    condition,
    reason,
    running,
)

SCALE_SET_NIC = "Microsoft.Compute/virtualMachineScaleSets/virtualMachines/networkInterfaces"
SOON = 60.0
"""Seconds, on a machine with other work: 3 are enough. Before, they waited as long as it lasted."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A dozen changes in seconds would be waited for by the minute if Compute counted them."""
    async with running(tmp_path, share=None) as made:
        yield made


def provisioned(sgc: dict[str, Any]) -> bool:
    return condition(sgc, "Provisioned").get("status") == "True"


def leaves_from(network: str, gateways: int = 2) -> Callable[[dict[str, Any]], bool]:
    def whole(sgc: dict[str, Any]) -> bool:
        status = sgc.get("status", {})
        return (
            condition(sgc, "Provisioned").get("status") == "True"
            and status.get("egressIpPrefix") == network
            and len(status.get("gateways", [])) == gateways
        )

    return whole


async def network_of(world: World, prefix: str) -> str:
    document = await world.azure.person.get(prefix, "2024-05-01")
    return str(document["properties"]["ipPrefix"])


async def brought(world: World, *names: str) -> list[str]:
    prefixes = []
    for number, name in enumerate(names):
        prefixes.append(await world.azure.add_prefix(name))
        await world.azure.grant(prefixes[-1], 100 + number)
    return prefixes


async def exhausted(world: World, shared: str) -> None:
    """``a`` and ``b`` fill the prefix, ``c`` wants it too."""
    for name in ("a", "b"):
        await world.write(name, publicIpPrefixId=shared)
    for name in ("a", "b"):
        await world.until(name, provisioned)
    await world.write("c", publicIpPrefixId=shared)
    await world.until("c", lambda s: reason(s, "Provisioned") == "PublicIPPrefixExhausted")


async def test_a_prefix_that_is_full_keeps_no_neighbour_waiting(world: World) -> None:
    shared, own, other = await brought(world, "shared", "own", "other")
    await exhausted(world, shared)
    await world.write("good", publicIpPrefixId=own)
    await world.until("good", leaves_from(await network_of(world, own)), timeout=SOON)
    await world.write("managed")
    await world.until("managed", provisioned, timeout=SOON)
    await world.write("good", publicIpPrefixId=other)
    await world.until("good", leaves_from(await network_of(world, other)), timeout=SOON)
    sgc = await world.until("c", lambda s: True)
    assert reason(sgc, "Provisioned") == "PublicIPPrefixExhausted"
    for name in ("a", "b"):
        assert provisioned(await world.until(name, lambda s: True))


async def test_a_neighbour_leaves_beside_a_prefix_that_is_full_and_makes_room(world: World) -> None:
    (shared,) = await brought(world, "shared")
    await exhausted(world, shared)
    await world.kube.delete("staticgatewayconfigurations", "a", namespace="default")
    await world.until_gone("a")
    await world.until("c", leaves_from(await network_of(world, shared)), timeout=SOON)


async def test_a_role_that_is_taken_away_keeps_no_neighbour_waiting_and_costs_nobody_addresses(
    world: World,
) -> None:
    """Azure refuses every write that carries an address of the prefix: one gateway keeps it, the
    other one serves the neighbours."""
    lost, own = await brought(world, "lost", "own")
    uids = {}
    for name in ("trouble", "leaving"):
        await world.write(name, **({"publicIpPrefixId": lost} if name == "trouble" else {}))
        uids[name] = (await world.until(name, provisioned))["metadata"]["uid"]
    name = "00000000-0000-0000-0000-000000000100"
    assignment = f"{lost}/providers/Microsoft.Authorization/roleAssignments/{name}"
    await world.azure.person.delete(assignment, "2022-04-01")
    await world.write("good", publicIpPrefixId=own)
    sgc = await world.until("good", leaves_from(await network_of(world, own), 1), timeout=SOON)
    assert "left alone" in condition(sgc, "Provisioned")["message"]
    sgc = await world.until("trouble", lambda s: reason(s, "Provisioned") != "Provisioned")
    assert "Azure" in condition(sgc, "Provisioned")["message"]
    assert len(sgc["status"]["gateways"]) >= 1
    await world.kube.delete("staticgatewayconfigurations", "leaving", namespace="default")
    await world.kube.wait_for(
        "staticgatewayconfigurations",
        "leaving",
        lambda found: found is None,
        namespace="default",
        timeout=SOON,
    )
    assert carriers(world, uids["trouble"]) == 1
    await world.azure.grant(lost, 100)
    for name, prefix in (("trouble", lost), ("good", own)):
        await world.until(name, leaves_from(await network_of(world, prefix)), timeout=SOON)
    assert carriers(world, uids["trouble"]) == 2
    assert carriers(world, uids["leaving"]) == 0


def carriers(world: World, uid: str) -> int:
    """How many machines have an address of the configuration."""
    nics = world.azure.emulator.azure.store.of_type(SCALE_SET_NIC)
    return sum(f"egressgateway-{uid}" in str(nic["properties"]) for nic in nics)
