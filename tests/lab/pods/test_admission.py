"""A Namespace's annotation is the default of its pods: seen in where their packets come from."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway_lab.demo.world import World
from tests.lab.conftest import POOL

pytestmark = pytest.mark.root
SPACE = "shop"
SGCS = "staticgatewayconfigurations"


async def prefix_of(world: World, name: str) -> ipaddress.IPv4Network:
    """A configuration of the namespace; returns the prefix that it got."""
    document = {
        "apiVersion": names.API_VERSION,
        "kind": "StaticGatewayConfiguration",
        "metadata": {"name": name, "namespace": SPACE},
        "spec": {"gatewayNodepoolName": POOL, "provisionPublicIps": True},
    }
    await world.kube.apply(document, resource=SGCS)

    def ready(found: dict[str, Any] | None) -> bool:
        conditions = (found or {}).get("status", {}).get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    found = await world.kube.wait_for(SGCS, name, ready, namespace=SPACE, timeout=180)
    assert found is not None
    return ipaddress.IPv4Network(found["status"]["egressIpPrefix"])


async def source_of(
    world: World, name: str, configuration: str | None, *, namespace: str = SPACE
) -> ipaddress.IPv4Address:
    """Where the one request of a pod came from; its annotation is ``configuration``."""
    meta: dict[str, Any] = {"name": name, "namespace": namespace}
    if configuration is not None:
        meta["annotations"] = {names.POD_ANNOTATION: configuration}
    command = ["curl", "-sS", "--max-time", "30", "http://ifconfig.me"]
    container = {"name": "main", "image": "curl", "command": command}
    spec = {"restartPolicy": "Never", "containers": [container]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
    await world.kube.create("pods", pod)
    await world.kube.wait_for(
        "pods",
        name,
        lambda p: (p or {}).get("status", {}).get("phase") in ("Succeeded", "Failed"),
        namespace=namespace,
        timeout=120,
    )
    return ipaddress.IPv4Address((await world.kube.logs(namespace, name)).strip())


async def removed(world: World, *configurations: str) -> None:
    await world.kube.delete("namespaces", SPACE)
    for name in configurations:
        await world.kube.wait_for(SGCS, name, lambda c: c is None, namespace=SPACE, timeout=180)


async def test_a_namespaces_annotation_is_its_pods_way_out(world: World) -> None:
    annotations = {names.POD_ANNOTATION: "usual"}
    meta = {"name": SPACE, "annotations": annotations}
    await world.kube.create(
        "namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}
    )
    usual, other = await asyncio.gather(prefix_of(world, "usual"), prefix_of(world, "other"))
    assert await source_of(world, "unannotated", None) in usual
    assert await source_of(world, "choosing", "other") in other
    ordinary = await source_of(world, "ordinary", None, namespace="default")
    assert ordinary not in usual
    assert ordinary not in other
    assert await source_of(world, "opted-out", "") == ordinary
    untouched = await world.kube.get("pods", "ordinary", namespace="default")
    assert "annotations" not in untouched["metadata"]
    assert "nodeSelector" not in untouched["spec"]
    await world.kube.delete("pods", "ordinary", namespace="default", grace_seconds=0)
    await removed(world, "usual", "other")
