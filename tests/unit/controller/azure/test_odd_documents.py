"""A document of Azure's that makes no sense is told with its field, to those it is about. The
others go on, and nothing is taken for gone."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.unit.controller.test_reconcile import World

ODD: Final[dict[str, Any]] = {
    "tags": "odd",
    "uniqueId": 7,
    "virtualMachineProfile": ["odd"],
    "orchestrationMode": {},
}


def spoil(world: World, look: str, name: str, field: str, value: Any) -> None:
    """From now on ``look`` shows the document called ``name`` with an odd ``field``; the world
    stays as it is."""
    shown = getattr(world.arm, look)

    async def odd(*asked: str) -> Any:
        found = await shown(*asked)
        for document in found if isinstance(found, list) else [found]:
            if document["name"] == name:
                owner = document if field in document else document["properties"]
                owner[field] = value
        return found

    setattr(world.arm, look, odd)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("field", ODD)
async def test_an_odd_scale_set_is_told_and_its_neighbours_go_on(
    world: World, field: str, restarted: bool
) -> None:
    world.arm.add_pool("np")
    world.arm.add_pool("odd")
    world.cluster.write("old")
    world.cluster.write("there", gateway_nodepool_name="odd")
    await world.settle()
    assert world.verdict("there").settled
    before = world.arm.managed_names()

    if restarted:
        world.restart()
    for look in ("scale_sets", "scale_set"):
        spoil(world, look, "aks-odd-vmss", field, ODD[field])
    world.cluster.write("new")
    world.cluster.write("late", gateway_nodepool_name="odd")
    for _ in range(4):
        world.now += 60
        await world.turn()
    assert world.verdict("new").settled
    assert world.verdict("old").settled
    told = world.cluster.told["late"].problem
    assert told is not None
    if field != "tags" or not restarted:  # without tags nobody knows what pool it is
        assert "aks-odd-vmss" in told.message
        assert field in told.message
    assert before <= world.arm.managed_names()


async def test_an_odd_managed_prefix_is_told_to_its_owner_alone(world: World) -> None:
    world.arm.add_pool("np")
    world.cluster.write("odd")
    world.cluster.write("old")
    await world.settle()
    spoil(world, "prefixes", "egressgateway-odd", "prefixLength", ["odd"])
    world.cluster.write("new")
    for _ in range(3):
        world.now += 60
        await world.turn()
    assert world.verdict("new").settled
    assert world.verdict("old").settled
    problem = world.verdict("odd").problem
    assert problem is not None
    assert "egressgateway-odd" in problem.message
    assert "prefixLength" in problem.message
    assert set(world.arm.made) == {"egressgateway-odd", "egressgateway-old", "egressgateway-new"}


async def test_an_odd_prefix_of_somebody_else_is_nobodys_problem(world: World) -> None:
    world.arm.add_pool("np")
    world.cluster.write("a")
    await world.settle()
    world.arm.made["theirs"] = {"id": "/theirs", "name": "theirs", "properties": 7}
    world.cluster.write("b")
    await world.settle()
    assert world.verdict("a").settled
    assert world.verdict("b").settled


async def test_an_odd_network_interface_is_told_to_its_own_pool_of_machines(world: World) -> None:
    world.arm.add_pool("np")
    world.arm.add_machines("vms")
    world.arm.add_machines("odd")
    for pool in ("np", "vms", "odd"):
        private = {} if pool == "np" else {"provision_public_ips": False}
        world.cluster.write(pool, gateway_nodepool_name=pool, **private)
    await world.settle()
    assert all(world.verdict(each).settled for each in ("np", "vms", "odd"))
    spoil(world, "machine_nics", "aks-odd-0-nic", "ipConfigurations", {"odd": 1})
    world.arm.add_machine("vms", 2)
    world.cluster.write("late", gateway_nodepool_name="odd", provision_public_ips=False)
    for _ in range(3):
        world.now += 60
        await world.turn()
    assert world.verdict("np").settled
    assert len(world.verdict("vms").serving.gateways) == 3  # type: ignore[union-attr]
    told = world.verdict("late").problem
    assert told is not None
    assert "aks-odd-0-nic" in told.message
    assert "ipConfigurations" in told.message
