"""Private addresses stay for the life of a configuration: on each network interface of the pool."""

from __future__ import annotations

from tests.unit.controller.test_reconcile import World


def configs(world: World, nic: str) -> dict[str, str]:
    listed = world.arm.machine_nic[nic]["properties"]["ipConfigurations"]
    return {c["name"]: c["properties"]["privateIPAddress"] for c in listed}


async def test_a_network_interface_that_waits_for_a_machine_keeps_its_private_address(
    world: World,
) -> None:
    world.arm.add_machines("np", machines=4)
    waiting = [f"aks-np-{n}-nic" for n in (2, 3)]
    for nic in waiting:
        del world.arm.machine_nic[nic]["properties"]["virtualMachine"]
    world.cluster.write("a", provision_public_ips=False)
    await world.settle()
    verdict = world.verdict("a")
    assert verdict.serving is not None
    assert len(verdict.serving.gateways) == 2
    every = [configs(world, nic)["egressgateway-a"] for nic in sorted(world.arm.machine_nic)]
    assert len(every) == 4
    assert (verdict.serving.prefix or "").split(",") == every

    # A machine is replaced: the interface outlives it, and so does its address.
    machine = world.arm.machine_nic["aks-np-0-nic"]["properties"].pop("virtualMachine")
    await world.settle()
    assert configs(world, "aks-np-0-nic")["egressgateway-a"] == every[0]
    world.arm.machine_nic["aks-np-0-nic"]["properties"]["virtualMachine"] = machine
    await world.settle()
    serving = world.verdict("a").serving
    assert serving is not None
    assert (serving.prefix or "").split(",") == every

    world.cluster.delete("a")
    await world.settle()
    assert all(len(configs(world, nic)) == 1 for nic in world.arm.machine_nic)


async def test_public_addresses_are_given_to_machines_alone(world: World) -> None:
    world.arm.add_machines("np", machines=3)
    del world.arm.machine_nic["aks-np-2-nic"]["properties"]["virtualMachine"]
    world.cluster.write("a")
    await world.settle()
    assert "egressgateway-a" not in configs(world, "aks-np-2-nic")
    assert len(world.arm.publics) == 2
