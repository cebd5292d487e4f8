"""Requests and connections from pods that go on, whatever happens meanwhile, or say why not."""

from __future__ import annotations

import asyncio
import sys

from egress_gateway_lab.demo.traffic import Traffic
from egress_gateway_lab.demo.world import World, until
from egress_gateway_lab.realcluster.filesystems.trees import PYTHON

_PYTHON = f"$(test -x {PYTHON} && echo {PYTHON} || echo {sys.executable})"
"""The image's own on real Kubernetes; elsewhere a pod sees this machine's."""
_ECHO = """
import socket, sys, time
peer = socket.create_connection((sys.argv[1], 7), timeout=60)
print("connected from", peer.getsockname(), flush=True)
number = 0
while True:
    number += 1
    line = b"%d\\n" % number
    peer.sendall(line)
    got = b""
    while not got.endswith(b"\\n"):
        chunk = peer.recv(64)
        if not chunk:
            sys.exit("the connection was closed")
        got += chunk
    if got != line:
        sys.exit("not an echo: %r" % got)
    print(number, flush=True)
    time.sleep(0.05)
"""


class Echoes:
    """One TCP connection from a pod to ``host``'s echo port, for as long as the context is open."""

    def __init__(self, world: World, pod: str, host: str) -> None:
        self._world = world
        self._pod = pod
        self._host = host
        self.seen: list[bytes] = []

    async def __aenter__(self) -> Echoes:
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        script = f"exec {_PYTHON} -IS -c '{_ECHO}' {self._host} 2>&1"
        command = ["sh", "-c", script]
        async for chunk in self._world.kube.exec_stream("default", self._pod, command):
            self.seen.extend(chunk.splitlines())
        told = await self._world.why(self._pod)
        raise AssertionError(f"the connection of {self._pod} ended: {self.seen[-1:]}; {told}")

    def alive(self) -> int:
        """How many lines came back; raises what ended the connection."""
        if self._task.done():
            self._task.result()
        return len(self.seen)


async def answered(traffic: list[Traffic]) -> None:
    """Waits until every stream of requests has been answered three more times."""
    seen = [len([r for r in t.requests if r.address]) for t in traffic]

    async def more() -> bool:
        now = [len([r for r in t.requests if r.address]) for t in traffic]
        return all(n >= s + 3 for n, s in zip(now, seen, strict=True))

    await until(more, timeout=120, what="answers from everywhere")


async def going_on(streams: list[Echoes]) -> None:
    """Waits until every connection has carried twenty lines more."""
    marks = [len(stream.seen) for stream in streams]

    async def more() -> bool:
        return all(s.alive() > m + 20 for s, m in zip(streams, marks, strict=True))

    await until(more, timeout=120, what="every connection to go on")
