"""Each promise of the design, touched once with real packets through the whole system."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway_lab.demo.world import World, until
from tests.lab.conftest import POOL, configured
from tests.lab.test_bad_input import annotated, remove

pytestmark = pytest.mark.root
WHATSMYIP = "http://ifconfig.me"


async def finished(world: World, name: str, *, timeout: float = 120) -> str:
    """Waits until a pod that runs to its end has done so; returns its log."""
    await world.kube.wait_for(
        "pods",
        name,
        lambda p: (p or {}).get("status", {}).get("phase") in ("Succeeded", "Failed"),
        namespace="default",
        timeout=timeout,
    )
    return await world.kube.logs("default", name)


def once(name: str, configuration: str, command: list[str]) -> dict[str, Any]:
    """An annotated pod whose only process is ``command``."""
    pod = annotated(name, configuration, restartPolicy="Never")
    pod["spec"]["containers"] = [{"name": "main", "image": "curl", "command": command}]
    return pod


async def sources(world: World, path_prefix: str) -> set[str]:
    requests = await world.control.call("requests", path_prefix=path_prefix)
    return {r["source"] for r in requests}


async def test_started_means_working(world: World) -> None:
    """The pod's first process is a request, and it is answered, at once, from the prefix."""
    prefix = ipaddress.ip_network(await configured(world, "first"))
    for n in range(3):
        command = ["curl", "-sS", "--max-time", "4", f"{WHATSMYIP}/first/{n}"]
        await world.kube.create("pods", once(f"first-{n}", "first", command))
    for n in range(3):
        log = await finished(world, f"first-{n}")
        assert ipaddress.ip_address(log.strip()) in prefix, log
    for address in await sources(world, "/first/"):
        assert ipaddress.ip_address(address) in prefix
    for n in range(3):
        await world.kube.delete("pods", f"first-{n}", namespace="default", grace_seconds=0)
    await remove(world, "first")


async def test_no_gateway_means_no_egress(world: World) -> None:
    """With every gateway cut off nothing leaves by the side; all comes back with them."""
    prefix = ipaddress.ip_network(await configured(world, "closed"))
    (pod,) = await world.deploy("closed", configuration="closed", replicas=1)
    assert ipaddress.ip_address(await world.curl(pod, f"{WHATSMYIP}/closed/")) in prefix
    gateways = [n["metadata"]["name"] for n in await world.nodes(pool="npegress")]
    for node in gateways:
        await world.control.call("cut", node=node, direction="both")
    try:
        result = await world.kube.exec(
            "default", pod, ["curl", "-s", "--max-time", "2", f"{WHATSMYIP}/closed/"]
        )
        assert result.code != 0
    finally:
        for node in gateways:
            await world.control.call("mend", node=node)

    async def answered() -> bool:
        result = await world.kube.exec(
            "default", pod, ["curl", "-s", "--max-time", "4", f"{WHATSMYIP}/closed/"]
        )
        return result.code == 0

    await until(answered, timeout=120, what="egress to come back with the gateways")
    for address in await sources(world, "/closed/"):
        assert ipaddress.ip_address(address) in prefix
    await world.kube.delete("deployments", "closed", namespace="default")
    await remove(world, "closed")


async def test_a_plain_pod_starts_and_works_with_all_of_ours_stopped(world: World) -> None:
    system = names.SYSTEM_NAMESPACE
    kinds = ("daemonsets", "deployments")
    saved = {k: await world.kube.list(k, namespace=system) for k in kinds}
    for kind, objects in saved.items():
        for item in objects:
            await world.kube.delete(kind, item["metadata"]["name"], namespace=system)

    async def stopped() -> bool:
        return not await world.kube.list("pods", namespace=system)

    try:
        await until(stopped, timeout=120, what="our pods to be gone")
        await world.run("untouched")
        assert await world.curl("untouched", WHATSMYIP)
        await world.kube.delete("pods", "untouched", namespace="default", grace_seconds=0)
    finally:
        for kind, objects in saved.items():
            for item in objects:
                for field in ("resourceVersion", "uid", "creationTimestamp", "managedFields"):
                    item["metadata"].pop(field, None)
                item.pop("status", None)
                await world.kube.create(kind, item, namespace=system)


async def test_running_pods_follow(world: World) -> None:
    """Annotating a running pod, and taking the annotation away, needs no restart."""
    prefix = ipaddress.ip_network(await configured(world, "live"))
    await world.run("runner")
    plain = await world.curl("runner", WHATSMYIP)
    assert ipaddress.ip_address(plain) not in prefix
    await annotate(world, "runner", "live")

    async def seen() -> str:
        result = await world.kube.exec(
            "default", "runner", ["curl", "-s", "--max-time", "4", WHATSMYIP]
        )
        return result.stdout.decode().strip()

    async def inside() -> bool:
        address = await seen()
        return bool(address) and ipaddress.ip_address(address) in prefix

    await until(inside, timeout=120, what="the annotated pod to leave from the prefix")
    await annotate(world, "runner", None)

    async def outside() -> bool:
        return await seen() == plain

    await until(outside, timeout=120, what="the pod to leave as before")
    await world.kube.delete("pods", "runner", namespace="default", grace_seconds=0)
    await remove(world, "live")


async def annotate(world: World, pod: str, configuration: str | None) -> None:
    patch = {"metadata": {"annotations": {names.POD_ANNOTATION: configuration}}}
    await world.kube.patch("pods", pod, patch, namespace="default")


async def test_packets_follow_azure_and_the_controller_mends_it(world: World) -> None:
    """An ipConfig deleted by hand stops its packets; the controller brings it back."""
    prefix = ipaddress.ip_network(await configured(world, "drift"))
    (pod,) = await world.deploy("drift", configuration="drift", replicas=1)
    assert ipaddress.ip_address(await world.curl(pod, WHATSMYIP)) in prefix
    sgc = await world.kube.get("staticgatewayconfigurations", "drift", namespace="default")
    name = names.managed(sgc["metadata"]["uid"])
    await remove_ip_configuration(world, name)

    async def refused() -> bool:
        result = await world.kube.exec(
            "default", pod, ["curl", "-s", "--max-time", "4", f"{WHATSMYIP}/drift/"]
        )
        return result.code != 0

    await until(refused, timeout=120, what="packets to stop without their address")

    async def answered() -> bool:
        return not await refused()

    await until(answered, timeout=100, what="the controller to mend the address")
    for address in await sources(world, "/drift/"):
        assert ipaddress.ip_address(address) in prefix
    await world.kube.delete("deployments", "drift", namespace="default")
    await remove(world, "drift")


async def remove_ip_configuration(world: World, name: str) -> None:
    """Deletes a configuration's ipConfig from the pool's instances, as a person could."""
    group = await world.node_group_id()
    sets = await world.arm.get(
        f"{group}/providers/Microsoft.Compute/virtualMachineScaleSets", "2024-07-01"
    )
    pool = next(s for s in sets["value"] if s["tags"][names.POOL_NAME_TAG] == POOL)
    instances = await world.arm.get(f"{pool['id']}/virtualMachines", "2024-07-01")
    for instance in instances["value"]:
        profile = instance["properties"]["networkProfileConfiguration"]
        for nic in profile["networkInterfaceConfigurations"]:
            configurations = nic["properties"]["ipConfigurations"]
            nic["properties"]["ipConfigurations"] = [c for c in configurations if c["name"] != name]
        body = {
            "location": pool["location"],
            "properties": {"networkProfileConfiguration": profile},
        }
        await world.arm.put(instance["id"], body, "2024-07-01")


async def test_agents_may_die_at_any_time(world: World) -> None:
    """Killing every agent of ours moves nobody and leaks nothing; new pods attach after."""
    prefix = ipaddress.ip_network(await configured(world, "killed"))
    (pod,) = await world.deploy("killed", configuration="killed", replicas=1)
    address = await world.curl(pod, f"{WHATSMYIP}/killed/")
    system = names.SYSTEM_NAMESPACE
    for item in await world.kube.list("pods", namespace=system):
        if "wireguard" not in item["metadata"]["name"]:
            await world.kube.delete(
                "pods", item["metadata"]["name"], namespace=system, grace_seconds=0
            )
    for _ in range(10):
        assert await world.curl(pod, f"{WHATSMYIP}/killed/") == address
        await asyncio.sleep(0.2)
    await world.deploy("killed-later", configuration="killed", replicas=1)
    for seen in await sources(world, "/killed/"):
        assert ipaddress.ip_address(seen) in prefix
    for name in ("killed", "killed-later"):
        await world.kube.delete("deployments", name, namespace="default")
    await remove(world, "killed")
