"""Pools without a node yet, gateways and workers: what waits for them says so, and then works."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway_lab.demo.world import VM_SIZE, World, until
from tests.lab.test_bad_input import remove

pytestmark = pytest.mark.root
Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network
GATEWAYS, WORKERS = "npzero", "npwork"
INTERNET = "http://ifconfig.me"


async def scale(world: World, pool: str, count: int, **more: Any) -> None:
    """``az aks nodepool add`` and ``az aks nodepool scale`` are the same request."""
    properties = {
        "count": count,
        "mode": "User",
        "vmSize": VM_SIZE,
        "osType": "Linux",
        "type": "VirtualMachineScaleSets",
        "scaleDownMode": "Delete",
    }
    path = f"{world.cluster_id}/agentPools/{pool}"
    await world.arm.put(path, {"properties": properties | more}, "2026-06-01")


async def scale_gateways(world: World, count: int) -> None:
    await scale(world, GATEWAYS, count, mode="Gateway", gatewayProfile={"publicIPPrefixSize": 30})


async def annotated(world: World, name: str, pool: str) -> None:
    """A pod that is to run on the nodes of ``pool``."""
    meta = {"name": name, "namespace": "default", "annotations": {names.POD_ANNOTATION: "zero"}}
    spec = {
        "terminationGracePeriodSeconds": 0,
        "nodeSelector": {names.AKS_POOL_LABEL: pool},
        "containers": [{"name": "main", "image": "nginx"}],
    }
    await world.kube.create("pods", {"kind": "Pod", "metadata": meta, "spec": spec})


async def ready_node(world: World, pool: str) -> dict[str, Any] | None:
    nodes = await world.nodes(pool=pool)
    return next((n for n in nodes if names.NODE_READY_LABEL in n["metadata"]["labels"]), None)


async def test_pods_that_waited_for_the_first_gateway_and_the_first_node_start(
    world: World,
) -> None:
    await asyncio.gather(scale_gateways(world, 0), scale(world, WORKERS, 0))
    await world.configure("zero", {"gatewayNodepoolName": GATEWAYS})
    sgc = await world.configuration_condition(
        "zero", lambda c: (c["type"], c["status"]) == ("Ready", "False"), timeout=120
    )
    assert not sgc["status"].get("gateways")
    await annotated(world, "for-gateway", "nodepool1")
    await annotated(world, "for-node", WORKERS)
    # Each says what it waits for.
    why = await world.event("for-gateway", "EgressNotReady", timeout=120)
    assert "default/zero" in why
    waiting = await world.kube.get("pods", "for-node", namespace="default")
    assert waiting["spec"]["nodeSelector"][names.NODE_READY_LABEL] == "true"
    assert "nodeName" not in waiting["spec"]
    await asyncio.gather(scale_gateways(world, 1), scale(world, WORKERS, 1))
    sgc = await world.configuration_condition(
        "zero", lambda c: (c["type"], c["status"]) == ("Ready", "True"), timeout=120
    )
    prefix = ipaddress.ip_network(sgc["status"]["egressIpPrefix"])
    assert len(sgc["status"]["gateways"]) == 1
    for name in ("for-gateway", "for-node"):
        # A kubelet waits longer after each refusal.
        await world.pod_ready(name, timeout=180)
        assert ipaddress.ip_address(await world.curl(name, INTERNET)) in prefix
    assert await ready_node(world, WORKERS)
    # Back to none: held back, never by another way; and then the pod goes on.
    await scale_gateways(world, 0)
    await until(lambda: held(world, prefix), timeout=120, what="the pod to be held back")
    await scale_gateways(world, 1)
    await until(lambda: leaves_by(world, prefix), timeout=120, what="the pod's way out")
    for name in ("for-gateway", "for-node"):
        await world.kube.delete("pods", name, namespace="default")
    await remove(world, "zero")
    for pool in (GATEWAYS, WORKERS):
        await world.arm.delete(f"{world.cluster_id}/agentPools/{pool}", "2026-06-01")


async def asked(world: World) -> str:
    command = ["curl", "-s", "--max-time", "4", INTERNET]
    return (await world.kube.exec("default", "for-node", command)).stdout.decode().strip()


async def held(world: World, prefix: Prefix) -> bool:
    return not await leaves_by(world, prefix)


async def leaves_by(world: World, prefix: Prefix) -> bool:
    seen = await asked(world)
    assert not seen or ipaddress.ip_address(seen) in prefix
    return bool(seen)
