"""Nobody waits for a configuration in trouble: refusals of the emulated Azure that last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.contract.controller.test_controller import (
    World,
    condition,
    reason,
)

SOON = 60.0
"""Seconds, on a machine with other work: 3 are enough. Before, they waited as long as it lasted."""


def provisioned(sgc: dict[str, Any]) -> bool:
    return condition(sgc, "Provisioned").get("status") == "True"


def leaves_from(network: str) -> Callable[[dict[str, Any]], bool]:
    def whole(sgc: dict[str, Any]) -> bool:
        status = sgc.get("status", {})
        return (
            condition(sgc, "Provisioned").get("status") == "True"
            and status.get("egressIpPrefix") == network
            and len(status.get("gateways", [])) == 2
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


async def test_a_role_that_is_taken_away_keeps_no_neighbour_waiting(world: World) -> None:
    lost, own = await brought(world, "lost", "own")
    await world.write("trouble", publicIpPrefixId=lost)
    await world.until("trouble", provisioned)
    name = "00000000-0000-0000-0000-000000000100"
    assignment = f"{lost}/providers/Microsoft.Authorization/roleAssignments/{name}"
    await world.azure.person.delete(assignment, "2022-04-01")
    await world.write("good", publicIpPrefixId=own)
    await world.until("good", leaves_from(await network_of(world, own)), timeout=SOON)
    sgc = await world.until("trouble", lambda s: reason(s, "Provisioned") != "Provisioned")
    assert "Azure" in condition(sgc, "Provisioned")["message"]
    await world.azure.grant(lost, 100)
    await world.until("trouble", leaves_from(await network_of(world, lost)))
