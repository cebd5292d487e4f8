"""The agent behind other chains than the usual one, as scenarios. Run by ``test_chains.py``."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import msgspec

from egress_gateway.api import names
from egress_gateway.datapath.linux import netns
from tests.cni.runtime import Runtime, Sandbox
from tests.node.world import BIN, CONF, PLUGIN, PLUGINS, RUN, RunningPod, World, collect, sh, until

NODE = "10.224.0.4"
SECOND = Path("/run/cni/second.d")
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}


def ipam(subnet: str, *, default: bool = True) -> dict[str, Any]:
    routes = {"routes": [{"dst": "0.0.0.0/0"}]} if default else {}
    return {
        "type": "host-local",
        "dataDir": "/run/cni/ipam",
        "ranges": [[{"subnet": subnet}]],
        **routes,
    }


def chained(folder: Path, name: str, *plugins: dict[str, Any]) -> Runtime:
    """The node's chain is this one; a runtime that calls it."""
    folder.mkdir(parents=True, exist_ok=True)
    network = {"cniVersion": "1.0.0", "name": name, "plugins": plugins}
    (folder / "10-lab.conflist").write_text(json.dumps(network))
    return Runtime(folder, BIN, Path(PLUGINS))


def sandbox(pod: RunningPod, interface: str = "eth0", **capabilities: Any) -> Sandbox:
    """The pod's attachment as a runtime sees it, annotation included."""
    if pod.annotation is not None:
        capabilities[names.CNI_CAPABILITY] = {names.POD_ANNOTATION: pod.annotation}
    return Sandbox(
        pod.container,
        f"/run/netns/{pod.ns}",
        interface,
        capabilities,
        f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod.name};K8S_POD_UID={pod.uid}",
    )


async def started(world: World, runtime: Runtime, name: str, **capabilities: Any) -> RunningPod:
    pod = RunningPod(world, name)
    pod.annotate("egress")
    pod.result = await asyncio.to_thread(runtime.add, sandbox(pod, **capabilities))
    return pod


def ask_host_port(port: int) -> socket.socket:
    """A client on the Internet's side connects to the node."""
    with netns.NetNS.open(netns.DIRECTORY / "inet") as place:
        return place.run(lambda: socket.create_connection((NODE, port), timeout=60))


async def _host_ports(*plugins: dict[str, Any]) -> None:
    world = World()
    world.build()
    runtime = chained(CONF, "lab", *plugins, PORTMAP)
    world.configure()
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    async with world.running():
        pod = await started(world, runtime, "web", portMappings=ports)
        seen = await pod.whoami()
        assert seen in {g.public for g in world.gateways}
        with pod.listen(80) as listening:
            client = await asyncio.to_thread(ask_host_port, 8080)
            served, _ = listening.accept()
            served.sendall(b"from the pod")
            assert client.recv(99) == b"from the pod"
            # Inbound goes on over a move of what is outbound.
            world.gateway_of(seen).cut()
            while await pod.whoami(timeout=1) in ("", seen):
                pass
            client.sendall(b"still here")
            assert served.recv(99) == b"still here"
            for connection in (client, served):
                connection.close()
        await asyncio.to_thread(runtime.delete, sandbox(pod, portMappings=ports))
        assert not world.endpoints.values()


async def bridge_with_host_ports() -> None:
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True}
    await _host_ports(bridge | {"ipam": ipam("10.244.1.0/24")})


async def ptp_with_host_ports() -> None:
    await _host_ports({"type": "ptp", "ipam": ipam("10.244.1.0/24")})


async def no_default_route() -> None:
    """The cluster's own network gives the pod no way to the Internet; the gateway does."""
    world = World()
    world.build()
    runtime = chained(CONF, "lab", {"type": "ptp", "ipam": ipam("10.244.1.0/24", default=False)})
    world.configure()
    async with world.running():
        pod = await started(world, runtime, "web")
        assert "default" not in sh("ip route", ns=pod.ns)
        assert await pod.whoami() in {g.public for g in world.gateways}
        pod.annotate(None)
        await until(lambda: not world.agent.sandboxes)
        assert await pod.whoami(timeout=1) == ""
        assert "default" not in sh("ip route", ns=pod.ns)


def second_network() -> Runtime:
    """A network of its own, as a meta-plugin calls it after the first; we are in it too."""
    ptp = {"type": "ptp", "ipam": ipam("10.244.77.0/24", default=False)}
    return chained(SECOND, "second", ptp, PLUGIN)


async def second_interface() -> None:
    world = World()
    world.build()
    first = chained(CONF, "lab", {"type": "ptp", "ipam": ipam("10.244.1.0/24")})
    second = second_network()
    world.configure()
    publics = {g.public for g in world.gateways}
    async with world.running():
        pod = await started(world, first, "web")
        net1 = sandbox(pod, "net1")
        result = await asyncio.to_thread(second.add, net1)
        assert result["interfaces"][-1]["name"] == "net1"
        assert len(world.agent.sandboxes) == len(world.endpoints.values()) == 1
        assert sh("ip -br link", ns=pod.ns).count("wg") == 1
        assert await pod.whoami() in publics
        await asyncio.to_thread(second.check, net1)
        # Nor does anything leave by the second one, even if it is told to.
        gateway = result["ips"][0]["gateway"]
        sh(f"ip route add 198.51.100.0/24 via {gateway} dev net1", ns=pod.ns)
        held = sh("nft list counter inet egress_gateway held", ns=pod.ns)
        got = sh("curl -s -m 1 --interface net1 http://198.51.100.10/ || true", ns=pod.ns)
        assert got == ""
        assert sh("nft list counter inet egress_gateway held", ns=pod.ns) != held
        # An agent that starts anew comes to the same.
        await world.stop_agent()
        await world.start_agent()
        await until(lambda: world.agent.sandboxes)
        assert {s.attachment.if_name for s in world.agent.sandboxes} == {"eth0"}
        await asyncio.to_thread(second.delete, net1)
        assert await pod.whoami() in publics
        await asyncio.to_thread(first.delete, sandbox(pod))
        assert not world.agent.sandboxes
        assert not world.endpoints.values()


async def second_interface_at_once_and_later() -> None:
    """Runtimes may add both at a time; and a pod with two may be annotated while it runs."""
    world = World()
    world.build()
    first = chained(CONF, "lab", {"type": "ptp", "ipam": ipam("10.244.1.0/24")})
    second = second_network()
    world.configure()
    async with world.running():
        pod = RunningPod(world, "both")
        pod.annotate("egress")
        await asyncio.gather(
            asyncio.to_thread(first.add, sandbox(pod)),
            asyncio.to_thread(second.add, sandbox(pod, "net1")),
        )
        assert len(world.agent.sandboxes) == 1
        assert sh("ip -br link", ns=pod.ns).count("wg") == 1
        later = RunningPod(world, "later")
        later.annotate(None)
        await asyncio.to_thread(second.add, sandbox(later, "net1"))
        later.result = await asyncio.to_thread(first.add, sandbox(later))
        later.annotate("egress")
        await until(lambda: len(world.agent.sandboxes) == 2)
        [found] = [s for s in world.agent.sandboxes if s.attachment.pod == "later"]
        assert found.attachment.if_name == "eth0"
        await until(found.verified.is_set)
        assert await later.whoami() in {g.public for g in world.gateways}


async def collected(world: World) -> None:
    """GC: what the runtime has lost goes, of its own network; and nothing else."""
    kept, lost, robbed = [await world.start_pod(name) for name in ("kept", "lost", "robbed")]
    plain = await world.start_pod("plain", annotation=None)
    other = plain.container.replace("plain", "other")
    recorded = json.loads((RUN / "pods" / f"{plain.container}-eth0.json").read_bytes())
    recorded["config"]["name"], recorded["containerID"] = "another", other
    (RUN / "pods" / f"{other}-eth0.json").write_text(json.dumps(recorded))

    record = RUN / "pods" / f"{robbed.container}-eth0.json"
    record.unlink()
    await until(record.exists)  # made again, of the same network

    everything = sorted(p.name for p in (RUN / "pods").iterdir())
    await collect(None)  # without a list nothing is known
    assert sorted(p.name for p in (RUN / "pods").iterdir()) == everything
    (RUN / "pods" / f"{lost.container}-eth0.json").unlink()  # and not made again in time
    await collect([kept])
    await until(lambda: len(world.agent.sandboxes) == 1)
    assert sorted(p.stem for p in (RUN / "pods").iterdir()) == sorted(
        [f"{kept.container}-eth0", f"{other}-eth0"]
    )
    await until(lambda: len(world.endpoints.values()) == 1)
    assert await kept.whoami() in {g.public for g in world.gateways}
    for pod in (lost, robbed):
        assert await pod.whoami(timeout=1) == ""


async def nothing_left_of_what_is_lost() -> None:
    """A sandbox whose namespace, record and runtime are gone, with the agent down and the API
    away: DEL succeeds, and the agent clears up by itself when it is back."""
    world = World()
    world.build()
    runtime = chained(CONF, "lab", {"type": "ptp", "ipam": ipam("10.244.1.0/24")})
    world.configure()
    async with world.running():
        pods = [await started(world, runtime, name) for name in ("deleted", "forgotten")]
        await world.stop_agent()
        for pod in pods:
            netns.delete(pod.ns)
        shutil.rmtree(RUN / "pods")
        await asyncio.to_thread(runtime.delete, sandbox(pods[0]))
        world.pods.is_synced = world.configurations.is_synced = False
        await world.start_agent()
        await until(lambda: not any((RUN / "attached").iterdir()))
        await until(lambda: not world.agent.sandboxes)
        await until(lambda: not world.endpoints.values())
        # But for the one that waits for the next pod.
        await until(lambda: sh("ip -br link").count("egw") <= world.settings.spare_tunnels)
        await asyncio.to_thread(runtime.delete, sandbox(pods[0]))


async def started_while_the_chain_was_rewritten(phase: str) -> None:
    """The cluster's own plugin writes its configuration anew; for a moment ours is not in it."""
    world = World()
    world.build()
    world.settings = msgspec.structs.replace(world.settings, resync_interval=3600.0)
    original = (CONF / "10-lab.conflist").read_bytes()
    world.configure()
    async with world.running():
        await until(lambda: names.CNI_PLUGIN.encode() in (CONF / "10-lab.conflist").read_bytes())
        (CONF / "10-lab.conflist").write_bytes(original)
        pod = await world.start_pod("unlucky")
        assert not world.agent.sandboxes
        pod.remember()
        pod.annotate("egress", phase=phase)
        await until(lambda: world.agent.sandboxes and world.agent.sandboxes[0].verified.is_set())
        assert await pod.whoami() in {g.public for g in world.gateways}


async def annotated_while_its_init_containers_run() -> None:
    """It came as a plain pod, with the plugin in the chain."""
    world = World()
    world.build()
    world.settings = msgspec.structs.replace(world.settings, resync_interval=3600.0)
    world.configure()
    async with world.running():
        await until(lambda: names.CNI_PLUGIN.encode() in (CONF / "10-lab.conflist").read_bytes())
        pod = await world.start_pod("plain", annotation=None)
        pod.remember()
        pod.annotate(None, phase="Pending")
        assert not world.agent.sandboxes
        pod.annotate("egress", phase="Pending")
        await until(lambda: world.agent.sandboxes and world.agent.sandboxes[0].verified.is_set())
        assert await pod.whoami() in {g.public for g in world.gateways}


async def deleted_without_the_api(world: World) -> None:
    """DEL does not wait for it; what could not be told it is told when it is back."""
    pod = await world.start_pod("web")
    world.api.down = True
    await pod.delete()
    assert not world.agent.sandboxes
    assert not any((RUN / "attached").iterdir())
    assert len(world.endpoints.values()) == 1
    world.api.down = False
    await until(lambda: not world.endpoints.values())
