"""What happens to pods and packets, told as scenarios. Run by ``test_agent.py``."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import msgspec
import pytest
from prometheus_client import REGISTRY

from egress_gateway.api import keys
from egress_gateway.api.types import KeyRotation, ObjectMeta, RotationPhase
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux.echo import checksum
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.wireguard.initiator import Initiator
from egress_gateway.kube.resources import Pod, PodSpec, PodStatus
from egress_gateway.node.attachment.model import Attachment
from egress_gateway.node.liveness import paths
from egress_gateway.node.sandboxes.sandbox import Sandbox
from tests.attacks.packets.test_pod_on_a_gateway_node import datagram
from tests.node.world import (
    INTERNET6,
    NODE6,
    RUN,
    CniError,
    RunningPod,
    World,
    sh,
    until,
)

BACK = "ip link set eth0 up; ip route replace default via 10.224.0.200"
"""Ends a gateway's ``cut``."""


async def started_means_working(world: World) -> None:
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


async def many_at_once(world: World) -> None:
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
        await until(lambda: any((RUN / "pods").iterdir()))
        await world.rounds(1)
        assert not adding.done()
        world.configure()
        await adding
        assert await pod.whoami() in {g.public for g in world.gateways}


async def lost_gateway_is_left_at_once(world: World) -> None:
    pod = await world.start_pod("web")
    first = world.gateway_of(await pod.whoami())
    [other] = [g for g in world.gateways if g is not first]
    loop = asyncio.get_running_loop()
    first.cut()
    cut_at = loop.time()
    seen = ""
    while not seen:
        seen = await pod.whoami(timeout=1)
    print(f"failover took {loop.time() - cut_at:.3f} s")
    assert seen == other.public
    # The one that was left comes back, and may not take the pod: its address stays.
    sh(BACK, ns=first.name)
    await world.rounds(5)  # 1.5 s: three times the hold-down
    assert await pod.whoami() == other.public


async def gateways_lost_in_turn(how: str) -> None:
    """The other one is back, but has not served its hold-down, when the first is lost: nothing else
    is left, so it is good enough. The same once more."""
    paths.LOST = 600.0  # type: ignore[misc]
    world = World()
    world.build()
    world.configure()
    world.settings = msgspec.structs.replace(world.settings, hold_down=600.0)
    async with world.running():
        pod = await world.start_pod("web")
        at = world.gateway_of(await pod.whoami())
        [other] = [g for g in world.gateways if g is not at]
        for _ in range(3):
            at.refuse_handshakes() if how == "path" else at.cut()
            await until_seen(pod, {other.public})
            sh("nft delete table ip d" if how == "path" else BACK, ns=at.name)
            await world.rounds(5)
            assert await pod.whoami() == other.public, "it stays, whoever is back"
            at, other = other, at


async def gateway_that_answers_probes_but_no_handshake(world: World) -> None:
    pod = await world.start_pod("a")
    deaf = world.gateway_of(await pod.whoami())
    deaf.refuse_handshakes()
    pods = await asyncio.gather(*(world.start_pod(f"p{i}") for i in range(6)))
    seen = {await p.whoami() for p in pods}
    assert seen == {g.public for g in world.gateways if g is not deaf}


def moved() -> float:
    return sum(
        REGISTRY.get_sample_value("egress_gateway_node_moves_total", {"reason": reason}) or 0
        for reason in ("lost", "drained", "rotated")
    )


async def restarted_agent_moves_nobody(world: World) -> None:
    pods = [await world.start_pod(f"p{i}") for i in range(4)]
    before = [await pod.whoami() for pod in pods]
    moves = moved()
    await world.stop_agent()
    assert [await pod.whoami() for pod in pods] == before
    await world.start_agent()
    await world.rounds(2)
    assert [await pod.whoami() for pod in pods] == before
    assert moved() == moves
    await pods[0].delete()
    assert len(world.endpoints.values()) == 3


async def deleted_while_the_agent_is_away(world: World) -> None:
    pod = await world.start_pod("web")
    await world.stop_agent()
    await pod.delete()
    await world.start_agent()
    await until(lambda: not world.endpoints.values())
    await until(lambda: not any((RUN / "attached").iterdir()))


async def running_pod_follows_its_annotation(world: World) -> None:
    pod = await world.start_pod("web", annotation=None)
    assert await pod.whoami() == "10.224.0.4"
    pod.annotate("egress")
    await until(lambda: world.agent.sandboxes and world.agent.sandboxes[0].verified.is_set())
    assert await pod.whoami() in {g.public for g in world.gateways}
    pod.annotate(None)
    await until(lambda: not world.agent.sandboxes)
    assert await pod.whoami() == "10.224.0.4"


async def annotated_while_the_agent_is_away() -> None:
    """The first list tells of it, after the first look at all pods: nobody waits for the next."""
    world = World()
    world.build()
    world.settings = msgspec.structs.replace(world.settings, resync_interval=600.0)
    world.configure()
    async with world.running():
        pods = [await world.start_pod(f"web-{n}", annotation=None) for n in range(3)]
        await world.stop_agent()
        for pod in pods:
            pod.annotate("egress")
        world.pods.is_synced = False
        await world.start_agent()
        assert {await pod.whoami() for pod in pods} == {"10.224.0.4"}
        world.pods.listed()
        for pod in pods:
            await until_seen(pod, {g.public for g in world.gateways})


async def running_pod_follows_its_configuration(world: World) -> None:
    pod = await world.start_pod("web")
    world.configure(exclude_cidrs=["198.51.100.0/24"])
    await until_seen(pod, {"10.224.0.4"})
    world.configure()
    await until_seen(pod, {g.public for g in world.gateways})
    # The gateways of this world serve on, as one does whose agent is dead.
    world.configure(exclude_cidrs=["198.51.100.0/24"])
    await until_seen(pod, {"10.224.0.4"})
    world.configurations.put("default", "egress", None)
    await world.rounds(2)
    assert await pod.whoami() == "10.224.0.4", "what was excluded still is"


async def pods_of_a_deleted_configuration_are_held_back(world: World) -> None:
    """Also by nodes: a gateway whose agent is dead serves on, with an address that may be
    somebody else's by now."""
    pod = await world.start_pod("web")
    [found] = world.configurations.values()
    dying = msgspec.structs.replace(found.metadata, deletion_timestamp="2026-01-01T00:00:00Z")
    for one in (msgspec.structs.replace(found, metadata=dying), None):
        world.configure()
        await until_seen(pod, {g.public for g in world.gateways})
        world.configurations.put("default", "egress", one)
        await until_seen(pod, {""})
        await world.rounds(2)
        assert await pod.whoami(timeout=1) == ""


async def until_seen(pod: RunningPod, wanted: set[str]) -> None:
    """What the Internet sees of the pod is one of ``wanted``, after a while."""
    async with asyncio.timeout(90):
        while await pod.whoami(timeout=1) not in wanted:
            await asyncio.sleep(0.05)


async def damage_is_repaired(world: World) -> None:
    pod = await world.start_pod("web")
    sh("ip link delete wg0", ns=pod.ns)
    sh("nft flush ruleset", ns=pod.ns)
    await until_seen(pod, {g.public for g in world.gateways})
    ruleset = sh("nft list ruleset", ns=pod.ns)
    assert "drop" in ruleset


async def configuration_deleted_holds_the_pod(world: World) -> None:
    pod = await world.start_pod("web", annotation=None)
    pod.annotate("missing")
    await until(lambda: world.recorder.events)
    await until_seen(pod, {""})


def ask(connection: socket.socket) -> str:
    """The address that the Internet sees of an open connection."""
    connection.settimeout(60)
    connection.sendall(b"who\n")
    return connection.recv(99).decode().strip()


async def deaf_tunnel_is_left_though_the_machine_answers(world: World) -> None:
    """UDP is dropped on the way to the gateway; ping goes on."""
    pod = await world.start_pod("web")
    first = world.gateway_of(await pod.whoami())
    first.refuse_handshakes()
    loop = asyncio.get_running_loop()
    cut_at = loop.time()
    seen = ""
    while not seen:
        seen = await pod.whoami(timeout=1)
    print(f"failover took {loop.time() - cut_at:.3f} s")
    assert seen in {g.public for g in world.gateways if g is not first}
    assert world.agent.probed[first.address] == "alive"


@contextlib.asynccontextmanager
async def patient() -> AsyncIterator[World]:
    """A world whose drains leave a busy machine the time to look at what they keep."""
    world = World()
    world.build()
    world.configure()
    world.settings = msgspec.structs.replace(world.settings, drain_grace=15.0)
    async with world.running():
        yield world


async def planned_drain_keeps_connections() -> None:
    async with patient() as world:
        await _planned_drain(world)


async def _planned_drain(world: World) -> None:
    pod = await world.start_pod("web")
    first = world.gateway_of(await pod.whoami())
    [other] = [g for g in world.gateways if g is not first]
    old = [await asyncio.to_thread(pod.connect) for _ in range(20)]
    assert {ask(c) for c in old} == {first.public}
    world.veto(first, "Draining")
    async with asyncio.timeout(90):
        while (seen := await pod.whoami()) != other.public:
            # Until then it is the first one's: no request fails and none leaves by the side.
            assert seen == first.public
    new = await asyncio.to_thread(pod.connect)
    for _ in range(5):
        assert {ask(c) for c in old} == {first.public}
        assert ask(new) == other.public
        await asyncio.sleep(0.1)
    links = sh("ip -br link", ns=pod.ns)
    assert "wg0" in links
    assert "wg1" in links
    # The grace is over: the old tunnel goes, the new connection does not notice.
    await until(lambda: "wg0" not in sh("ip -br link", ns=pod.ns))
    assert ask(new) == other.public
    assert await pod.whoami() == other.public
    # Back again: the roles of the links are swapped.
    world.veto(first, None)
    world.veto(other, "Draining")
    await until_seen(pod, {first.public})
    assert ask(new) == other.public
    for connection in (*old, new):
        connection.close()
    await pod.delete()
    assert "egw" not in sh("ip -br link")


async def last_gateway_is_never_left_for_a_veto(world: World) -> None:
    pod = await world.start_pod("web")
    before = await pod.whoami()
    for gateway in world.gateways:
        world.veto(gateway, "InternetUnreachable")
    await world.rounds(2)
    settled = await pod.whoami()
    assert settled in {g.public for g in world.gateways}
    for gateway in world.gateways:
        world.veto(gateway, None)
    world.veto(world.gateway_of(settled), "InternetUnreachable")
    await until_seen(pod, {g.public for g in world.gateways} - {settled})
    assert before in {g.public for g in world.gateways}


async def restarted_agent_ends_a_drain() -> None:
    async with patient() as world:
        await _drained_across_a_restart(world)


async def _drained_across_a_restart(world: World) -> None:
    pod = await world.start_pod("web")
    first = world.gateway_of(await pod.whoami())
    old = await asyncio.to_thread(pod.connect)
    assert ask(old) == first.public
    world.veto(first, "Draining")
    await until(lambda: world.agent.sandboxes[0].attachment.parting)
    await world.stop_agent()
    assert ask(old) == first.public
    await world.start_agent()
    assert ask(old) == first.public
    await until(lambda: "wg0" not in sh("ip -br link", ns=pod.ns))
    assert await pod.whoami() in {g.public for g in world.gateways if g is not first}
    old.close()


async def key_pair_changes_under_open_connections(world: World) -> None:
    """A port that is closed at first, a new pod and a restart of the agent on the way."""
    pods = [await world.start_pod("web"), await world.start_pod("shop")]
    at = [world.gateway_of(await pod.whoami()) for pod in pods]
    open_ = [await asyncio.to_thread(pod.connect) for pod in pods for _ in range(10)]
    seen = [gateway.public for gateway in at for _ in range(10)]
    assert [ask(c) for c in open_] == seen
    old, new = world.pair, keys.generate()
    for gateway in world.gateways:
        gateway.serve_second(new, world.endpoints.values())
        gateway.deafen_second(True)

    def told(phase: RotationPhase, port: int, public: str) -> KeyRotation:
        return KeyRotation(request="1", phase=phase, port=port, public_key=public)

    def using(public: str) -> int:
        return sum(e.spec.gateway_public_key == public for e in world.endpoints.values())

    world.configure(rotation=told("Moving", 6001, new.public))
    await until(lambda: all(s.attachment.joining for s in world.agent.sandboxes))
    await until(lambda: all(s.joiner for s in world.agent.sandboxes))
    # Silence makes nobody leave the gateway, which works.
    asked = {s.attachment.id: s.joiner for s in world.agent.sandboxes}
    await until(lambda: all(s.joiner is not asked[s.attachment.id] for s in world.agent.sandboxes))
    states = [s.attachment for s in world.agent.sandboxes]
    assert [a.joining and a.joining.to for a in states] == [
        a.active and a.active.to for a in states
    ]
    # Nothing is given up for a server that does not answer, and new pods do not need it.
    pods.append(await world.start_pod("late"))
    assert using(old.public) == 3
    assert [ask(c) for c in open_] == seen
    await world.stop_agent()
    for gateway in world.gateways:
        gateway.deafen_second(False)
    await world.start_agent()
    await until(lambda: using(new.public) == 3)
    assert [ask(c) for c in open_] == seen
    profile = (6001, new.public)
    for phase in ("Retiring", "Closing"):
        rotation = told(phase, 6000, old.public)
        world.configure(server=profile, rotation=rotation)
        await world.rounds(2)
        assert [ask(c) for c in open_] == seen
    assert all(s.attachment.parting for s in world.agent.sandboxes)
    for gateway in world.gateways:
        gateway.stop_first()
    world.configure(server=profile, rotation=KeyRotation(request="1", phase="Done"))
    await until(lambda: not any("wg0" in sh("ip -br link", ns=p.ns) for p in pods))
    assert [ask(c) for c in open_] == seen
    assert [world.gateway_of(await pod.whoami()) for pod in pods[:2]] == at
    for connection in open_:
        connection.close()


async def pod_starts_held_back() -> None:
    """Where the configuration chooses so, a pod starts without a tunnel, and gets it later."""
    world = World()
    world.build()
    world.settings = msgspec.structs.replace(world.settings, attach_timeout=0.5)
    world.configure(start_policy="HeldBack")
    for gateway in world.gateways:
        gateway.refuse_handshakes()
    async with world.running():
        pod = await world.start_pod("early")
        assert "EgressNotReady" in [reason for _, reason, _ in world.recorder.events]
        assert await pod.whoami(timeout=0.5) == ""
        for gateway in world.gateways:
            sh("nft delete table ip d", ns=gateway.name)
        await until_seen(pod, {g.public for g in world.gateways})
        await pod.delete()


async def pod_from_before_the_plugin() -> None:
    """Its namespace was made when our plugin was not in the chain yet."""
    world = World()
    world.build()
    world.configure()
    pod = RunningPod(world, "old")
    pod.annotate(None)
    await pod.add()
    pod.remember()
    pod.annotate(None)
    async with world.running():
        assert await pod.whoami() == "10.224.0.4"
        pod.annotate("egress")
        await until_seen(pod, {g.public for g in world.gateways})
        assert world.recorder.events == []
        await pod.delete()
        await until(lambda: not world.agent.sandboxes)


async def restart_without_the_api_releases_nobody(world: World) -> None:
    """The runtime's record of a pod that was annotated while it ran names no configuration."""
    pod = await world.start_pod("web", annotation=None)
    pod.annotate("egress")
    await until_seen(pod, {g.public for g in world.gateways})
    await world.stop_agent()
    world.pods.is_synced = world.configurations.is_synced = False
    world.pods.put("default", "web", None)
    await world.start_agent()
    for _ in range(20):
        assert await pod.whoami() in {g.public for g in world.gateways}
        await asyncio.sleep(0.05)


async def changes_leave_other_connections_alone(world: World) -> None:
    """Exclusions change; connections whose way does not change go on, inbound and outbound."""
    pod = await world.start_pod("web", annotation=None)
    listening = pod.listen(8080)
    inbound = socket.create_connection((pod.address, 8080), timeout=60)
    served, _ = listening.accept()
    pod.annotate("egress")
    await until_seen(pod, {g.public for g in world.gateways})
    outbound = await asyncio.to_thread(pod.connect)
    before = ask(outbound)
    assert before in {g.public for g in world.gateways}
    for excluded in (["192.0.2.0/24"], ["192.0.2.0/24", "172.16.0.0/12"], []):
        world.configure(exclude_cidrs=excluded)

        def followed(wanted: list[str] = excluded) -> bool:
            attachment = world.agent.sandboxes[0].attachment
            return attachment.configuration.exclude_cidrs == wanted

        await until(followed)
        for source, sink in ((served, inbound), (inbound, served)):
            source.sendall(b"still here")
            sink.settimeout(60)
            assert await asyncio.to_thread(sink.recv, 99) == b"still here"
        assert await asyncio.to_thread(ask, outbound) == before
    loop = asyncio.get_running_loop()
    changed_at = loop.time()
    world.configure(exclude_cidrs=["198.51.100.0/24"])
    await until_seen(pod, {"10.224.0.4"})
    print(f"excluded after {loop.time() - changed_at:.3f} s")
    world.configure(exclude_cidrs=[])
    await until_seen(pod, {g.public for g in world.gateways})
    # What the cluster says of itself may change too: somebody gives Services another range.
    kept = world.settings.exceptions
    world.agent.spare_from_gateways((*kept, ip_network("198.51.100.0/24")))
    await until_seen(pod, {"10.224.0.4"})
    world.agent.spare_from_gateways(kept)
    await until_seen(pod, {g.public for g in world.gateways})
    pod.annotate(None)
    await until(lambda: not world.agent.sandboxes)
    served.sendall(b"to the end")
    assert await asyncio.to_thread(inbound.recv, 99) == b"to the end"
    for opened in (listening, inbound, served, outbound):
        opened.close()


def links_of_the_node(prefix: str) -> set[str]:
    found = json.loads(sh("ip -j link"))
    return {link["ifname"] for link in found if link["ifname"].startswith(prefix)}


async def tunnels_are_made_in_advance(world: World) -> None:
    first = await world.start_pod("first")
    await until(lambda: len(links_of_the_node("egspare")) == world.settings.spare_tunnels)
    ready = links_of_the_node("egspare")
    pod = await world.start_pod("web")
    [taken] = world.agent.sandboxes[1].attachment.names.values()
    assert taken in ready
    assert await pod.whoami() in {g.public for g in world.gateways}
    await until(lambda: len(links_of_the_node("egspare")) == world.settings.spare_tunnels)
    # The next agent takes them over, and leaves the pod its own.
    before = links_of_the_node("egspare")
    await world.stop_agent()
    await world.start_agent()
    await world.rounds(2)
    assert links_of_the_node("egspare") == before
    # Those that are lost (their host began anew, somebody deletes them) are made again: one of
    # them, all of them, and all of them at the moment at which a pod comes.
    for most in (1, world.settings.spare_tunnels):
        for name in sorted(links_of_the_node("egspare"))[:most]:
            sh(f"ip link delete {name}")
        await until(lambda: len(links_of_the_node("egspare")) == world.settings.spare_tunnels)
    for name in links_of_the_node("egspare"):
        sh(f"ip link delete {name}")
    at_once = await world.start_pod("at-once")
    assert await at_once.whoami() in {g.public for g in world.gateways}
    await at_once.delete()
    await until(lambda: len(links_of_the_node("egspare")) == world.settings.spare_tunnels)
    # Damage: the tunnel is made again under the name it had.
    sh("ip link delete wg0", ns=pod.ns)
    await until_seen(pod, {g.public for g in world.gateways})
    await pod.delete()
    await first.delete()
    assert links_of_the_node("egw") == set()
    # A node without attached pods looks as if we had never been there.
    await until(lambda: not links_of_the_node("egspare"))


async def ended_pod_sends_nothing_by_the_side(world: World, how: str) -> None:
    """Its sockets outlive it: they close, and repeat what was not acknowledged. However a pod ends,
    its namespace stays held until it is gone."""
    pod = await world.start_pod("web")
    publics = {g.public for g in world.gateways}
    assert await pod.whoami() in publics
    if how == "annotated":  # by a user, while it ran
        pod.annotate(None)
        await until_seen(pod, {"10.224.0.4"})
        pod.annotate("egress")
        await until_seen(pod, publics)
    if how == "finished":
        meta = ObjectMeta(name="web", namespace="default", uid=pod.uid)
        over = PodStatus(phase="Succeeded")
        world.pods.put(
            "default", "web", Pod(metadata=meta, spec=PodSpec(node_name="n"), status=over)
        )
    else:
        await pod.end()
    await until(lambda: not world.agent.sandboxes)
    for _ in range(3):
        assert await pod.whoami(timeout=0.3) == ""
    await world.rounds(2)
    assert await pod.whoami(timeout=0.3) == ""
    await pod.delete()


async def ipv6_follows_the_gateways() -> None:
    """A pod of both families: held back, carried, excluded, moved, and nothing left of it."""
    world = World()
    world.build(ipv6=True)
    world.configure()
    publics = {g.public6 for g in world.gateways}

    async with world.running():
        pod = await world.start_pod("web")

        async def seen(timeout: float = 1.0) -> str:
            return await pod.whoami(host=f"[{INTERNET6}]", timeout=timeout)

        assert len(pod.result["ips"]) == 2
        assert await pod.whoami() in {g.public for g in world.gateways}
        assert await seen() == "", "held back: the gateways have no address of IPv6"
        world.configure(ipv6=True)
        async with asyncio.timeout(90):
            while await seen() not in publics:
                await asyncio.sleep(0.05)
        world.configure(ipv6=True, exclude_cidrs=["2001:db8:ffff::/48"])
        async with asyncio.timeout(90):
            while (address := await seen()) != NODE6:
                assert address in publics | {""}, "the gateways' address or the node's, no other"
                await asyncio.sleep(0.05)
        world.configure(ipv6=True)
        async with asyncio.timeout(90):
            while (at := await seen()) not in publics:
                await asyncio.sleep(0.05)
        (lost,) = [g for g in world.gateways if g.public6 == at]
        lost.cut()
        async with asyncio.timeout(90):
            while (address := await seen()) not in publics - {lost.public6}:
                assert address in {"", lost.public6}, "never by the side"
        await world.stop_agent()
        assert await seen(30) in publics - {lost.public6}, "tunnels outlive the agent"
        await world.start_agent()
        pod.annotate(None)
        async with asyncio.timeout(90):
            while await seen() != NODE6:
                await asyncio.sleep(0.05)
        await pod.delete()


async def status_of_a_pod_follows_its_tunnel(world: World) -> None:
    """UDP filtered at all gateways, one after the other, and let through again."""

    def state() -> tuple[str, str]:
        status = world.endpoints.get("default", "web").status
        return status.state, status.egress_ip

    def told(reason: str) -> list[str]:
        return [m for pod, r, m in world.recorder.events if (pod, r) == ("default/web", reason)]

    pod = await world.start_pod("web")
    await until(lambda: state()[0] == "Connected")
    address = await pod.whoami()
    assert state() == ("Connected", address)
    await world.rounds(8)  # three looks and more: nothing is written at rest
    assert len(world.api.written) == 1
    first = world.gateway_of(address)
    first.refuse_handshakes()
    await until(lambda: state()[1] not in ("", address))
    (moved,) = told("EgressMoved")
    assert address in moved
    assert state()[1] in moved
    assert state()[1] == await pod.whoami()
    [other] = [g for g in world.gateways if g is not first]
    other.refuse_handshakes()
    await until(lambda: state()[0] == "Lost")
    assert world.endpoints.get("default", "web").status.reason == "TunnelsUnanswered"
    (lost,) = told("EgressLost")
    assert "UDP 6000 reaches gw" in lost
    assert f"{first.name} ({first.address})" in lost
    assert f"{other.name} ({other.address})" in lost
    assert told("EgressRestored") == []
    for gateway in world.gateways:
        sh("nft delete table ip d", ns=gateway.name)
    await until(lambda: state()[0] == "Connected")
    assert len(told("EgressRestored")) == 1
    assert len(world.api.written) <= 6


async def status_that_is_not_kept_is_written_once(world: World) -> None:
    """The definitions are of an earlier version, and have no status: each look would write."""
    world.api.drops_status = True
    pod = await world.start_pod("web")
    await until(lambda: len(world.api.written) == 1)
    await asyncio.sleep(12)  # what the cache may lag behind, and a look
    assert len(world.api.written) == 1
    world.gateway_of(await pod.whoami()).refuse_handshakes()
    await until(lambda: len(world.api.written) == 2)


async def status_survives_the_agent_and_the_api_server(world: World) -> None:
    pod = await world.start_pod("web")
    await until(lambda: world.endpoints.get("default", "web").status.state == "Connected")
    written = list(world.api.written)
    await world.stop_agent()
    await world.start_agent()
    await world.rounds(8)
    assert world.api.written == written
    # Somebody deletes the endpoint: it comes back, and so does what is said of the pod.
    endpoint = world.endpoints.get("default", "web")
    world.endpoints.put("default", "web", None)
    await until(lambda: world.endpoints.get("default", "web") is not None)
    await until(lambda: world.endpoints.get("default", "web").status == endpoint.status)
    world.api.down = True
    world.gateway_of(await pod.whoami()).refuse_handshakes()
    await until(lambda: any(r == "EgressMoved" for _, r, _ in world.recorder.events))
    world.api.down = False
    moved = endpoint.status.egress_ip
    await until(lambda: world.endpoints.get("default", "web").status.egress_ip != moved)


async def gateway_lost_while_the_api_server_hangs(world: World) -> None:
    """An agent that has just begun knows of no endpoint and writes all: more than it has workers
    wait for an answer when their gateways are lost."""
    pods = [await world.start_pod(f"p{i}") for i in range(20)]
    await world.stop_agent()
    world.api.down = True
    world.endpoints.is_synced = False
    await world.start_agent()
    await world.rounds(1)
    at = world.gateway_of(await pods[0].whoami())
    [other] = [g for g in world.gateways if g is not at]
    at.cut()
    await asyncio.gather(*(until_seen(pod, {other.public}) for pod in pods))
    assert all(sandbox.verified.is_set() for sandbox in world.agent.sandboxes)
    world.api.down = False


async def sessions_begin_anew_when_endpoints_are_deleted(world: World) -> None:
    """Gateways drop the sessions. WireGuard notices 15 s after a pod's next packet, and echoes ask
    one pod of a path at a time: here none do."""
    pods = [await world.start_pod(f"p{i}") for i in range(6)]
    await world.rounds(2)
    for sandbox in world.agent.sandboxes:
        sandbox.take_for_mute(float("inf"))

    def sessions() -> int:
        """How many pods have one with the gateway that they use."""
        known = {(g.address, key) for g in world.gateways for key in g.sessions()}
        states = [sandbox.attachment for sandbox in world.agent.sandboxes]
        return sum((s.active.address, s.public_key) in known for s in states if s.active)

    await until(lambda: sessions() == len(pods))
    endpoints = list(world.endpoints.truth)
    for key in endpoints:
        world.endpoints.put(*key, None)
    world.sync_peers()
    assert not sessions()
    await until(lambda: len(world.endpoints.truth) == len(endpoints))
    await until(lambda: sessions() == len(pods))
    publics = {gateway.public for gateway in world.gateways}
    assert set(await asyncio.gather(*(pod.whoami() for pod in pods))) <= publics


async def sessions_begin_anew_when_gateways_forget_them(world: World) -> None:
    """A gateway has lost all its sessions, and its path works. Echoes ask one pod of a path at a
    time, always the same one here: what it finds out, the others must not wait for. Nor need those
    that do not answer echoes."""
    pods = [await world.start_pod(f"p{i}") for i in range(12)]
    await world.rounds(2)
    paths.TURN = float("inf")  # type: ignore[misc]
    streams = world.agent.paths.streams
    assert streams
    await until(lambda: all(stream.health.answers for stream in streams))
    asked = {stream.sandbox for stream in streams}
    for sandbox in [s for s in world.agent.sandboxes if s not in asked][:6]:
        sandbox.take_for_mute(float("inf"))

    def sessions() -> int:
        known = {(g.address, key) for g in world.gateways for key in g.sessions()}
        states = [sandbox.attachment for sandbox in world.agent.sandboxes]
        return sum((s.active.address, s.public_key) in known for s in states if s.active)

    for gateway in world.gateways:
        gateway.sync([])
    world.sync_peers()
    assert not sessions()
    await until(lambda: sessions() == len(pods))
    publics = {gateway.public for gateway in world.gateways}
    assert set(await asyncio.gather(*(pod.whoami() for pod in pods))) <= publics


async def raw_frames_are_dropped_and_told(world: World) -> None:
    """And what is said of the pod's link goes with the pod, or with the next agent."""
    pod = await world.start_pod("web")
    await world.rounds(2)
    address = pod.result["ips"][0]["address"].partition("/")[0]
    whole = datagram(address, "198.51.100.1", 5000, 9)
    whole = whole[:10] + checksum(whole[:20]).to_bytes(2) + whole[12:]

    def write() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as raw:
            raw.sendto(whole, ("eth0", 0x0800, 0, 1, b"\xff" * 6))

    with NetNS.open(f"/run/netns/{pod.ns}") as inside:
        inside.run(write)
    await until(lambda: any(e[1] == "EgressForgedPackets" for e in world.recorder.events))
    dropped = REGISTRY.get_sample_value(
        "egress_gateway_node_link_dropped_packets_total", {"reason": "around_gateway"}
    )
    assert dropped == 1
    assert REGISTRY.get_sample_value("egress_gateway_node_unguarded_pods") == 0
    assert await pod.whoami() in {g.public for g in world.gateways}
    await world.stop_agent()
    assert "egress_gateway_links" in sh("nft list tables"), "held while no agent is there"
    await pod.delete()
    await world.start_agent()
    await until(lambda: "egress_gateway_links" not in sh("nft list tables"))


async def pods_that_try_wireguards_ports_are_dropped_and_told(world: World) -> None:
    """Masqueraded as the node, they would use up what a gateway takes from it."""
    pod, plain = await world.start_pod("web"), await world.start_pod("plain", annotation=None)
    gateway = world.gateway_of(await pod.whoami())
    await world.rounds(2)
    with NetNS.open(f"/run/netns/{plain.ns}") as inside:
        sending = inside.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sending:
        for port in (5999, 6000, 6999, 7000):
            sending.sendto(b"x", (gateway.address, port))
    await until(lambda: any(e[1] == "EgressForeignTunnel" for e in world.recorder.events))

    def dropped() -> float:
        name, reason = "egress_gateway_node_link_dropped_packets_total", "foreign_tunnel"
        return REGISTRY.get_sample_value(name, {"reason": reason}) or 0

    # The agent may have looked between two of them.
    await until(lambda: dropped() >= 2)
    assert dropped() == 2


async def pods_that_went_hold_nothing(world: World) -> None:
    """Descriptors and threads: a node's pods come and go for months. Pools of threads fill to their
    size when there is much to do, and keep it: theirs are not counted."""
    pools = ("kernel", "peers", "asyncio", "ThreadPoolExecutor")

    async def round_of_pods() -> tuple[int, int]:
        pods = [await world.start_pod(f"web-{n}") for n in range(4)]
        for pod in pods:
            await pod.whoami()
        for pod in pods:
            await pod.delete()
        await until(lambda: not world.endpoints.values())
        await world.rounds(1)
        gc.collect()
        own = [t.name for t in threading.enumerate() if not t.name.startswith(pools)]
        return len(list(Path("/proc/self/fd").iterdir())), len(own)

    await round_of_pods()
    first = await round_of_pods()
    for _ in range(3):
        last = await round_of_pods()
    assert last[0] <= first[0] + 2, f"descriptors: {first[0]}, then {last[0]}"
    assert last[1] <= first[1] + 1, f"threads: {first[1]}, then {last[1]}"


async def tunnel_that_went_deaf_while_the_agent_was_away_is_left(world: World) -> None:
    """Nobody has ever answered this agent through it. The pod says nothing meanwhile."""
    pod = await world.start_pod("quiet")
    used = world.gateway_of(await pod.whoami())
    [other] = [g for g in world.gateways if g is not used]
    await world.stop_agent()
    used.refuse_handshakes()
    await world.start_agent()
    began = asyncio.get_running_loop().time()

    def gateway() -> str:
        [endpoint] = world.endpoints.values()
        return str(endpoint.status.gateway)

    await until(lambda: gateway() == other.name)
    print(f"left after {asyncio.get_running_loop().time() - began:.1f} s")
    assert await pod.whoami() == other.public


async def tunnels_follow_the_mtu_of_the_node(world: World) -> None:
    """Somebody changes the network card's while agents run: larger packets would be lost."""
    pod = await world.start_pod("web")

    def mtu() -> int:
        [link] = json.loads(sh("ip -j link show wg0", ns=pod.ns))
        return int(link["mtu"])

    for node_mtu in (1400, 1500):
        sh(f"ip link set br0 mtu {node_mtu}")
        await until(lambda wanted=node_mtu - 60: mtu() == wanted)  # type: ignore[misc]
    assert await pod.whoami() in {gateway.public for gateway in world.gateways}


def refuse_once(sandbox: Sandbox) -> None:
    """It gets no other key the first time that it is to, as on a full disk."""
    become = sandbox.become

    async def refused(attachment: Attachment, *, moves: bool = False) -> list[str]:
        if attachment.private_key == sandbox.attachment.private_key:
            return await become(attachment, moves=moves)
        sandbox.become = become  # type: ignore[method-assign]
        raise DatapathError("refused once")

    sandbox.become = refused  # type: ignore[method-assign]


async def pods_are_served_after_the_nodes_clock_was_set_back(world: World, agent: str) -> None:
    """Gateways believe no handshake that is older than the last one of its key (WireGuard's paper,
    5.1): a clock that is corrected by hours would silence its pods for hours."""
    real, ahead = time.time, 7200.0
    await world.stop_agent()
    time.time = lambda: real() + ahead
    await world.start_agent()
    pods = [await world.start_pod(f"p{i}") for i in range(3)]
    await world.rounds(2)
    states = {sandbox.attachment.pod: sandbox.attachment for sandbox in world.agent.sandboxes}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as node:
        for state in states.values():
            server = state.configuration.server
            assert server is not None
            for gateway in world.gateways:
                begun = Initiator(
                    private_key=state.private_key, server_key=server.public_key, now=time.time()
                )
                node.settimeout(10)
                node.sendto(begun.initiation, (gateway.address, server.port))
                assert begun.answered(node.recv(2048)), "the gateway took the time of this one"
    if agent == "away":
        await world.stop_agent()
        for file in (RUN / "attached").iterdir():
            os.utime(file, (time.time(), time.time()))  # as a kernel that is ahead writes it
    else:
        refuse_once(next(iter(world.agent.sandboxes)))
    time.time = real
    if agent == "away":
        await world.start_agent()
    for sandbox in world.agent.sandboxes:
        await sandbox.question()  # as WireGuard itself does every two minutes
    publics = {gateway.public for gateway in world.gateways}
    await until(lambda: all(s.attachment.verified for s in world.agent.sandboxes))
    assert set(await asyncio.gather(*(pod.whoami() for pod in pods))) <= publics
