"""Machines switched off and on by Azure's own SDK, as ``az vm`` and ``az vmss`` do it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from azure.mgmt.compute import ComputeManagementClient

from egress_gateway_lab.azure.emulator import SUBSCRIPTION
from lab.tests.azure.clients.test_sdk import MC, options
from lab.tests.azure.conftest import Person, make_cluster, make_gateway_pool
from lab.tests.azure.running import NODE_GROUP, Running, credential
from lab.tests.azure.test_operations import VERSION

VMS = f"{NODE_GROUP}/providers/Microsoft.Compute/virtualMachines"


@pytest.fixture
def compute(azure: Running) -> Iterator[ComputeManagementClient]:
    with (
        credential(azure) as signed_in,
        ComputeManagementClient(signed_in, SUBSCRIPTION, **options(azure)) as client,
    ):
        yield client


def power(view: Any) -> str:
    codes: list[str] = [s.code for s in view.statuses]
    return next(c.partition("/")[2] for c in codes if c.startswith("PowerState/"))


async def test_instances_are_switched_off_and_on(
    azure: Running, person: Person, compute: ComputeManagementClient
) -> None:
    async with person() as client:
        await make_cluster(client)
        await make_gateway_pool(client)
    before = dict(azure.machines.machines)
    sets, machines = compute.virtual_machine_scale_sets, compute.virtual_machine_scale_set_vms
    name = next(s.name or "" for s in sets.list(MC) if "npegress" in (s.name or ""))
    machines.begin_deallocate(MC, name, "0").result()
    assert len(azure.machines.machines) == len(before) - 1
    assert power(machines.get_instance_view(MC, name, "0")) == "deallocated"
    assert machines.get(MC, name, "0").provisioning_state == "Succeeded"
    sets.begin_power_off(MC, name).result()
    summary = sets.get_instance_view(MC, name).virtual_machine
    assert summary is not None
    counted = {s.code: s.count for s in summary.statuses_summary or ()}
    assert counted["PowerState/stopped"] == counted["PowerState/deallocated"] == 1
    sets.begin_start(MC, name).result()
    assert azure.machines.machines == before, "same machines, same addresses"
    azure.machines.starts.clear()
    sets.begin_start(MC, name).result()
    assert azure.machines.starts == [], "they run already"
    sets.begin_restart(MC, name).result()
    assert len(azure.machines.starts) == 2


async def test_machines_of_their_own_are_switched_off_and_on(
    azure: Running, person: Person, compute: ComputeManagementClient
) -> None:
    async with person() as client:
        await make_cluster(client, "1.34")
        await make_gateway_pool(client, type="VirtualMachines")
        name = str((await client.list(VMS, VERSION))[0]["name"])
    before = dict(azure.machines.machines)
    machines = compute.virtual_machines
    machines.begin_deallocate(MC, name).result()
    assert len(azure.machines.machines) == len(before) - 1
    assert power(machines.instance_view(MC, name)) == "deallocated"
    assert power(machines.get(MC, name, expand="instanceView").instance_view) == "deallocated"
    machines.begin_start(MC, name).result()
    assert azure.machines.machines == before
    machines.begin_power_off(MC, name).result()
    assert power(machines.instance_view(MC, name)) == "stopped"
    machines.begin_restart(MC, name).result()
    assert power(machines.instance_view(MC, name)) == "running"
