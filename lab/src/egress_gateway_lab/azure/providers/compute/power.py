"""Power of machines: start, stop (``powerOff``), deallocate, restart, and how that is told.

A machine that is off keeps its document, its NIC with all addresses, and its Node: it was not
deleted. Provisioning and power are different states; a machine that is off is ``Succeeded``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from egress_gateway_lab.azure.arm import ids
from egress_gateway_lab.azure.arm.kinds import Answer, Azure, Call, Kind
from egress_gateway_lab.azure.arm.store import Document

OFF: Final = {"poweroff": "stopped", "deallocate": "deallocated"}
"""What leaves a machine in which state."""
ACTIONS: Final = frozenset({"start", "restart", *OFF})
RUNNING: Final = "running"


def power_of(machine: Document) -> str:
    return str(machine.get("_power") or RUNNING)


async def switch(azure: Azure, action: str, machine_id: str) -> None:
    """What an action (in lower case) does to one machine; nothing if that is gone."""
    machine = azure.store.get(machine_id)
    before = power_of(machine) if machine else ""
    if not machine or (action == "poweroff" and before != RUNNING):
        return
    if action in OFF and before == RUNNING:
        await azure.machine_off(machine_id)
    elif action == "start" and before != RUNNING:
        await azure.machine_on(machine_id)
    elif action == "restart":
        await azure.machine_restart(machine_id)
    elif action == "reimage":
        await azure.machine_reimage(machine_id)
    entry = azure.store.entry(machine_id)
    if entry is not None:
        state = OFF.get(action, RUNNING)
        azure.store.put(entry.type, {**entry.document, "_power": state})


def status_view(machine: Document) -> Document:
    """A machine's ``instanceView``."""
    state = machine["properties"]["provisioningState"].lower()
    power = power_of(machine)
    return {
        "statuses": [
            {"code": f"ProvisioningState/{state}", "level": "Info"},
            {"code": f"PowerState/{power}", "level": "Info", "displayStatus": f"VM {power}"},
        ]
    }


def with_view(answer: Answer, call: Call, machine: Document) -> Answer:
    """``answer`` about a machine, with its ``instanceView`` if the call asks for that."""
    if call.query.get("$expand") != "instanceView":
        return answer
    properties = {**answer.body["properties"], "instanceView": status_view(machine)}
    return Answer(200, {**answer.body, "properties": properties}, answer.headers)


def summary_view(scale_set: Document, instances: Iterable[Document]) -> Document:
    """A scale set's ``instanceView``: how many machines are in which state."""
    counted = Counter(s["code"] for i in instances for s in status_view(i)["statuses"])
    state = scale_set["properties"]["provisioningState"].lower()
    return {
        "virtualMachine": {
            "statusesSummary": [{"code": c, "count": n} for c, n in sorted(counted.items())]
        },
        "statuses": [{"code": f"ProvisioningState/{state}", "level": "Info"}],
    }


class InstanceViews(Kind):
    """``…/instanceView`` of a machine, or of a scale set."""

    tracked = False

    def __init__(self, azure: Azure, owner: str) -> None:
        super().__init__(azure)
        self.type = f"{owner}/instanceView"  # type: ignore[misc]

    async def list(self, call: Call) -> Answer:
        owner = self.read(ids.parse(call.id.text.rpartition("/")[0]))
        if owner["type"].lower().endswith("/virtualmachinescalesets"):
            machines = self.azure.store.of_type(f"{owner['type']}/virtualMachines", owner["id"])
            return Answer(200, summary_view(owner, machines))
        return Answer(200, status_view(owner))
