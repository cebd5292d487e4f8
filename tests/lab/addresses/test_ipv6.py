"""Pods of both families, with real packets: their IPv6 leaves from its prefix, or not at all.

The subnet gets IPv6 as a person gives it; machines that boot in it from then on have pods of both
families, and gateways whose one IPv6 address a configuration can have.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway_lab.demo.world import NETWORK_CONTRIBUTOR, VM_SIZE, World, is_ready, until
from tests.lab.test_bad_input import remove

pytestmark = pytest.mark.root
API = "2024-05-01"
SGCS = "staticgatewayconfigurations"


async def network(world: World, *prefixes: str, space: str = "") -> None:
    """``az network vnet update`` and ``subnet update`` with IPv6, or without it."""
    group = await world.node_group_id()
    (vnet,) = (await world.arm.get(f"{group}/providers/Microsoft.Network/virtualNetworks", API))[
        "value"
    ]
    properties = vnet["properties"]
    four = [p for p in properties["addressSpace"]["addressPrefixes"] if ":" not in p]
    properties["addressSpace"]["addressPrefixes"] = [*four, *([space] if space else [])]
    (subnet,) = properties["subnets"]
    has = subnet["properties"]
    one = has.pop("addressPrefix", None) or has["addressPrefixes"][0]
    has["addressPrefixes"] = [one, *prefixes]
    await world.arm.put(vnet["id"], vnet, API)


async def add_workers(world: World, name: str) -> None:
    properties = {
        "count": 1,
        "mode": "User",
        "vmSize": VM_SIZE,
        "osType": "Linux",
        "type": "VirtualMachineScaleSets",
    }
    pool = f"{world.cluster_id}/agentPools/{name}"
    await world.arm.put(pool, {"properties": properties}, "2026-06-01")


async def start(world: World, name: str, configuration: str) -> list[str]:
    """An annotated pod on the new worker; returns its addresses."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "annotations": {names.POD_ANNOTATION: configuration},
        },
        "spec": {
            "containers": [{"name": "main", "image": "nginx"}],
            "nodeSelector": {names.AKS_POOL_LABEL: "dual"},
        },
    }
    await world.kube.create("pods", pod, namespace="default")
    found = await world.kube.wait_for("pods", name, is_ready, namespace="default", timeout=120)
    assert found is not None
    return [entry["ip"] for entry in found["status"]["podIPs"]]


async def seen(world: World, pod: str, family: str = "-6", *, seconds: str = "30") -> str:
    """What ifconfig.me answers over IPv4 or IPv6; empty if there is no answer."""
    command = ["curl", "-s", family, "--max-time", seconds, "http://ifconfig.me"]
    result = await world.kube.exec("default", pod, command)
    return str(result.stdout.decode().strip()) if result.code == 0 else ""


async def condition(world: World, name: str, kind: str, status: str) -> dict[str, Any]:
    found = await world.configuration_condition(
        name, lambda c: (c["type"], c["status"]) == (kind, status), timeout=120
    )
    return dict(found["status"])


async def ipv6_is_verified_and_its_loss_is_told(world: World, name: str) -> None:
    """Servers on the Internet are asked by IPv6 too; IPv4 alone would be in order."""

    async def verified() -> bool:
        status = (await world.kube.get(SGCS, name, namespace="default"))["status"]
        return all(g.get("seenIpV6") == g["publicIpV6"] != "" for g in status["gateways"])

    await until(verified, timeout=120, what="the Internet to see the IPv6 address")
    await condition(world, name, "EgressVerified", "True")
    (node,) = await world.nodes(pool="npsix")
    await world.control.call("cut", node=node["metadata"]["name"], direction="internet6")
    try:
        status = await condition(world, name, "EgressVerified", "False")
        (said,) = [c for c in status["conditions"] if c["type"] == "EgressVerified"]
        (gateway,) = status["gateways"]
        assert f"answers {gateway['publicIpV6']}" in said["message"]
        assert gateway["seenIp"] == gateway["publicIp"]
    finally:
        await world.control.call("mend", node=node["metadata"]["name"])
    await condition(world, name, "EgressVerified", "True")


async def test_ipv6_leaves_from_its_prefix_or_is_held_back(world: World) -> None:
    await network(world, "2001:db8:24::/64", space="2001:db8:24::/56")
    await asyncio.gather(
        add_workers(world, "dual"),
        world.add_gateway_pool("npsix", nodes=1, prefix_size=31),
    )
    made = await world.create_prefix("pip-six", length=127)
    prefix = ip_network(made["properties"]["ipPrefix"])
    cluster = await world.arm.get(world.cluster_id, "2026-06-01")
    scope = world.prefix_id("pip-six")
    await world.grant(cluster["identity"]["principalId"], NETWORK_CONTRIBUTOR, scope)
    pool = {"gatewayNodepoolName": "npsix"}
    await world.configure("six", pool | {"publicIpPrefixIdV6": scope})
    await world.configure("four", pool)
    await condition(world, "four", "Ready", "True")
    status = await condition(world, "six", "IPv6Ready", "True")
    await condition(world, "six", "Ready", "True")
    four, six = map(ip_network, status["egressIpPrefix"].split(","))
    assert six == prefix
    try:
        addresses = await start(world, "both", "six")
        assert [ip_address(a).version for a in addresses] == [4, 6]
        assert ip_address(await seen(world, "both", "-4")) in four
        assert ip_address(await seen(world, "both")) in prefix
        await ipv6_is_verified_and_its_loss_is_told(world, "six")
        assert len(await start(world, "held", "four")) == 2
        assert await seen(world, "held", seconds="1") == ""
        assert ip_address(await seen(world, "held", "-4")) not in four
        # Applications that try both get through: IPv6 says at once that there is no way.
        assert await world.curl("held", "http://ifconfig.me")
        sources = await world.control.call("ipv6_sources")
        assert sources
        assert all(ip_address(source) in prefix for source in sources)
    finally:
        for name in ("both", "held"):
            await world.kube.delete("pods", name, namespace="default")
        await remove(world, "six", "four")
        for name in ("npsix", "dual"):
            await world.arm.delete(f"{world.cluster_id}/agentPools/{name}", "2026-06-01")
        await network(world)
