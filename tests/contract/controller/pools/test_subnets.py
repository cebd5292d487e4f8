"""Private addresses that there are none of: in a subnet that is full, or that is delegated to
somebody else. Who needs one is told, and nobody else is held up."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from egress_gateway_lab.azure.client import RequestFailed
from tests.contract.controller.azure_lab import GROUP, azure_lab
from tests.contract.controller.pools.test_own_scale_set import (
    VERSION,
    build,
    grant,
    write,
)
from tests.contract.controller.test_as_azure_answers import provisioned, whole
from tests.contract.controller.test_controller import (
    World,
    api_server,
    condition,
    controller,
    reason,
    running,
)
from tests.contract.controller.test_others_and_accidents import SOON, gone

NETWORK = f"{GROUP}/providers/Microsoft.Network/virtualNetworks/net"


def subnet(name: str, network: str, *services: str) -> dict[str, Any]:
    delegations = [{"name": s, "properties": {"serviceName": s}} for s in services]
    return {"name": name, "properties": {"addressPrefix": network, "delegations": delegations}}


@asynccontextmanager
async def frontends_in(folder: Path, name: str, *subnets: dict[str, Any]) -> AsyncIterator[World]:
    """A controller whose Azure configuration names a subnet for the load balancer's addresses."""
    async with (
        azure_lab(folder, compute_share=None) as azure,
        api_server(folder) as (_, kube, path),
    ):
        body = {
            "location": "swedencentral",
            "properties": {
                "addressSpace": {"addressPrefixes": ["10.88.0.0/16"]},
                "subnets": list(subnets),
            },
        }
        await azure.person.put(NETWORK, body, VERSION)
        await azure.grant(NETWORK, number=5)
        named = {"vnetName": "net", "vnetResourceGroup": "rg", "subnetName": name}
        (folder / "azure.json").write_text(json.dumps(azure.config | named))
        await azure.add_pool("npegress")
        world = World(azure, kube)
        await world.add_gateway_nodes()
        async with controller(folder, path, drift_interval=2.0):
            yield world


async def test_a_load_balancer_in_a_delegated_subnet_is_told_and_mended(tmp_path: Path) -> None:
    service = "Microsoft.Web/serverFarms"
    delegated = subnet("lb", "10.88.1.0/24", service)
    async with frontends_in(tmp_path, "lb", delegated) as world:
        await world.write("a")
        sgc = await world.until("a", lambda s: "Delegated" in message(s), timeout=SOON)
        assert service in message(sgc)
        assert "subnetName" in message(sgc), "what mends it"
        assert condition(sgc, "Provisioned")["status"] == "False"
        body = subnet("lb", "10.88.1.0/24")
        await world.azure.person.put(f"{NETWORK}/subnets/lb", body, VERSION)
        await world.until("a", whole, timeout=SOON)
        with pytest.raises(RequestFailed, match="SubnetDelegationsCannotChange"):
            await world.azure.person.put(f"{NETWORK}/subnets/lb", delegated, VERSION)
        await gone(world, "a")


async def test_a_subnet_without_room_for_secondary_addresses_serves_whom_it_can(
    tmp_path: Path,
) -> None:
    """Eleven addresses for two machines and the load balancer: eight are left."""
    async with running(tmp_path, share=None, drift_interval=2.0) as world:
        await build(world, network="10.77.1.0/28")
        await grant(world)
        names = [f"c{number}" for number in range(5)]
        for name in names:
            await write(world, name)
            if name != names[-1]:
                await world.until(name, provisioned, timeout=SOON)
        sgc = await world.until(names[4], lambda s: reason(s) == "QuotaExceeded", timeout=SOON)
        full = message(sgc)
        assert "SubnetIsFull" in full
        assert "larger" in full, "what mends it"
        await world.write("other")
        await world.until("other", whole, timeout=SOON)
        await gone(world, names[0])
        await world.until(names[4], provisioned, timeout=SOON)
        for name in (*names[1:], "other"):
            await gone(world, name)


def message(sgc: dict[str, Any]) -> str:
    return str(condition(sgc, "Provisioned").get("message", ""))
