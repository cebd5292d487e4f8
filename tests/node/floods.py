"""Somebody floods gateways with handshakes. Run by ``test_floods.py``.

An initiation with a valid mac1 needs the server's public key alone, which is no secret. A gateway
that gets too many answers with cookies, and takes initiations that show one (WireGuard's paper,
5.3). The flood has an end of its own, whatever becomes of the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator

from tests.node.world import World, until

_PROGRAM = """
import base64, hashlib, os, socket, sys, time
key = hashlib.blake2s(b"mac1----" + base64.b64decode(sys.argv[1])).digest()
packets = []
for _ in range(256):
    body = bytes([1, 0, 0, 0]) + os.urandom(112)
    mac1 = hashlib.blake2s(body, key=key, digest_size=16).digest()
    packets.append(body + mac1 + bytes(16))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("up", flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    for address in sys.argv[2:]:
        for packet in packets:
            try:
                udp.sendto(packet, (address, 6000))
            except OSError:
                pass
    time.sleep(0.035)
"""


@contextlib.asynccontextmanager
async def flooded(world: World) -> AsyncIterator[None]:
    """Some 7,000 initiations a second to each gateway."""
    addresses = [gateway.address for gateway in world.gateways]
    command = [sys.executable, "-c", _PROGRAM, world.pair.public, *addresses]
    flood = subprocess.Popen(["nsenter", "--net=/run/netns/inet", *command], stdout=subprocess.PIPE)
    assert flood.stdout is not None
    flood.stdout.readline()
    await asyncio.sleep(0.5)  # WireGuard calls itself under load for a second after a full queue
    try:
        yield
        assert flood.poll() is None, "the flood lasts until the end"
    finally:
        flood.kill()
        flood.wait()


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


async def pods_leave_a_lost_gateway_under_a_flood() -> None:
    world = World()
    world.build()
    world.configure()
    async with world.running():
        pods = [await world.start_pod(f"p{i}") for i in range(4)]
        homes = [await pod.whoami() for pod in pods]
        async with flooded(world):
            for pod, home in zip(pods, homes, strict=True):
                assert await pod.whoami(timeout=20) == home, "tunnels that are there go on"
            lost = world.gateway_of(homes[0])
            lost.cut()
            began = time.monotonic()
            moved = [s for s, home in zip(pods, homes, strict=True) if home == lost.public]
            verified = [
                s.verified
                for s in world.agent.sandboxes
                if s.attachment.pod in {pod.name for pod in moved}
            ]
            await until(lambda: not any(v.is_set() for v in verified), seconds=30)
            await until(lambda: all(v.is_set() for v in verified), seconds=15)
            print(f"{len(moved)} pods moved after {time.monotonic() - began:.2f} s")
            for pod in moved:
                assert await pod.whoami(timeout=10) not in ("", lost.public)
