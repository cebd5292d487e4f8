"""What happens to pods and packets, told as scenarios. Run by ``test_agent.py``."""

from __future__ import annotations

import asyncio
import json

import pytest

from egress_gateway.node import metrics
from tests.node.world import RUN, CniError, RunningPod, World, sh, until


async def started_means_working() -> None:
    world = World()
    world.build()
    world.configure()
    async with world.running():
        plain = await world.start_pod("plain", annotation=None)
        pod = await world.start_pod("web")
        assert await pod.whoami() in {g.public for g in world.gateways}
        assert await plain.whoami() == "10.224.0.4"
        [endpoint] = world.endpoints.values()
        assert endpoint.spec.pod_uid == pod.uid
        assert endpoint.spec.pod_ip_address == pod.result["ips"][0]["address"].split("/")[0]
        await pod.delete()
        await plain.delete()
        assert world.endpoints.values() == []
        await until(lambda: not any((RUN / "attached").iterdir()))
        assert not any((RUN / "pods").iterdir())
        links = json.loads(sh("ip -j link"))
        assert not [link for link in links if link["ifname"].startswith("egw")]
        assert "egress_gateway" not in sh("nft list tables")


async def gateway_learns_late() -> None:
    world = World()
    world.build()
    world.configure()
    world.api.delay = 0.4
    async with world.running():
        pod = await world.start_pod("late")
        assert await pod.whoami() in {g.public for g in world.gateways}


async def many_at_once() -> None:
    world = World()
    world.build()
    world.configure()
    async with world.running():
        pods = await asyncio.gather(*(world.start_pod(f"p{i}") for i in range(8)))
        seen = await asyncio.gather(*(pod.whoami() for pod in pods))
        assert set(seen) <= {g.public for g in world.gateways}, seen


async def unknown_configuration() -> None:
    world = World()
    world.build()
    world.settings = world.settings.__class__(
        node_name="node-1", run_dir=str(RUN), attach_timeout=0.2, resync_interval=0.3
    )
    async with world.running():
        pod = RunningPod(world, "lost")
        pod.annotate("nowhere")
        with pytest.raises(CniError, match="default/nowhere does not exist") as refused:
            await pod.add()
        assert refused.value.code == 11
        assert ("default/lost", "EgressNotReady") in [e[:2] for e in world.recorder.events]


async def configuration_arrives_while_waiting() -> None:
    world = World()
    world.build()
    async with world.running():
        pod = RunningPod(world, "early")
        pod.annotate("egress")
        adding = asyncio.create_task(pod.add())
        await asyncio.sleep(0.2)
        world.configure()
        await adding
        assert await pod.whoami() in {g.public for g in world.gateways}


async def lost_gateway_is_left_at_once() -> None:
    world = World()
    world.build()
    world.configure()
    async with world.running():
        pod = await world.start_pod("web")
        first = world.gateway_of(await pod.whoami())
        [other] = [g for g in world.gateways if g is not first]
        loop = asyncio.get_running_loop()
        first.cut()
        cut_at = loop.time()
        seen = ""
        while not seen:
            seen = await pod.whoami(timeout=0.1)
        print(f"failover took {loop.time() - cut_at:.3f} s")
        assert seen == other.public
        # The one that was left comes back, and may not take the pod: its address stays.
        sh("ip link set eth0 up; ip route replace default via 10.224.0.200", ns=first.name)
        await asyncio.sleep(1.5)
        assert await pod.whoami() == other.public


async def gateway_that_answers_probes_but_no_handshake() -> None:
    world = World()
    world.build()
    world.configure()
    async with world.running():
        pod = await world.start_pod("a")
        deaf = world.gateway_of(await pod.whoami())
        deaf.refuse_handshakes()
        pods = await asyncio.gather(*(world.start_pod(f"p{i}") for i in range(6)))
        seen = {await p.whoami() for p in pods}
        assert seen == {g.public for g in world.gateways if g is not deaf}


async def restarted_agent_moves_nobody() -> None:
    world = World()
    world.build()
    world.configure()
    async with world.running():
        pods = [await world.start_pod(f"p{i}") for i in range(4)]
        before = [await pod.whoami() for pod in pods]
        moves = metrics.MOVES._value.get()
        await world.stop_agent()
        assert [await pod.whoami() for pod in pods] == before
        await world.start_agent()
        await asyncio.sleep(0.5)
        assert [await pod.whoami() for pod in pods] == before
        assert metrics.MOVES._value.get() == moves
        await pods[0].delete()
        assert len(world.endpoints.values()) == 3


async def deleted_while_the_agent_is_away() -> None:
    world = World()
    world.build()
    world.configure()
    async with world.running():
        pod = await world.start_pod("web")
        await world.stop_agent()
        await pod.delete()
        await world.start_agent()
        await until(lambda: not world.endpoints.values())
        await until(lambda: not any((RUN / "attached").iterdir()))


async def running_pod_follows_its_annotation() -> None:
    world = World()
    world.build()
    world.configure()
    async with world.running():
        pod = await world.start_pod("web", annotation=None)
        assert await pod.whoami() == "10.224.0.4"
        pod.annotate("egress")
        await until(lambda: world.agent.sandboxes and world.agent.sandboxes[0].verified.is_set())
        assert await pod.whoami() in {g.public for g in world.gateways}
        pod.annotate(None)
        await until(lambda: not world.agent.sandboxes)
        assert await pod.whoami() == "10.224.0.4"


async def running_pod_follows_its_configuration() -> None:
    world = World()
    world.build()
    world.configure()
    async with world.running():
        pod = await world.start_pod("web")
        world.configure(exclude_cidrs=["198.51.100.0/24"])
        await until_seen(pod, {"10.224.0.4"})
        world.configure()
        await until_seen(pod, {g.public for g in world.gateways})
        world.configurations.put("default", "egress", None)
        await asyncio.sleep(0.5)
        assert await pod.whoami(timeout=1) != "10.224.0.4"


async def until_seen(pod: RunningPod, wanted: set[str]) -> None:
    """What the Internet sees of the pod is one of ``wanted``, after a while."""
    async with asyncio.timeout(20):
        while await pod.whoami(timeout=1) not in wanted:
            await asyncio.sleep(0.05)


async def damage_is_repaired() -> None:
    world = World()
    world.build()
    world.configure()
    async with world.running():
        pod = await world.start_pod("web")
        sh("ip link delete wg0", ns=pod.ns)
        sh("nft flush ruleset", ns=pod.ns)
        await until_seen(pod, {g.public for g in world.gateways})
        ruleset = sh("nft list ruleset", ns=pod.ns)
        assert "drop" in ruleset


async def configuration_deleted_holds_the_pod() -> None:
    world = World()
    world.build()
    world.configure()
    async with world.running():
        pod = await world.start_pod("web", annotation=None)
        pod.annotate("missing")
        await until(lambda: world.recorder.events)
        await until_seen(pod, {""})
