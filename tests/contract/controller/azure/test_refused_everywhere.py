"""Every write, look and deletion refused in every way that Azure has: it ends well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from egress_gateway_lab.azure.faults import Fault
from tests.contract.controller.azure_lab import azure_lab
from tests.contract.controller.test_controller import SGCS, World, api_server, condition, controller

WRITTEN: Final = (
    "/loadBalancers/[^/]+$",
    "/publicIPPrefixes/[^/]+$",
    "/publicIPAddresses/[^/]+$",
    "/networkInterfaces/[^/]+$",
    "/virtualMachineScaleSets/[^/]+$",
    "/virtualMachineScaleSets/[^/]+/virtualMachines/[^/]+$",
)
DELETED: Final = WRITTEN[:3]
READ: Final = ("/virtualMachines$", "/operations/")
WAYS: Final[tuple[tuple[Any, dict[str, Any]], ...]] = (
    ("conflict", {}),
    ("throttle", {}),
    ("error", {"status": 503, "code": "ServerBusy"}),
    ("fail-operation", {"code": "NetworkingInternalOperationError"}),
    ("shape", {"shape": "location"}),
    ("cut", {}),
)
MAY_COME_TOO_LATE: Final = ("shape", "cut")
"""What is accepted and fails later may be there all the same: then nobody writes it again."""


def refuse(world: World, method: str, paths: tuple[str, ...]) -> list[Fault]:
    return [
        world.azure.emulator.faults.add(kind, method=method, path=path, **how)
        for path in paths
        for kind, how in WAYS
        if method != "GET" or kind in ("conflict", "throttle", "error", "cut")
    ]


async def test_writes_reads_and_deletions_refused_in_every_way_end_well(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        before = await world.azure.resources()
        names = ["npegress", "npvm"]
        faults = refuse(world, "PUT", WRITTEN) + refuse(world, "GET", READ)
        for name in names:
            await world.write(name, gatewayNodepoolName=name)
        for name in names:
            await world.until(
                name,
                lambda s: condition(s, "Provisioned").get("reason") == "Provisioned",
                timeout=300,
            )
        assert [f for f in faults if not f.hits and f.kind not in MAY_COME_TOO_LATE] == []
        world.azure.emulator.faults.clear()
        faults = refuse(world, "DELETE", DELETED)
        for name in names:
            await world.kube.delete(SGCS, name, namespace="default")
        for name in names:
            await world.kube.wait_for(
                SGCS, name, lambda found: found is None, namespace="default", timeout=300
            )
        assert [f for f in faults if not f.hits and f.kind not in MAY_COME_TOO_LATE] == []
        assert await world.azure.resources() == before

    async with azure_lab(tmp_path) as azure, api_server(tmp_path) as (_, kube, path):
        (tmp_path / "azure.json").write_text(json.dumps(azure.config))
        await azure.add_pool("npegress", size=31)
        await azure.add_pool("npvm", size=31, kind="VirtualMachines")
        async with controller(tmp_path, path, retry_limit=0.2, drift_interval=1.0):
            await story(World(azure, kube))
