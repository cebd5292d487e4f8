"""Pools of virtual machines and private mode, with real packets."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from egress_gateway_lab.demo.world import NETWORK_CONTRIBUTOR, VM_SIZE, World, until
from tests.lab.conftest import POOL
from tests.lab.test_bad_input import remove

pytestmark = pytest.mark.root
INTERNET = "http://ifconfig.me"
COMPANY = "http://whoami.corp.example"
"""A host that is reached without the Internet and answers the address that it saw."""


async def add_machines(world: World, name: str, *, count: int) -> None:
    """``az aks nodepool add --vm-set-type VirtualMachines --mode gateway``."""
    properties = {
        "count": count,
        "mode": "Gateway",
        "vmSize": VM_SIZE,
        "osType": "Linux",
        "type": "VirtualMachines",
        "gatewayProfile": {"publicIPPrefixSize": 30},
    }
    pool = f"{world.cluster_id}/agentPools/{name}"
    await world.arm.put(pool, {"properties": properties}, "2026-06-01")


async def ready(world: World, name: str, spec: dict[str, Any], *, gateways: int) -> dict[str, Any]:
    """Applies a configuration and waits until that many gateways serve it."""
    await world.configure(name, spec)
    sgc = await world.configuration_condition(
        name,
        lambda c: (c["type"], c["reason"]) == ("GatewaysReady", "AllGatewaysReady"),
        timeout=180,
    )
    assert len(sgc["status"]["gateways"]) == gateways
    status: dict[str, Any] = sgc["status"]
    return status


async def addresses(world: World) -> set[str]:
    group = await world.node_group_id()
    path = f"{group}/providers/Microsoft.Network/publicIPAddresses"
    return {item["name"] for item in await world.arm.list(path, "2024-05-01")}


async def refuses_the_internet(world: World, pod: str) -> bool:
    result = await world.kube.exec("default", pod, ["curl", "-s", "--max-time", "4", INTERNET])
    return result.code != 0


async def test_pods_leave_by_the_machines_own_addresses(world: World) -> None:
    """From a brought prefix to the Internet; privately to the company; nothing is left over."""
    before = await addresses(world)
    await add_machines(world, "npvms", count=2)
    made = await world.create_prefix("pip-vms", length=30)
    scope = world.prefix_id("pip-vms")
    cluster = await world.arm.get(world.cluster_id, "2026-06-01")
    await world.grant(cluster["identity"]["principalId"], NETWORK_CONTRIBUTOR, scope)
    pool = {"gatewayNodepoolName": "npvms"}
    public = await ready(world, "vmpub", pool | {"publicIpPrefixId": scope}, gateways=2)
    private = await ready(world, "vmpriv", pool | {"provisionPublicIps": False}, gateways=2)

    assert public["egressIpPrefix"] == made["properties"]["ipPrefix"]
    (pod,) = await world.deploy("vmpub", configuration="vmpub", replicas=1)
    network = ipaddress.ip_network(public["egressIpPrefix"])
    assert ipaddress.ip_address(await world.curl(pod, INTERNET)) in network
    shown = {g["publicIp"] for g in public["gateways"]}
    assert await world.curl(pod, INTERNET) in shown

    secondaries = {g["secondaryIp"] for g in private["gateways"]}
    # AKS makes a NIC for each address of the pool; all are listed, those without a machine too.
    listed = set(private["egressIpPrefix"].split(","))
    assert len(listed) == 4
    assert secondaries < listed
    (pod,) = await world.deploy("vmpriv", configuration="vmpriv", replicas=1)
    assert await world.curl(pod, COMPANY) in secondaries
    assert await refuses_the_internet(world, pod)

    for name in ("vmpub", "vmpriv"):
        await world.kube.delete("deployments", name, namespace="default")
    await remove(world, "vmpub", "vmpriv")
    assert await addresses(world) == before
    await world.arm.delete(f"{world.cluster_id}/agentPools/npvms", "2026-06-01")


async def test_private_mode_on_a_scale_set_and_back_to_public(world: World) -> None:
    spec = {"gatewayNodepoolName": POOL, "provisionPublicIps": False}
    status = await ready(world, "quiet", spec, gateways=2)
    (pod,) = await world.deploy("quiet", configuration="quiet", replicas=1)
    secondaries = {g["secondaryIp"] for g in status["gateways"]}
    assert await world.curl(pod, COMPANY) in secondaries
    assert await refuses_the_internet(world, pod)

    await world.configure("quiet", spec | {"provisionPublicIps": True})

    async def public() -> Any:
        sgc = await world.kube.get("staticgatewayconfigurations", "quiet", namespace="default")
        said = sgc["status"]["egressIpPrefix"]
        # Beside the prefix it names the private address of a gateway that still uses it.
        return "/" in said and "," not in said and sgc["status"]

    status = await until(public, timeout=120, what="public addresses alone")

    async def answered() -> bool:
        return not await refuses_the_internet(world, pod)

    await until(answered, timeout=120, what="the way to the Internet")
    seen = ipaddress.ip_address(await world.curl(pod, INTERNET))
    assert seen in ipaddress.ip_network(status["egressIpPrefix"])
    await world.kube.delete("deployments", "quiet", namespace="default")
    await remove(world, "quiet")
