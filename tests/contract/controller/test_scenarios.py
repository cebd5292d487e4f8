"""The scenarios of ``tests/unit/controller/scenarios.yaml`` on the lab's Azure, over HTTPS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from egress_gateway.cloud.azure.cloud import AzureCloud
from egress_gateway.cloud.azure.requests.arm import CALLS
from egress_gateway_lab.azure.emulator import SUBSCRIPTION
from tests.contract.controller.azure_lab import GROUP, AzureLab, azure_lab
from tests.unit.controller.scenarios import EVERY_PREFIX, OURS, SCENARIOS, Play

NETWORK, COMPUTE = "2024-05-01", "2024-07-01"


class Lab:
    def __init__(self, lab: AzureLab) -> None:
        self._lab = lab
        self._group = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{lab.node_group}/providers"
        self._before = _written()
        self._grants = 0

    def cloud(self) -> AzureCloud:
        return self._lab.cloud

    async def make_pool(self, name: str, *, machines: int, size: int, scale_set: bool) -> None:
        kind = "VirtualMachineScaleSets" if scale_set else "VirtualMachines"
        await self._lab.add_pool(name, count=machines, size=size, kind=kind)

    async def make_prefix(self, name: str, *, size: int, role: bool) -> None:
        await self._lab.add_prefix(name, size)
        if role:
            await self.give_role(name)

    async def give_role(self, name: str) -> None:
        self._grants += 1
        scope = GROUP if name == EVERY_PREFIX else self.prefix_id(name)
        await self._lab.grant(scope, self._grants)

    def prefix_id(self, name: str) -> str:
        return f"{GROUP}/providers/Microsoft.Network/publicIPPrefixes/{name}"

    def managed_prefix_id(self, name: str) -> str:
        return f"{self._group}/Microsoft.Network/publicIPPrefixes/{name}"

    async def network(self, prefix_id: str) -> str:
        found = await self._lab.person.get(prefix_id, NETWORK)
        return str(found["properties"]["ipPrefix"])

    async def managed_prefixes(self) -> set[str]:
        return {item["name"] for item in await self._list("publicIPPrefixes")}

    async def carried(self, pool: str) -> set[str]:
        sets = await self._lab.person.list(
            f"{self._group}/Microsoft.Compute/virtualMachineScaleSets", COMPUTE
        )
        nics: list[dict[str, Any]] = []
        for scale_set in (s for s in sets if s["tags"].get("aks-managed-poolName") == pool):
            url = f"{scale_set['id']}/networkInterfaces"
            nics += await self._lab.person.list(url, NETWORK)
        alone = await self._list("networkInterfaces")
        nics += [n for n in alone if (n.get("tags") or {}).get("aks-managed-poolName") == pool]
        configs = [c["name"] for nic in nics for c in nic["properties"]["ipConfigurations"]]
        return {name for name in configs if name.startswith(OURS)}

    async def has_balancer(self) -> bool:
        return any("egress" in item["name"] for item in await self._list("loadBalancers"))

    def writes(self) -> int:
        return _written() - self._before

    async def _list(self, kind: str) -> list[dict[str, Any]]:
        return await self._lab.person.list(f"{self._group}/Microsoft.Network/{kind}", NETWORK)


def _written() -> int:
    """Writes to Azure by this process so far."""
    samples = [sample for metric in CALLS.collect() for sample in metric.samples]
    counted = [s for s in samples if s.name.endswith("_total") and s.labels["method"] != "GET"]
    return int(sum(sample.value for sample in counted))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s["scenario"])
async def test_scenario(scenario: dict[str, Any], tmp_path: Path) -> None:
    async with azure_lab(tmp_path) as lab:
        await Play(Lab(lab)).run(scenario["steps"])
