"""Steady requests from a pod, timed where they are sent.

A shell loop in the pod asks the what-is-my-IP host about twenty times a second, each request with a
path that names it, so that the Internet's log tells which addresses they arrived from.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from egress_gateway_lab.demo.world import World

_LOOP: Final = """
n=0
while [ $n -lt {limit} ]; do
  n=$((n+1))
  a=$(curl -s --max-time 0.25 {url}/traffic/{pod}/$n) || a=-
  echo "$(date +%s.%N) $a"
  sleep 0.03
done
"""
_LIMIT: Final = 2000


@dataclass(frozen=True, slots=True)
class Request:
    """``at`` is when its answer came or it failed (Unix seconds); ``address`` None if it failed."""

    at: float
    address: str | None


class Traffic:
    """An async context manager; requests run while it is open."""

    def __init__(self, world: World, pod: str, url: str) -> None:
        self._world = world
        self._pod = pod
        self._script = _LOOP.format(limit=_LIMIT, url=url, pod=pod)
        self._task: asyncio.Task[None] | None = None
        self.requests: list[Request] = []

    async def __aenter__(self) -> Traffic:
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def sent(self) -> int:
        return len(self.requests)

    @property
    def failed(self) -> int:
        return sum(r.address is None for r in self.requests)

    @property
    def last_address(self) -> str | None:
        return next((r.address for r in reversed(self.requests) if r.address), None)

    async def answered_after(self, moment: float) -> bool:
        """Whether a request was answered after ``moment`` (Unix seconds)."""
        return any(r.address and r.at > moment for r in self.requests)

    def outage(self, cut_at: float) -> float:
        """Seconds between the last answer before ``cut_at`` (or the cut itself, if later) and
        the first answer that came by the new way."""
        before = [r.at for r in self.requests if r.address and r.at <= cut_at + 0.05]
        after = [r.at for r in self.requests if r.address and r.at > cut_at + 0.05]
        if not after:
            return float("inf")
        return min(after) - max([*before[-1:], cut_at])

    async def _follow(self) -> None:
        buffer = b""
        async for chunk in self._world.kube.exec_stream(
            "default", self._pod, ["sh", "-c", self._script]
        ):
            buffer += chunk
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                at, _, address = line.decode().partition(" ")
                self.requests.append(Request(float(at), None if address == "-" else address))
