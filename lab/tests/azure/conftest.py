from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from egress_gateway_lab.azure.client import ArmClient
from lab.tests.azure.running import CLUSTER, GROUP, Running, running, signed_in

Person = Callable[..., AbstractAsyncContextManager[ArmClient]]


@pytest.fixture
def azure(tmp_path: Path) -> Iterator[Running]:
    """An empty subscription."""
    with running(tmp_path) as started:
        yield started


@pytest.fixture
def person(azure: Running) -> Person:
    return partial(signed_in, azure)


@pytest.fixture
async def client(person: Person) -> AsyncIterator[ArmClient]:
    """A person who is Owner."""
    async with person() as signed_in:
        yield signed_in


async def make_cluster(client: ArmClient, version: str = "1.30.5", **pool: Any) -> dict[str, Any]:
    """Group ``rg`` and cluster ``aks`` with the feature enabled and one system node."""
    await client.put(GROUP, {"location": "swedencentral"}, "2024-11-01")
    body = {
        "location": "swedencentral",
        "identity": {"type": "SystemAssigned"},
        "properties": {
            "kubernetesVersion": version,
            "networkProfile": {"staticEgressGatewayProfile": {"enabled": True}},
            "agentPoolProfiles": [{"name": "nodepool1", "count": 1, "mode": "System", **pool}],
        },
    }
    return await client.put(CLUSTER, body, "2026-06-01")


async def make_gateway_pool(client: ArmClient, **changes: Any) -> dict[str, Any]:
    """Pool ``npegress``: two gateway nodes, prefixes of size 30."""
    properties = {
        "mode": "Gateway",
        "count": 2,
        "gatewayProfile": {"publicIPPrefixSize": 30},
        "scaleDownMode": "Delete",
        **changes,
    }
    path = f"{CLUSTER}/agentPools/npegress"
    return await client.put(path, {"properties": properties}, "2026-06-01")


async def make_prefix(client: ArmClient, name: str = "pip", length: int = 30) -> dict[str, Any]:
    body = {
        "location": "swedencentral",
        "sku": {"name": "Standard"},
        "properties": {"prefixLength": length, "publicIPAddressVersion": "IPv4"},
    }
    path = f"{GROUP}/providers/Microsoft.Network/publicIPPrefixes/{name}"
    return await client.put(path, body, "2025-09-01")


async def send(client: Any, method: str, url: str, body: Any) -> tuple[int, Any, dict[str, str]]:
    """One request as the client would send it, refusals included."""
    token = await client.sign_in()
    headers = {"Authorization": f"Bearer {token}"}
    async with client.session.request(
        method, url, json=body, headers=headers, ssl=client.tls
    ) as response:
        answer = await response.json(content_type=None) if response.content_length else None
        return response.status, answer, {**response.headers, "status": str(response.status)}
