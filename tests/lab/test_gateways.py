"""Gateways that are lost by halves, and gateways that go by plan, in the whole system."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway_lab.demo.traffic import Traffic
from egress_gateway_lab.demo.world import World, until
from tests.lab.conftest import configured
from tests.lab.test_bad_input import remove
from tests.lab.test_promises import WHATSMYIP, sources

pytestmark = pytest.mark.root
_CONNECTIONS = 20
IFCONFIG = "198.51.100.10"
_HOLD_OPEN = f"""
for i in $(seq {_CONNECTIONS}); do exec {{f}}<>/dev/tcp/ifconfig.me/7; fds="$fds $f"; done
while :; do
  n=0
  for f in $fds; do echo hi >&$f; read -r -t 20 -u $f x && n=$((n+1)); done
  echo "alive $n"
  sleep 0.2
done
"""


async def gateway_of(world: World, configuration: str, address: str) -> str:
    """The node whose public address for the configuration it is."""
    sgc = await world.kube.get("staticgatewayconfigurations", configuration, namespace="default")
    gateways = sgc["status"]["gateways"]
    found: str = next(g["node"] for g in gateways if g["publicIp"] == address)
    return found


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
async def test_a_gateway_that_is_cut_one_way_is_left_within_seconds(
    world: World, direction: str
) -> None:
    """Requests arrive and replies do not, or the other way round: for pods it is lost."""
    name = f"half-{direction}"
    prefix = ipaddress.ip_network(await configured(world, name))
    (pod,) = await world.deploy(name, configuration=name, replicas=1)
    before = await world.curl(pod, f"{WHATSMYIP}/{name}/")
    node = await gateway_of(world, name, before)
    async with Traffic(world, pod, WHATSMYIP) as traffic:

        async def several() -> bool:
            return traffic.last_address == before

        await until(several, timeout=120, what="answers before the cut")
        await world.control.call("cut", node=node, direction=direction)
        cut_at = time.time()
        try:

            async def elsewhere() -> bool:
                return traffic.last_address not in (None, before)

            # No load balancer leads it there: its tunnel ends at the gateway's own address.
            await until(elsewhere, timeout=120, what="answers by the other gateway")
            print(f"cut {direction}: {traffic.outage(cut_at):.3f} s without an answer")
        finally:
            await world.control.call("mend", node=node)
    for address in await sources(world, f"/{name}/"):
        assert ipaddress.ip_address(address) in prefix
    await world.kube.delete("deployments", name, namespace="default")
    await remove(world, name)


async def test_a_cordoned_gateway_keeps_its_connections_and_gets_no_new_ones(world: World) -> None:
    prefix = ipaddress.ip_network(await configured(world, "drain"))
    (pod,) = await world.deploy("drain", configuration="drain", replicas=1)
    before = await world.curl(pod, WHATSMYIP)
    node = await gateway_of(world, "drain", before)
    alive: list[int] = []
    holding = asyncio.create_task(hold_open(world, pod, alive))

    async def opened() -> bool:
        return _CONNECTIONS in alive

    try:
        await until(opened, timeout=120, what="connections to be open")
        await cordon(world, node, True)

        async def elsewhere() -> bool:
            address = await world.curl(pod, WHATSMYIP)
            assert ipaddress.ip_address(address) in prefix
            return address != before

        await until(elsewhere, timeout=120, what="new connections to go elsewhere")
        seen = len(alive)

        async def looked_again() -> bool:
            return len(alive) > seen + 5

        await until(looked_again, timeout=120, what="the connections to be asked again")
        assert set(alive[alive.index(_CONNECTIONS) :]) == {_CONNECTIONS}
    finally:
        holding.cancel()
        await cordon(world, node, False)
    await world.kube.delete("deployments", "drain", namespace="default")
    await remove(world, "drain")


async def hold_open(world: World, pod: str, alive: list[int]) -> None:
    """Connections that are used all the time; ``alive`` gets how many of them answer."""
    heard = b""
    async for chunk in world.kube.exec_stream("default", pod, ["bash", "-c", _HOLD_OPEN]):
        heard += chunk
        alive[:] = [int(n) for n in re.findall(rb"alive (\d+)\n", heard)]


async def cordon(world: World, node: str, cordoned: bool) -> None:
    patch: dict[str, Any] = {"spec": {"unschedulable": cordoned or None}}
    await world.kube.patch("nodes", node, patch)


async def test_a_gateway_whose_internet_side_is_dead_is_left(world: World) -> None:
    """Its node side lives, so no probe of the node side would ever tell."""
    await ask_the_internet(world, f"{IFCONFIG}:80")
    prefix = ipaddress.ip_network(await configured(world, "outside"))
    (pod,) = await world.deploy("outside", configuration="outside", replicas=1)
    before = await world.curl(pod, WHATSMYIP)
    node = await gateway_of(world, "outside", before)
    async with Traffic(world, pod, WHATSMYIP) as traffic:

        async def answered() -> bool:
            return traffic.last_address == before

        await until(answered, timeout=120, what="answers before the cut")
        await world.control.call("cut", node=node, direction="internet")
        cut_at = time.time()
        try:

            async def elsewhere() -> bool:
                return traffic.last_address not in (None, before)

            await until(elsewhere, timeout=120, what="answers by the other gateway")
            print(f"cut internet: {traffic.outage(cut_at):.3f} s without an answer")
        finally:
            await world.control.call("mend", node=node)
            await ask_the_internet(world, None)
    assert ipaddress.ip_address(traffic.last_address or "") in prefix
    await world.kube.delete("deployments", "outside", namespace="default")
    await remove(world, "outside")


async def ask_the_internet(world: World, target: str | None) -> None:
    """``helm upgrade`` with or without ``internet_targets``; returns when it has rolled out."""
    where = {"namespace": names.SYSTEM_NAMESPACE}
    name = "EGRESS_GATEWAY_INTERNET_TARGETS"
    found = await world.kube.get("daemonsets", "egress-gateway-gateway", **where)
    containers = found["spec"]["template"]["spec"]["containers"]
    kept = [e for e in containers[0]["env"] if e["name"] != name]
    containers[0]["env"] = [*kept, *([{"name": name, "value": target}] if target else [])]
    patch = {"spec": {"template": {"spec": {"containers": containers}}}}
    await world.kube.patch("daemonsets", "egress-gateway-gateway", patch, **where)

    async def rolled_out() -> bool:
        found = await world.kube.get("daemonsets", "egress-gateway-gateway", **where)
        status = found.get("status", {})
        return bool(
            status.get("observedGeneration") == found["metadata"]["generation"]
            and status.get("updatedNumberScheduled") == status.get("desiredNumberScheduled")
            and status.get("numberReady") == status.get("desiredNumberScheduled")
        )

    await until(rolled_out, timeout=120, what="the gateway agents to be replaced")
