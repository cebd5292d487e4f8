"""Somebody floods gateways with handshakes. Run by ``test_floods.py``.

An initiation with a valid mac1 needs the server's public key alone, which is no secret. A gateway
that gets too many answers with cookies, and takes initiations that show one (WireGuard's paper,
5.3). The flood has an end of its own, whatever becomes of the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

from egress_gateway.node.attachment.model import Attachment
from tests.node.flooder import Flood
from tests.node.world import GatewayNode, RunningPod, World, until


@contextlib.asynccontextmanager
async def flooded(world: World, *, rate: int = 0) -> AsyncIterator[list[int]]:
    """Some 7,000 initiations a second to each gateway. How many they were to all of them together
    is in the list afterwards."""
    addresses = [gateway.address for gateway in world.gateways]
    flood = Flood("/run/netns/inet", world.pair.public, addresses, rate=rate)
    told: list[int] = []
    try:
        await asyncio.to_thread(flood.begun)
        yield told
        told.append(flood.end())
    finally:
        flood.kill()


async def figures(pods: str, rate: str) -> None:
    """For ``python -m bench flood``: seconds of each pod's ADD, two at a time, then from the loss
    of a gateway until each of its pods has a verified tunnel again. ``rate``: of the flood to each
    gateway, initiations a second; 0: none. Prints JSON."""
    world = World()
    world.build()
    world.configure()
    turn = asyncio.Semaphore(2)
    started: list[RunningPod] = []
    attached: list[float] = []
    moved: list[float] = []
    nothing = contextlib.nullcontext([0])

    async def start(number: int) -> None:
        async with turn:
            began = time.monotonic()
            started.append(await world.start_pod(f"p{number}"))
            attached.append(time.monotonic() - began)

    async with world.running():
        async with flooded(world, rate=int(rate)) if int(rate) else nothing as told:
            await asyncio.gather(*(start(number) for number in range(int(pods))))
            homes = {pod.name: await pod.whoami() for pod in started}
            lost = world.gateway_of(homes[started[0].name])
            going = {name for name, home in homes.items() if home == lost.public}
            waiting = [s for s in world.agent.sandboxes if s.attachment.pod in going]
            lost.cut()
            began = time.monotonic()

            async def moves(verified: asyncio.Event) -> None:
                await until(lambda: not verified.is_set())
                await until(verified.is_set)
                moved.append(time.monotonic() - began)

            await asyncio.gather(*(moves(sandbox.verified) for sandbox in waiting))
            answers = {name: await p.whoami() for p in started if (name := p.name)}
            assert not {answers[name] for name in going} & {"", lost.public}
    print(json.dumps({"attach": attached, "failover": moved, "initiations": told[0]}))


async def pods_start_under_a_flood() -> None:
    world = World()
    world.build()
    world.configure()
    world.settings = world.settings.__class__(
        node_name="node-1",
        run_dir=str(world.settings.run_dir),
        cluster_cidrs=world.settings.cluster_cidrs,
        resync_interval=0.3,
    )
    async with world.running(), flooded(world):
        began = time.monotonic()
        pods = await asyncio.gather(*(world.start_pod(f"p{i}") for i in range(3)))
        print(f"three pods started after {time.monotonic() - began:.2f} s")
        for pod in pods:
            assert await pod.whoami() in {g.public for g in world.gateways}


def elsewhere(state: Attachment, lost: GatewayNode) -> bool:
    """Whether the pod has a verified tunnel that does not lead to ``lost``."""
    return bool(state.active and state.verified and state.active.address != lost.address)


async def pods_leave_a_lost_gateway_under_a_flood() -> None:
    world = World()
    world.build()
    world.configure()
    async with world.running():
        pods = [await world.start_pod(f"p{i}") for i in range(4)]
        homes = [await pod.whoami() for pod in pods]
        async with flooded(world):
            for pod, home in zip(pods, homes, strict=True):
                assert await pod.whoami() == home, "tunnels that are there go on"
            lost = world.gateway_of(homes[0])
            lost.cut()
            began = time.monotonic()
            moved = [s for s, home in zip(pods, homes, strict=True) if home == lost.public]
            going = {pod.name for pod in moved}
            left = [s for s in world.agent.sandboxes if s.attachment.pod in going]
            # Each by itself: one may have arrived before another has left.
            await until(lambda: all(elsewhere(s.attachment, lost) for s in left))
            print(f"{len(moved)} pods moved after {time.monotonic() - began:.2f} s")
            for pod in moved:
                assert await pod.whoami() not in ("", lost.public)
