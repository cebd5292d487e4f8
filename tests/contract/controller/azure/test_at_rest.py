"""What a settled cluster costs Azure, counted in requests.

docs/reference/controller-configuration.md has the figures.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from egress_gateway.controller.reconcile import Reconciler
from tests.contract.controller.azure_lab import AzureLab, azure_lab
from tests.unit.controller.test_reconcile import FakeCluster

SURVEY = 3
PER_POOL = {"VirtualMachineScaleSets": 6, "VirtualMachines": 4}


async def look(reconciler: Reconciler) -> None:
    """One drift check of everything."""
    await reconciler.handle("survey")
    for key in [*reconciler.pools]:
        await reconciler.handle(key)


async def settled(lab: AzureLab, cluster: FakeCluster) -> Reconciler:
    reconciler = Reconciler(
        lab.cloud,
        cluster,  # type: ignore[arg-type]
        drift_interval=60,
        retry_limit=30,
    )
    for _ in range(3):
        await look(reconciler)
    for uid in cluster.objects:
        await reconciler.report(uid)
        assert cluster.told[uid].settled, cluster.told[uid]
    return reconciler


@pytest.mark.parametrize(
    ("kind", "configurations"),
    [("VirtualMachineScaleSets", 1), ("VirtualMachineScaleSets", 12), ("VirtualMachines", 12)],
)
async def test_a_drift_check_costs_the_same_however_many_configurations_there_are(
    tmp_path: Path, kind: str, configurations: int
) -> None:
    async with azure_lab(tmp_path) as lab:
        await lab.add_pool("np", size=31, kind=kind)
        brought = await lab.add_prefix("pip", 31)
        await lab.grant(brought)
        cluster = FakeCluster()
        cluster.write("brought", public_ip_prefix_id=brought)
        for number in range(configurations - 1):
            cluster.write(f"u{number}")
        reconciler = await settled(lab, cluster)
        before = len(lab.emulator.requests)
        await look(reconciler)
        asked = list(lab.emulator.requests)[before:]
        assert {r.method for r in asked} == {"GET"}
        assert len(asked) == SURVEY + PER_POOL[kind]
