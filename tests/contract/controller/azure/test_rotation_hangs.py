"""Key pairs are changed while a write of the load balancer hangs and the pool is scaled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from egress_gateway.api import names
from tests.contract.controller.azure_lab import CLUSTER
from tests.contract.controller.test_as_azure_answers import whole
from tests.contract.controller.test_controller import SGCS, World, running
from tests.contract.controller.test_others_and_accidents import SOON

POOL = f"{CLUSTER}/agentPools/npegress"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path, share=None, drift_interval=3.0) as made, agents(made):
        yield made


@contextlib.asynccontextmanager
async def agents(world: World) -> AsyncIterator[None]:
    """Gateway agents that serve what statuses list, with both key pairs."""

    async def serve() -> None:
        while True:
            listed = await world.kube.list(SGCS, namespace="default")
            nodes = {n["metadata"]["name"] for n in await world.kube.list("nodes")}
            for node in nodes & {g["node"] for s in listed for g in _gateways(s)}:
                report = {
                    "apiVersion": names.API_VERSION,
                    "kind": "GatewayStatus",
                    "metadata": {"name": node, "namespace": names.SYSTEM_NAMESPACE},
                    "spec": {"readyGatewayConfigurations": [_entry(s) for s in listed]},
                }
                await world.kube.apply(report, resource="gatewaystatuses")
            await asyncio.sleep(0.2)

    serving = asyncio.create_task(serve())
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def _gateways(sgc: dict[str, Any]) -> list[dict[str, Any]]:
    return list(sgc.get("status", {}).get("gateways", []))


def _entry(sgc: dict[str, Any]) -> dict[str, Any]:
    meta, status = sgc["metadata"], sgc.get("status", {})
    rotation = status.get("keyRotation", {})
    # In the last phase it only hears by the former pair, and says so.
    second = rotation.get("publicKey", "") if rotation.get("phase") != "Closing" else ""
    return {
        "staticGatewayConfiguration": f"default/{meta['name']}",
        "uid": meta["uid"],
        "interfaceName": "wg-6000",
        **({"secondPublicKey": second} if second else {}),
    }


async def rotate(world: World, name: str, request: str) -> None:
    patch = {"metadata": {"annotations": {names.ROTATE_KEYS_ANNOTATION: request}}}
    await world.kube.patch(SGCS, name, patch, namespace="default")


def phase(sgc: dict[str, Any]) -> str:
    return str(sgc.get("status", {}).get("keyRotation", {}).get("phase", ""))


async def test_rotations_end_when_a_write_that_hung_goes_on(world: World) -> None:
    """The rule shows before its write is over: that rotation goes on as far as it can. The other
    one's rule waits for the document."""
    for name in ("c0", "c1"):
        await world.write(name)
    for name in ("c0", "c1"):
        await world.until(name, whole, timeout=SOON)
    faults = world.azure.emulator.faults
    faults.add("conflict", times=4)
    hang = faults.add("hang", method="PUT", path="loadBalancers/")
    await rotate(world, "c0", "once")
    await world.until("c0", lambda s: phase(s) == "Closing", timeout=SOON)
    await rotate(world, "c1", "once")
    await world.until("c1", lambda s: phase(s) == "Preparing", timeout=SOON)
    assert hang.hits == 1
    pool = await world.azure.person.get(POOL, "2025-01-01")
    for count in (3, 2):
        pool["properties"]["count"] = count
        await world.azure.person.put(POOL, pool, "2025-01-01")
    faults.clear()
    for name in ("c0", "c1"):
        await world.until(name, lambda s: phase(s) == "Done", timeout=SOON)
