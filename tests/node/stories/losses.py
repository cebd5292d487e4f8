"""Local state is lost or damaged while pods run, as scenarios. Run by ``test_losses.py``.

During every one of them a pod asks the Internet for its address without pause. It may hear nothing
for a while; it may never hear the cluster's address.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import msgspec
from prometheus_client import REGISTRY

from egress_gateway.datapath.linux import netns
from tests.node.world import RUN, RunningPod, World, sh, until

NODE = "10.224.0.4"
"""The cluster's address: what leaves a pod without a gateway has it."""


def _truncate(path: Path) -> None:
    path.write_bytes(b"")


def _halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _null(path: Path) -> None:
    path.write_text("null")


def _garbage(path: Path) -> None:
    path.write_bytes(b"\xff\x00\x80{]" * 99)


def _folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def _link(path: Path) -> None:
    path.unlink()
    (RUN / "aside").write_bytes(b"{}")
    path.symlink_to(RUN / "aside")


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere/at/all")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _other_pods(path: Path) -> None:
    """The file of another pod, under this one's name."""
    document = json.loads(path.read_bytes())
    text = json.dumps(document).replace("uid-web", "uid-of-another")
    path.write_text(text.replace("10.244.1.", "10.244.9."))


def _other_sandbox(path: Path) -> None:
    path.write_text(path.read_text().replace("cweb", "cother"))


def _later_schema(path: Path) -> None:
    """As a later version could write it: what it adds is unknown, what it left out is missing."""
    document = json.loads(path.read_bytes())
    document = {k: v for k, v in document.items() if k not in ("netns", "args")}
    path.write_text(json.dumps({"version": 9, **document}))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "removed": lambda path: path.unlink(),
    "empty": _truncate,
    "cut": _halve,
    "garbage": _garbage,
    "folder": _folder,
    "link": _link,
    "dangling": _dangling,
    "pipe": _pipe,
    "null": _null,
    "another": _other_pods,
    "sandbox": _other_sandbox,
    "later": _later_schema,
}


@contextlib.asynccontextmanager
async def watched(pod: RunningPod, *, allowed: Iterable[str]) -> AsyncIterator[list[str]]:
    """The addresses that the Internet saw of the pod meanwhile, all of them ``allowed``."""
    seen: list[str] = []
    done = False

    async def ask() -> None:
        while not done:
            seen.append(await pod.whoami(timeout=0.3))

    asking = asyncio.create_task(ask())
    try:
        yield seen
    finally:
        done = True
        await asking
    assert set(seen) <= {*allowed, ""}, seen


def publics(world: World) -> set[str]:
    return {gateway.public for gateway in world.gateways}


def whole(world: World, pods: Iterable[RunningPod]) -> bool:
    """Both files of every pod are there and say what is so."""
    store = world.agent.store
    attached = {s.attachment.container_id: s.attachment for s in world.agent.sandboxes}
    return all(
        (a := attached.get(pod.container))
        and a.uid == pod.uid
        and store.holds(a)
        and (record := store.record(a.id))
        and record.pod[2] in (pod.uid, "")
        and record.netns == a.netns
        for pod in pods
    )


async def answered(pod: RunningPod, wanted: set[str]) -> None:
    async with asyncio.timeout(90):
        while await pod.whoami(timeout=1) not in wanted:
            await asyncio.sleep(0.05)


def rebuilt(what: str) -> float:
    name = "egress_gateway_node_local_state_rebuilt_total"
    return REGISTRY.get_sample_value(name, {"what": what}) or 0.0


async def files_are_damaged(*damages: str) -> None:
    """Record, attachment, both: with the agent running, and with one that starts anew."""
    world = World()
    world.build()
    world.configure()
    async with world.running():
        pod = await world.start_pod("web")
        pod.remember()
        pod.annotate("egress")
        files = [RUN / folder / f"{pod.container}-eth0.json" for folder in ("pods", "attached")]
        async with watched(pod, allowed=publics(world)):
            for damage in damages:
                for damaged, restarts in ((files[:1], False), (files[1:], False), (files, True)):
                    if restarts:
                        await world.stop_agent()
                    for path in damaged:
                        DAMAGES[damage](path)
                    if restarts:
                        await world.start_agent()
                    await until(lambda: whole(world, [pod]))
                    await answered(pod, publics(world))
        assert rebuilt("record")
        assert rebuilt("attachment")
        await pod.delete()
        await until(lambda: not any((RUN / "attached").iterdir()))
        assert not any((RUN / "pods").iterdir())


async def folders_are_removed(*names: str) -> None:
    """``rm -rf``, and a file in the folder's place; then pods can come and go as before."""
    world = World()
    world.build()
    world.configure()
    async with world.running():
        pods = [await world.start_pod("web"), await world.start_pod("plain", annotation=None)]
        for pod in pods:
            pod.remember()
        async with watched(pods[0], allowed=publics(world)):
            for file_instead in (False, True):
                for name in names:
                    path = RUN / name
                    for inside in [path] if name != "." else list(RUN.iterdir()):
                        shutil.rmtree(inside) if inside.is_dir() else inside.unlink()
                    if file_instead and name != ".":
                        path.write_text("in the way")
                await until(lambda: whole(world, [pods[0]]))
                await until(lambda: (RUN / "cni.sock").is_socket())
                await until(lambda: (RUN / "tunnels.sock").is_socket())
                later = await started(world, "later")
                await answered(later, publics(world))
                await later.delete()
                await until(lambda: len(world.endpoints.values()) == 1)
        assert await pods[1].whoami() == NODE
        # A plain pod's record may be gone; the pod can still be annotated.
        pods[1].annotate("egress")
        await answered(pods[1], publics(world))


async def started(world: World, name: str) -> RunningPod:
    """As a kubelet does it: again, until it works."""
    pod = RunningPod(world, name)
    pod.annotate("egress")
    async with asyncio.timeout(90):
        while True:
            result = pod.result
            try:
                await pod.add()
                return pod
            except Exception:
                pod.result = result
                sh("ip link del eth0 || true", ns=pod.ns)
                await asyncio.sleep(0.2)


async def sockets_are_lost() -> None:
    world = World()
    world.build()
    world.configure()
    world.settings = msgspec.structs.replace(world.settings, spare_tunnels=0)
    async with world.running():
        first = await world.start_pod("first")
        async with watched(first, allowed=publics(world)):
            for damage in ("removed", "folder", "link", "dangling", "pipe"):
                for name in ("cni.sock", "tunnels.sock"):
                    DAMAGES[damage](RUN / name)
                    await until((RUN / name).is_socket)
                pod = await started(world, f"p-{damage}")
                await answered(pod, publics(world))
                await pod.delete()


async def nothing_can_be_written(how: str) -> None:
    """The file system is full or read-only while a gateway is lost and pods come and go."""
    world = World()
    world.build()
    world.configure()
    sh(f"mount -t tmpfs -o size=256k tmpfs {RUN}")
    async with world.running():
        pod, doomed = await world.start_pod("web"), await world.start_pod("doomed")
        forgotten = await world.start_pod("forgotten")
        async with watched(pod, allowed=publics(world)):
            if how == "full":
                with contextlib.suppress(OSError), open(RUN / "filler", "wb", 0) as filler:
                    while True:
                        filler.write(b"x" * 4096)
            else:
                sh(f"mount -o remount,ro {RUN}")
            before = world.gateway_of(await pod.whoami())
            before.cut()
            await answered(pod, publics(world) - {before.public})
            await doomed.delete()
            # A runtime that lost a sandbox without DEL; what is left is a file, not a namespace.
            netns.delete(forgotten.ns)
            (netns.DIRECTORY / forgotten.ns).touch()
            await until(lambda: len(world.agent.sandboxes) == 1)
            if how == "full":
                (RUN / "filler").unlink()
            else:
                sh(f"mount -o remount,rw {RUN}")
            await until(lambda: whole(world, [pod]))
            await until(lambda: len(list((RUN / "attached").iterdir())) == 1)
            later = await started(world, "later")
            await answered(later, publics(world))
        assert not world.agent.failing


async def sandbox_is_made_again() -> None:
    """The pod's pause process was killed: the same Pod gets a new sandbox with a new address,
    while nobody has deleted the first one yet, and with the first one deleted."""
    world = World()
    world.build()
    world.configure()
    async with world.running():
        pod = await world.start_pod("web")
        for n in range(2):
            again = RunningPod(world, "web", suffix=f"-{n}")
            again.annotate("egress")
            await again.add()
            assert await again.whoami() in publics(world)
            assert again.address != pod.address
            [endpoint] = world.endpoints.values()
            assert endpoint.spec.pod_ip_address == again.address
            async with watched(pod, allowed=publics(world)):
                assert "held" in sh("nft list table inet egress_gateway", ns=pod.ns)
                # Both are looked at many times, and an agent starts anew: the later one stays.
                await world.rounds(4)
                await world.stop_agent()
                await world.start_agent()
                await answered(again, publics(world))
                [endpoint] = world.endpoints.values()
                assert endpoint.spec.pod_ip_address == again.address
            await pod.delete()
            again.annotate("egress")
            [endpoint] = world.endpoints.values()
            assert endpoint.spec.pod_ip_address == again.address
            assert await again.whoami() in publics(world)
            pod = again


async def deleted_while_its_record_is_lost() -> None:
    """No record, no file and no agent when the runtime deletes it: nothing of it stays."""
    world = World()
    world.build()
    world.configure()
    world.settings = msgspec.structs.replace(world.settings, spare_tunnels=0)
    async with world.running():
        pod = await world.start_pod("web")
        shutil.rmtree(RUN / "pods")
        shutil.rmtree(RUN / "attached")
        await pod.delete()
        await until(lambda: not world.agent.sandboxes)
        await until(lambda: not world.endpoints.values())
        await until(lambda: "egw" not in sh("ip -br link"))


async def annotation_taken_away_while_its_file_was_lost() -> None:
    """No agent, no file, no annotation any more: the hold is the only thing that is left."""
    world = World()
    world.build()
    world.configure()
    async with world.running():
        pod = await world.start_pod("web")
        await world.stop_agent()
        shutil.rmtree(RUN / "attached")
        pod.annotate(None)
        world.pods.is_synced = False
        await world.start_agent()
        # The runtime's record still names the configuration: held, or through the gateway.
        assert await pod.whoami(timeout=1) in {*publics(world), ""}
        record = RUN / "pods" / f"{pod.container}-eth0.json"
        record.write_text(record.read_text().replace('egress"', '"'))
        await world.stop_agent()
        shutil.rmtree(RUN / "attached")
        await world.start_agent()
        assert await pod.whoami(timeout=1) in {*publics(world), ""}, "not before the API is heard"
        world.pods.is_synced = True
        await answered(pod, {NODE})
        assert "egress_gateway" not in sh("nft list tables", ns=pod.ns)
        assert "wg0" not in sh("ip -br link", ns=pod.ns)
