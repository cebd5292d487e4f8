"""Changes of spec under traffic: packets leave by the address before or by the address after."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway_lab.demo.world import NETWORK_CONTRIBUTOR, World, until
from tests.lab.conftest import POOL, configured
from tests.lab.pools.test_vm_pools import add_machines, addresses
from tests.lab.test_bad_input import remove
from tests.lab.test_promises import sources
from tests.storms.place import Place

pytestmark = pytest.mark.root
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
INTERNET = "http://ifconfig.me"


@contextlib.asynccontextmanager
async def requests(world: World, pod: str, path: str) -> AsyncIterator[list[str]]:
    """The pod asks ten times a second in the meantime; the list holds in the end when one was not
    answered within four seconds, which leaves time for what TCP sends again, and none for a
    second question to DNS."""
    unanswered: list[str] = []
    ask = f"curl -s -o /dev/null --max-time 4 {INTERNET}{path} || date +%T.%N"
    script = f"rm -f /tmp/end; until [ -e /tmp/end ]; do {ask}; sleep 0.1; done"
    task = asyncio.create_task(world.kube.exec("default", pod, ["sh", "-c", script]))
    try:
        yield unanswered
    finally:
        await world.kube.exec("default", pod, ["touch", "/tmp/end"])
        unanswered += (await task).stdout.decode().split()
    assert len(await sources(world, path)) > 0


async def another_prefix(world: World, name: str) -> tuple[str, Network]:
    made = await world.create_prefix(name, length=30)
    cluster = await world.arm.get(world.cluster_id, "2026-06-01")
    scope = world.prefix_id(name)
    await world.grant(cluster["identity"]["principalId"], NETWORK_CONTRIBUTOR, scope)
    return scope, ipaddress.ip_network(made["properties"]["ipPrefix"])


async def reads(world: World, name: str, prefix: Network, *, gateways: int) -> None:
    """Waits until the status shows the prefix and that many gateways, all of them with it."""

    async def look() -> Any:
        sgc = await world.kube.get("staticgatewayconfigurations", name, namespace="default")
        status = sgc["status"]
        listed = [ipaddress.ip_address(g["publicIp"]) for g in status["gateways"]]
        return (
            status["egressIpPrefix"] == str(prefix)
            and len(listed) == gateways
            and all(address in prefix for address in listed)
        )

    await until(look, timeout=120, what=f"{name} to be served from {prefix}")


async def leaves_from(world: World, pod: str, prefix: Network) -> None:
    async def look() -> bool:
        answer = await world.kube.exec("default", pod, ["curl", "-s", "--max-time", "4", INTERNET])
        text = answer.stdout.decode().strip()
        return bool(text) and ipaddress.ip_address(text) in prefix

    await until(look, timeout=120, what=f"packets of {pod} to leave from {prefix}")


async def test_a_prefix_is_swapped_under_traffic(world: World) -> None:
    old = ipaddress.ip_network(await configured(world, "swap"))
    scope, new = await another_prefix(world, "pip-swap-new")
    (pod,) = await world.deploy("swap", configuration="swap", replicas=1)
    async with requests(world, pod, "/swap/") as unanswered:
        await leaves_from(world, pod, old)
        spec = {"gatewayNodepoolName": POOL, "publicIpPrefixId": scope}
        await world.configure("swap", spec)
        await reads(world, "swap", new, gateways=2)
        await leaves_from(world, pod, new)
    assert unanswered == []
    for address in await sources(world, "/swap/"):
        seen = ipaddress.ip_address(address)
        assert seen in old or seen in new, seen
    await world.kube.delete("deployments", "swap", namespace="default")
    await remove(world, "swap")


@pytest.mark.storm
async def test_a_prefix_is_named_until_no_gateway_can_use_it(world: World) -> None:
    """The second gateway hears nothing of the exchange, until the controller waits no longer."""
    old = ipaddress.ip_network(await configured(world, "deaf"))
    scope, new = await another_prefix(world, "pip-deaf-new")
    spec = {"gatewayNodepoolName": POOL, "publicIpPrefixId": scope}
    async with Place(world, world.lab).without_api("g1"):
        await world.configure("deaf", spec)
        seen = await named(world, "deaf", new)
        assert not [a for a in await public_addresses(world) if a in old], seen
    assert seen[-2:] == [f"{new},{old}", str(new)]
    await reads(world, "deaf", new, gateways=2)
    await remove(world, "deaf")


async def named(world: World, name: str, prefix: Network) -> list[str]:
    """What the status names one after another, until it is that prefix alone."""
    seen: list[str] = []

    async def look() -> bool:
        sgc = await world.kube.get("staticgatewayconfigurations", name, namespace="default")
        said = sgc["status"]["egressIpPrefix"]
        if said not in seen:
            seen.append(said)
        return bool(said == str(prefix))

    await until(look, timeout=240, what=f"the status of {name} to name {prefix} alone")
    return seen


async def public_addresses(world: World) -> list[Any]:
    """The public addresses of the pool's machines."""
    sets = await world.arm.list(
        f"{await world.node_group_id()}/providers/Microsoft.Compute/virtualMachineScaleSets",
        "2024-07-01",
    )
    pool = next(s["id"] for s in sets if s["tags"].get(names.POOL_NAME_TAG) == POOL)
    found = await world.arm.list(f"{pool}/publicIPAddresses", "2023-09-01")
    assert found
    return [ipaddress.ip_address(one["properties"]["ipAddress"]) for one in found]


async def test_a_configuration_moves_to_a_pool_of_machines_and_back(world: World) -> None:
    before = await addresses(world)
    await add_machines(world, "npmove", count=2)
    prefix = ipaddress.ip_network(await configured(world, "move"))
    scope = world.prefix_id("pip-move")
    (pod,) = await world.deploy("move", configuration="move", replicas=1)
    async with requests(world, pod, "/move/") as unanswered:
        for pool in ("npmove", POOL):
            spec = {"gatewayNodepoolName": pool, "publicIpPrefixId": scope}
            await world.configure("move", spec)
            await serves_in(world, "move", pool)
            await leaves_from(world, pod, prefix)
    assert unanswered == []
    for address in await sources(world, "/move/"):
        assert ipaddress.ip_address(address) in prefix
    await world.kube.delete("deployments", "move", namespace="default")
    await remove(world, "move")
    assert await addresses(world) == before
    await world.arm.delete(f"{world.cluster_id}/agentPools/npmove", "2026-06-01")


async def serves_in(world: World, name: str, pool: str) -> None:
    nodes = {n["metadata"]["name"] for n in await world.nodes(pool=pool)}

    async def look() -> bool:
        sgc = await world.kube.get("staticgatewayconfigurations", name, namespace="default")
        ready = {c["type"]: c["status"] for c in sgc["status"]["conditions"]}
        listed = {g["node"] for g in sgc["status"]["gateways"]}
        return listed == nodes and ready["Ready"] == "True"

    await until(look, timeout=120, what=f"{name} to be served by pool {pool}")
