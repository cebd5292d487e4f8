"""What running pods do is told while they run: on the pod, on the configuration, by ``status``."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from egress_gateway_lab.demo.world import World, until
from tests.lab.conftest import POOL, configured
from tests.lab.test_bad_input import remove
from tests.lab.test_promises import WHATSMYIP

pytestmark = pytest.mark.root
_PATIENCE = 120
"""Seconds; what is promised is ten, and this machine is loaded."""


async def gateways(world: World) -> list[str]:
    return [n["metadata"]["name"] for n in await world.nodes(pool=POOL)]


@asynccontextmanager
async def cut(world: World, direction: str, *nodes: str) -> AsyncIterator[None]:
    for node in nodes:
        await world.control.call("cut", node=node, direction=direction)
    try:
        yield
    finally:
        for node in nodes:
            await world.control.call("mend", node=node)


async def told(world: World, pod: str, reason: str, begun: float) -> dict[str, Any]:
    """The pod's Event of that reason."""

    async def look() -> dict[str, Any] | None:
        events = await world.kube.list(
            "events", namespace="default", fields=f"involvedObject.name={pod}"
        )
        return next((e for e in events if e.get("reason") == reason), None)

    event: dict[str, Any] = await until(
        look, timeout=_PATIENCE, what=f"an Event {reason} on pod {pod}"
    )
    print(f"{reason} on {pod} after {time.monotonic() - begun:.1f} s")
    return event


async def state_of(world: World, pod: str) -> dict[str, Any]:
    found = await world.kube.find("podendpoints", pod, namespace="default")
    status: dict[str, Any] = (found or {}).get("status") or {}
    return status


async def becomes(world: World, pod: str, state: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        status = await state_of(world, pod)
        return status if status.get("state") == state else None

    found: dict[str, Any] = await until(look, timeout=_PATIENCE, what=f"pod {pod} to be {state}")
    return found


async def degraded(world: World, name: str, status: str, reason: str) -> dict[str, Any]:
    def wanted(c: dict[str, Any]) -> bool:
        return (c["type"], c["status"], c["reason"]) == ("Degraded", status, reason)

    return await world.configuration_condition(name, wanted, timeout=_PATIENCE)


async def healthy(world: World, name: str) -> None:
    """All gateways serve it: one that has yet to is arriving, and its loss none of redundancy."""
    await world.configuration_condition(
        name, lambda c: c["reason"] == "AllGatewaysReady", timeout=_PATIENCE
    )
    await degraded(world, name, "False", "AsExpected")


async def command(world: World, *arguments: str) -> tuple[int, str]:
    """``egress-gateway …`` as a person runs it: exit code, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "egress_gateway.cli.main", *arguments),
        *("--kubeconfig", str(world.lab.kubeconfig)),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def test_all_pods_lose_their_tunnels_and_everybody_is_told(world: World) -> None:
    """UDP 6000 to 6999 dropped at every gateway, as a mistake in a security group does it: the
    machines answer, no tunnel does."""
    await configured(world, "filtered")
    pods = await world.deploy("filtered", configuration="filtered", replicas=2)
    for pod in pods:
        before = await becomes(world, pod, "Connected")
        assert before["egressIp"] == await world.curl(pod, WHATSMYIP)
        assert before["gateway"] in await gateways(world)
    await healthy(world, "filtered")
    begun = time.monotonic()
    async with cut(world, "tunnels", *await gateways(world)):
        for pod in pods:
            lost = await told(world, pod, "EgressLost", begun)
            assert lost["type"] == "Warning"
            assert "UDP" in lost["message"], lost["message"]
            assert (await becomes(world, pod, "Lost"))["reason"] == "TunnelsUnanswered"
        await degraded(world, "filtered", "True", "PodsWithoutTunnel")
        print(f"Degraded after {time.monotonic() - begun:.1f} s")
        found = await world.configuration_condition(  # one pod's loss may be told first
            "filtered",
            lambda c: "0 of 2 pods have a working tunnel" in c["message"],
            timeout=_PATIENCE,
        )
        said = {c["type"]: c for c in found["status"]["conditions"]}
        assert said["Degraded"]["reason"] == "PodsWithoutTunnel"
        assert said["Ready"]["status"] == "False", said["Ready"]
        assert found["status"]["pods"] == {"attached": 2, "connected": 0}
        code, text = await command(world, "status")
        assert code == 1
        assert "TunnelsUnanswered" in text, text
    for pod in pods:
        event = await told(world, pod, "EgressRestored", begun)
        assert (event["type"], event.get("count", 1)) == ("Normal", 1)
        await becomes(world, pod, "Connected")
    await healthy(world, "filtered")
    await good_news_last(world, "filtered")
    code, text = await command(world, "status", "--output", "json")
    view = next(
        c for c in json.loads(text)["configurations"] if c["configuration"] == "default/filtered"
    )
    assert view["state"] == "Ready", view
    await world.kube.delete("deployments", "filtered", namespace="default")
    await remove(world, "filtered")


async def good_news_last(world: World, name: str) -> None:
    """The last Event of a healthy configuration is good news."""

    async def look() -> bool:
        events = await world.kube.list(
            "events", namespace="default", fields=f"involvedObject.name={name}"
        )
        events = [e for e in events if e["involvedObject"]["kind"] != "Pod"]
        # Their times are whole seconds.
        last = max(events, key=lambda e: int(e["metadata"]["resourceVersion"]))
        return bool(last["type"] == "Normal")

    await until(look, timeout=_PATIENCE, what="good news")


@pytest.mark.parametrize("direction", ["tunnels", "inbound"])
async def test_a_pod_that_moves_says_from_where_to_where(world: World, direction: str) -> None:
    name = f"moving-{direction}"
    await configured(world, name)
    (pod,) = await world.deploy(name, configuration=name, replicas=1)
    before = await becomes(world, pod, "Connected")
    begun = time.monotonic()
    async with cut(world, direction, before["gateway"]):
        event = await told(world, pod, "EgressMoved", begun)
        left = f"left {before['gateway']} ({before['egressIp']})"
        assert left in event["message"], event["message"]

        async def arrived() -> str:
            """It may have gone by the load balancer, on a machine that is busy."""
            status = await state_of(world, pod)
            address = status.get("egressIp", "")
            return address if address != before["egressIp"] else ""

        address = await until(arrived, timeout=_PATIENCE, what="the new address")
        assert address == await world.curl(pod, WHATSMYIP)

        async def named() -> bool:
            events = await world.kube.list(
                "events", namespace="default", fields=f"involvedObject.name={pod}"
            )
            moves = [e["message"] for e in events if e["reason"] == "EgressMoved"]
            return any(f"({address})" in message for message in moves)

        await until(named, timeout=_PATIENCE, what=f"an Event that names {address}")
    await world.kube.delete("deployments", name, namespace="default")
    await remove(world, name)


async def test_a_lost_gateway_is_lost_redundancy_until_it_is_back(world: World) -> None:
    await configured(world, "redundant")
    await healthy(world, "redundant")
    node = (await gateways(world))[0]
    async with cut(world, "both", node):
        found = await degraded(world, "redundant", "True", "RedundancyLost")
        said = next(c for c in found["status"]["conditions"] if c["type"] == "Degraded")
        assert "1 of 2 gateway nodes" in said["message"]
        assert "RedundancyLost" in await reasons(world, "redundant")
    await healthy(world, "redundant")
    await good_news_last(world, "redundant")
    await remove(world, "redundant")


async def test_one_gateway_that_no_pod_can_move_to_is_lost_redundancy(world: World) -> None:
    """UDP dropped at one gateway: machines answer, pods move and work, and nothing is left that
    uses the path."""
    await configured(world, "lonely")
    (pod,) = await world.deploy("lonely", configuration="lonely", replicas=1)
    node = (await becomes(world, pod, "Connected"))["gateway"]
    await healthy(world, "lonely")
    begun = time.monotonic()
    async with cut(world, "tunnels", node):
        found = await degraded(world, "lonely", "True", "RedundancyLost")
        print(f"Degraded after {time.monotonic() - begun:.1f} s")
        said = {c["type"]: c for c in found["status"]["conditions"]}
        assert f"{node}: 1 of 1 nodes" in said["Degraded"]["message"]
        assert said["Ready"]["status"] == "True"
        assert "RedundancyLost" in await reasons(world, "lonely")
        code, text = await command(world, "status")
        assert code == 1
        assert f"gateway {node}  NOT SERVING (NotReached)" in text, text
        _, text = await command(world, "check")
        assert "EG207" in text
        code, text = await command(world, "trace", pod, "--no-probe")
        assert code == 1
        assert "✗ redundancy" in text, text
        assert await world.curl(pod, WHATSMYIP)
    await healthy(world, "lonely")
    print(f"AsExpected after {time.monotonic() - begun:.1f} s")
    await good_news_last(world, "lonely")
    await world.kube.delete("deployments", "lonely", namespace="default")
    await remove(world, "lonely")


async def reasons(world: World, name: str) -> set[str]:
    """Of the configuration's Events."""

    async def look() -> set[str] | None:
        events = await world.kube.list(
            "events", namespace="default", fields=f"involvedObject.name={name}"
        )
        found = {e["reason"] for e in events}
        return found if "RedundancyLost" in found else None

    found: set[str] = await until(look, timeout=_PATIENCE, what="the loss to be told")
    return found


def told_of(line: str) -> set[str]:
    """The addresses of a line of tcpdump, with and without a port."""
    words = [word.rstrip(":") for word in line.split()]
    return {*words, *(word.rpartition(".")[0] + "." for word in words)}


async def test_a_hop_of_a_traced_pod_is_written_as_a_file_that_tcpdump_reads(
    world: World, tmp_path: Path
) -> None:
    await configured(world, "heard")
    pod, other = await world.deploy("heard", configuration="heard", replicas=2)
    for name in (pod, other):
        await becomes(world, name, "Connected")
    endpoint = await world.kube.get("podendpoints", pod, namespace="default")
    own = endpoint["spec"]["podIpAddress"]
    sgc = await world.kube.get("staticgatewayconfigurations", "heard", namespace="default")
    used = endpoint["status"]["gateway"]
    (secondary,) = [g["secondaryIp"] for g in sgc["status"]["gateways"] if g["node"] == used]
    for hop, address in (("tunnel", own), ("gateway", own), ("address", secondary)):
        file = tmp_path / f"{hop}.pcap"
        options = ("--pcap", hop, "--write", str(file), "--packets", "40", "--seconds", "60")
        code, said = await command(world, "trace", pod, *options)
        assert code == 0, said
        done = await asyncio.to_thread(
            subprocess.run,
            ["tcpdump", "-nr", str(file)],
            capture_output=True,
            text=True,
            check=True,
        )
        lines = done.stdout.splitlines()
        assert len(lines) == 40, (hop, lines)
        # Beside what trace sends, the agent's own echoes to the gateway.
        assert all({address, f"{address}."} & told_of(line) for line in lines), (hop, lines)
        assert any(".3478" in line or ".19302" in line for line in lines), (hop, lines)
    quiet = ("--pcap", "pod", "--seconds", "1", "--no-probe", "--write", str(tmp_path / "quiet"))
    assert (await command(world, "trace", pod, *quiet))[0] == 0
    assert (await command(world, "trace", pod, "--pcap", "azure"))[0] == 2
    assert (await command(world, "trace", "nobody", "--pcap", "pod"))[0] == 1
    await world.kube.delete("deployments", "heard", namespace="default")
    await remove(world, "heard")
