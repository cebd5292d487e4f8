"""AKS's LocalDNS: pods ask a link-local address of their node, and pods with a gateway do too."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway_lab.demo.world import VM_SIZE, World
from tests.lab.conftest import POOL
from tests.lab.test_bad_input import remove

pytestmark = pytest.mark.root
WORKERS = "npdns"
INTERNET = "http://ifconfig.me"
VERSION = "2026-06-01"


async def workers(world: World, mode: str) -> dict[str, Any]:
    """``az aks nodepool add --localdns-config``, and ``update`` of the same."""
    properties = {
        "count": 1,
        "mode": "User",
        "vmSize": VM_SIZE,
        "osType": "Linux",
        "type": "VirtualMachineScaleSets",
        "localDNSProfile": {"mode": mode},
    }
    path = f"{world.cluster_id}/agentPools/{WORKERS}"
    return await world.arm.put(path, {"properties": properties}, VERSION)


async def pod(world: World, name: str, configuration: str | None = None) -> None:
    meta: dict[str, Any] = {"name": name, "namespace": "default"}
    if configuration:
        meta["annotations"] = {names.POD_ANNOTATION: configuration}
    spec = {
        "terminationGracePeriodSeconds": 0,
        "nodeSelector": {names.AKS_POOL_LABEL: WORKERS},
        "containers": [{"name": "main", "image": "nginx"}],
    }
    await world.kube.create("pods", {"kind": "Pod", "metadata": meta, "spec": spec})
    await world.pod_ready(name, timeout=120)


async def resolver(world: World, name: str) -> str:
    found = await world.kube.exec("default", name, ["cat", "/etc/resolv.conf"])
    lines = (line.split() for line in found.stdout.decode().splitlines())
    return next(words[1] for words in lines if words[:1] == ["nameserver"])


@pytest.mark.parametrize("default_route", ["staticEgressGateway", "azureNetworking"])
async def test_pods_with_a_gateway_resolve_by_their_node_s_own_resolver(
    world: World, default_route: str
) -> None:
    shown = await workers(world, "Required")
    assert shown["properties"]["localDNSProfile"]["state"] == "Enabled"
    spec: dict[str, Any] = {"gatewayNodepoolName": POOL, "defaultRoute": default_route}
    if default_route == "azureNetworking":  # what is named here goes to the gateway
        spec["excludeCidrs"] = ["0.0.0.0/0"]
    await world.configure("dns", spec)
    sgc = await world.configuration_condition(
        "dns", lambda c: (c["type"], c["status"]) == ("Ready", "True"), timeout=120
    )
    prefix = ipaddress.ip_network(sgc["status"]["egressIpPrefix"])
    await pod(world, "plain")
    await pod(world, "by-gateway", "dns")
    for name in ("plain", "by-gateway"):
        assert await resolver(world, name) == "169.254.10.11"
        seen = ipaddress.ip_address(await world.curl(name, INTERNET))
        assert (seen in prefix) == (name == "by-gateway")
    for name in ("plain", "by-gateway"):
        await world.kube.delete("pods", name, namespace="default")
    await remove(world, "dns")
    await world.arm.delete(f"{world.cluster_id}/agentPools/{WORKERS}", VERSION)
