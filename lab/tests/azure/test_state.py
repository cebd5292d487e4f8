"""A state file: what the next emulator finds in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from egress_gateway_lab.azure import snapshot
from egress_gateway_lab.azure.client import ArmClient
from egress_gateway_lab.azure.emulator import Emulator
from egress_gateway_lab.azure.state import StateError
from lab.tests.azure.conftest import make_cluster, make_gateway_pool, make_prefix, send
from lab.tests.azure.running import (
    CLUSTER,
    GROUP,
    NODE_GROUP,
    Machines,
    Running,
    running,
    signed_in,
)

VERSION = "2024-05-01"
Story = Callable[[ArmClient], Awaitable[Any]]


async def play(azure: Running, story: Story, client_id: str = "someone") -> Any:
    async with signed_in(azure, client_id) as client:
        return await story(client)


def resources(azure: Running) -> dict[str, tuple[str, Any]]:
    """(ETag, document) by id, but for what a reboot changes."""
    found = {}
    for entry in azure.emulator.azure.store.everything():
        document = {k: v for k, v in entry.document.items() if k != "_started"}
        found[entry.id] = (entry.etag, document)
    return found


async def at_rest(client: ArmClient) -> dict[str, Any]:
    while True:
        cluster = await client.get(CLUSTER, VERSION)
        if cluster["properties"]["provisioningState"] in ("Succeeded", "Failed"):
            return cluster
        await asyncio.sleep(0.01)


async def test_resources_roles_and_machines_come_back(tmp_path: Path) -> None:
    state = tmp_path / "state"

    async def build(client: ArmClient) -> dict[str, Any]:
        cluster = await make_cluster(client, "1.34")
        await make_gateway_pool(client)
        await make_gateway_pool_of_machines(client)
        await make_prefix(client)
        return cluster

    with running(tmp_path, state=state) as azure:
        cluster = await play(azure, build)
        before, machines = resources(azure), dict(azure.machines.machines)
        token = azure.emulator.directory.token(
            azure.emulator.directory.find("someone") or pytest.fail("nobody"), azure.base
        )
    with running(tmp_path, state=state) as azure:
        await play(azure, at_rest)
        after = resources(azure)
        assert set(after) == set(before)
        changed = {i for i in after if after[i][1] != before[i][1]}
        assert changed == set(), "booting changes nothing that a client sees"
        prefix = next(i for i in after if i.endswith("/publicIPPrefixes/pip"))
        assert after[prefix][0] == before[prefix][0], "ETags survive"
        assert azure.machines.machines == machines
        identity = azure.emulator.directory.find(cluster["identity"]["principalId"])
        assert identity is not None
        scope = f"{NODE_GROUP}/providers/Microsoft.Network/loadBalancers/x"
        assert azure.emulator.azure.access.allows(
            identity, "Microsoft.Network/loadBalancers/write", scope
        )
        assert azure.emulator.directory.identify(token)[0].client_id == "someone"

        async def go_on(client: ArmClient) -> None:
            another = await make_prefix(client, "another")
            taken = before[prefix][1]["properties"]["ipPrefix"]
            assert another["properties"]["ipPrefix"] != taken, "addresses stay taken"
            await make_gateway_pool(client, count=3)

        await play(azure, go_on)
        addresses = [m.address for m in azure.machines.machines.values()]
        assert len(set(addresses)) == len(addresses) == len(machines) + 1


async def make_gateway_pool_of_machines(client: ArmClient) -> None:
    properties = {
        "mode": "Gateway",
        "type": "VirtualMachines",
        "count": 2,
        "gatewayProfile": {"publicIPPrefixSize": 31},
    }
    await client.put(f"{CLUSTER}/agentPools/npvm", {"properties": properties}, "2026-06-01")


async def test_what_was_answered_survives_even_a_killed_process(tmp_path: Path) -> None:
    """The file is copied while the emulator runs, as a power cut would leave it."""
    state, copy = tmp_path / "state", tmp_path / "copy"

    async def write(client: ArmClient) -> None:
        await client.put(GROUP, {"location": "swedencentral"}, VERSION)
        url = f"{client.base}{GROUP}/providers/Microsoft.Network/publicIPPrefixes/p"
        body = {"location": "swedencentral", "properties": {"prefixLength": 30}}
        status, _, _ = await send(client, "PUT", f"{url}?api-version={VERSION}", body)
        assert status == 201

    async def look(client: ArmClient) -> None:
        path = f"{GROUP}/providers/Microsoft.Network/publicIPPrefixes/p"
        while True:
            prefix = await client.get(path, VERSION)
            if prefix["properties"]["provisioningState"] == "Succeeded":
                return
            await asyncio.sleep(0.01)

    with running(tmp_path, state=state, operation_seconds=600) as azure:
        await play(azure, write)
        copy.write_bytes(state.read_bytes())
        Path(f"{copy}-wal").write_bytes(Path(f"{state}-wal").read_bytes())
    with running(tmp_path, state=copy) as azure:
        await play(azure, look)


async def test_a_deletion_goes_on(tmp_path: Path) -> None:
    state = tmp_path / "state"

    async def begin(client: ArmClient) -> None:
        await make_cluster(client)
        azure.emulator.azure.operations.seconds = 600
        status, _, _ = await send(
            client, "DELETE", f"{client.base}{GROUP}?api-version={VERSION}", None
        )
        assert status == 202

    async def until_gone(client: ArmClient) -> None:
        path = GROUP.rpartition("/")[0]
        while await client.list(path, VERSION):
            await asyncio.sleep(0.01)

    with running(tmp_path, state=state) as azure:
        await play(azure, begin)
    with running(tmp_path, state=state) as azure:
        await play(azure, until_gone)
        assert azure.machines.machines == {}


async def test_a_pool_that_was_under_way_is_finished(tmp_path: Path) -> None:
    state = tmp_path / "state"

    async def begin(client: ArmClient) -> None:
        await make_cluster(client)
        azure.emulator.azure.operations.seconds = 600
        body = {"properties": {"mode": "Gateway", "count": 2}}
        url = f"{client.base}{CLUSTER}/agentPools/npegress?api-version=2026-06-01"
        status, _, _ = await send(client, "PUT", url, body)
        assert status == 201

    with running(tmp_path, state=state) as azure:
        await play(azure, begin)
    with running(tmp_path, state=state) as azure:
        cluster = await play(azure, at_rest)
        states = {
            p["name"]: p["provisioningState"] for p in cluster["properties"]["agentPoolProfiles"]
        }
        assert states == {"nodepool1": "Succeeded", "npegress": "Succeeded"}
        assert sum(m.pool == "npegress" for m in azure.machines.machines.values()) == 2


def test_a_file_belongs_to_one_lab_at_a_time_and_must_be_one(tmp_path: Path) -> None:
    state, other = tmp_path / "state", tmp_path / "other"
    other.write_text("something else" * 100)
    with running(tmp_path, state=state):
        with pytest.raises(StateError, match="another lab uses it"):
            Emulator(backend=Machines(), state=state)
        with pytest.raises(StateError, match="no state of a lab"):
            Emulator(backend=Machines(), state=other)


async def test_without_a_file_every_emulator_is_fresh(tmp_path: Path) -> None:
    async def build(client: ArmClient) -> None:
        await client.put(GROUP, {"location": "swedencentral"}, VERSION)

    with running(tmp_path) as azure:
        await play(azure, build)
    with running(tmp_path) as azure:
        assert snapshot.dump(azure.emulator.azure) == []


async def test_urls_of_operations_are_answered_after_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "state"
    urls: list[str] = []

    async def write(client: ArmClient, method: str, path: str, body: Any) -> None:
        url = f"{client.base}{path}?api-version=2026-06-01"
        status, _, headers = await send(client, method, url, body)
        assert status in (201, 202)
        urls.append(headers["Azure-AsyncOperation"].removeprefix(client.base))

    async def begin(client: ArmClient) -> None:
        await make_cluster(client)
        prefixes = f"{GROUP}/providers/Microsoft.Network/publicIPPrefixes"
        body = {"location": "swedencentral", "properties": {"prefixLength": 30}}
        await write(client, "PUT", f"{prefixes}/done", body)
        await client.put(f"{prefixes}/going", body, VERSION)
        while (await client.get(urls[0].partition("?")[0], VERSION))["status"] != "Succeeded":
            await asyncio.sleep(0.01)
        azure.emulator.azure.operations.seconds = 600
        await write(client, "PUT", f"{prefixes}/begun", body)
        await write(client, "DELETE", f"{prefixes}/going", None)
        pool = {"properties": {"mode": "Gateway", "count": 2}}
        await write(client, "PUT", f"{CLUSTER}/agentPools/npegress", pool)
        sets = f"{NODE_GROUP}/providers/Microsoft.Compute/virtualMachineScaleSets"
        name = (await client.list(sets, VERSION))[0]["name"]
        await write(client, "POST", f"{sets}/{name}/restart", None)

    async def ask(client: ArmClient) -> list[str]:
        found = []
        for url in urls:
            while True:
                answer = await client.get(url.partition("?")[0], VERSION)
                if answer["status"] != "InProgress":
                    break
                await asyncio.sleep(0.01)
            found.append(answer["status"])
        return found

    with running(tmp_path, state=state) as azure:
        await play(azure, begin)
    with running(tmp_path, state=state) as azure:
        assert (await play(azure, ask)) == ["Succeeded"] * len(urls)
