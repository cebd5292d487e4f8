"""Virtual machines that stand alone, each with NICs of its own."""

from __future__ import annotations

import uuid
from dataclasses import replace

from egress_gateway_lab.azure.arm import errors, ids
from egress_gateway_lab.azure.arm.kinds import Answer, Call
from egress_gateway_lab.azure.arm.store import Document
from egress_gateway_lab.azure.providers.compute import power
from egress_gateway_lab.azure.providers.compute.scalesets import ComputeKind, owner_of
from egress_gateway_lab.azure.providers.network.interfaces import NetworkInterfaces


class VirtualMachines(ComputeKind):
    """Stand-alone machines (pools of type VirtualMachines)."""

    type = "Microsoft.Compute/virtualMachines"

    def complete(self, call: Call, body: Document, old: Document | None) -> Document:
        properties = body["properties"]
        for nic in (properties.get("networkProfile") or {}).get("networkInterfaces") or []:
            self.azure.require(nic.get("id", ""), body["id"], NetworkInterfaces.type)
        properties.setdefault("vmId", str(uuid.uuid4()))
        properties.setdefault("osProfile", {}).setdefault("computerName", body["name"])
        return body

    async def remove(self, document: Document) -> None:
        await self.azure.machine_gone(document["id"])
        await super().remove(document)

    async def post(self, call: Call, action: str) -> Answer:
        machine = self.read(owner_of(call))
        if action.lower() not in power.ACTIONS:
            raise errors.method_not_allowed("POST", f"{self.type}/{action}")
        self.check_busy(replace(call, id=ids.parse(machine["id"])))
        operation = self.azure.operations.start(
            machine["id"], lambda: power.switch(self.azure, action.lower(), machine["id"])
        )
        return self.async_answer(call, operation, 202, None, location=True)

    async def get(self, call: Call) -> Answer:
        return power.with_view(await super().get(call), call, self.read(call.id))
