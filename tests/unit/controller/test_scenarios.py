"""The scenarios of ``scenarios.yaml`` on documents in memory, one test each."""

from __future__ import annotations

from typing import Any

import pytest

from egress_gateway.cloud.azure.cloud import AzureCloud
from tests.unit.controller.fake_arm import BASE, SUB, FakeArm, forbidden
from tests.unit.controller.scenarios import EVERY_PREFIX, OURS, SCENARIOS, Play


class InMemory:
    def __init__(self) -> None:
        self.arm = FakeArm()
        self._prefixes: dict[str, Any] = {}

    def cloud(self) -> AzureCloud:
        return self.arm.cloud()

    async def make_pool(self, name: str, *, machines: int, size: int, scale_set: bool) -> None:
        if scale_set:
            self.arm.add_pool(name, instances=machines, size=size)
        else:
            self.arm.add_machines(name, machines=machines, size=size)

    async def make_prefix(self, name: str, *, size: int, role: bool) -> None:
        made = self.arm.add_prefix(name, size).lower()
        self._prefixes[made] = self.arm.brought[made]
        if not role:
            self.arm.brought[made] = forbidden(made)

    async def give_role(self, name: str) -> None:
        if name == EVERY_PREFIX:
            return
        made = self.prefix_id(name).lower()
        self.arm.brought[made] = self._prefixes[made]

    def prefix_id(self, name: str) -> str:
        group = f"/subscriptions/{SUB}/resourceGroups/rg"
        return f"{group}/providers/Microsoft.Network/publicIPPrefixes/{name}"

    def managed_prefix_id(self, name: str) -> str:
        return f"{BASE}/Microsoft.Network/publicIPPrefixes/{name}"

    async def network(self, prefix_id: str) -> str:
        made = {document["id"]: document for document in self.arm.made.values()}
        found = made.get(prefix_id) or self._prefixes[prefix_id.lower()]
        return str(found["properties"]["ipPrefix"])

    async def managed_prefixes(self) -> set[str]:
        return set(self.arm.made)

    async def carried(self, pool: str) -> set[str]:
        nics = [
            *(nic for nic_id, nic in self.arm.nics.items() if f"/aks-{pool}-vmss/" in nic_id),
            *(nic for name, nic in self.arm.machine_nic.items() if name.startswith(f"aks-{pool}-")),
        ]
        configs = [c["name"] for nic in nics for c in nic["properties"]["ipConfigurations"]]
        return {name for name in configs if name.startswith(OURS)}

    async def has_balancer(self) -> bool:
        return self.arm.balancer_document is not None

    def writes(self) -> int:
        return len(self.arm.writes)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s["scenario"])
async def test_scenario(scenario: dict[str, Any]) -> None:
    await Play(InMemory()).run(scenario["steps"])
