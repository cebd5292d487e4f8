"""Ways to lose a gateway, and how it comes back."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from bench.errors import BenchError
from bench.place.site import Site
from egress_gateway.api import names

Undo = Callable[[], Awaitable[None]]
_BACK_SECONDS: Final = 90.0
_REST: Final = 1.0
"""Seconds after a gateway is back before the next loss: probes must have seen it."""


@dataclass(frozen=True, slots=True)
class Loss:
    """``strike`` takes a gateway away; returns what gives it back, and the moment (monotonic)."""

    name: str
    strike: Callable[[Site, str], Awaitable[tuple[Undo, float]]]


async def _power_cut(lab: Site, gateway: str) -> tuple[Undo, float]:
    event = time.monotonic()
    await lab.world.control.call("power_cut", node=gateway)

    async def undo() -> None:
        await lab.world.control.call("power_on", node=gateway)
        await serves(lab, gateway)

    return undo, event


_directions = itertools.cycle(("outbound", "inbound"))


async def _cut_one_way(lab: Site, gateway: str) -> tuple[Undo, float]:
    return await _cut(lab, gateway, next(_directions))


async def _cut_internet(lab: Site, gateway: str) -> tuple[Undo, float]:
    return await _cut(lab, gateway, "internet")


async def _cut(lab: Site, gateway: str, direction: str) -> tuple[Undo, float]:
    event = time.monotonic()
    await lab.world.control.call("cut", node=gateway, direction=direction)

    async def undo() -> None:
        await lab.world.control.call("mend", node=gateway)
        await serves(lab, gateway)

    return undo, event


async def _kill_agent(lab: Site, gateway: str) -> tuple[Undo, float]:
    """SIGKILL to the gateway agent, found among the processes of that machine alone."""
    found = await lab.run(
        gateway,
        "for p in /proc/[0-9]*; do"
        " if tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep -q 'egress.gateway[^ ]* gateway'; then"
        " echo ${p#/proc/}; fi; done",
    )
    numbers = found.split()
    if not numbers:
        raise BenchError(f"no gateway agent runs on {gateway}")
    event = time.monotonic()
    await lab.run(gateway, f"kill -KILL {' '.join(numbers)}", check=False)

    async def undo() -> None:
        await asyncio.sleep(_REST)
        # The kubelet starts what died again ever later; a new pod begins at once.
        kube, labels = lab.world.kube, "app.kubernetes.io/component=gateway"
        fields = f"spec.nodeName={gateway}"
        for pod in await kube.list(
            "pods", namespace=names.SYSTEM_NAMESPACE, labels=labels, fields=fields
        ):
            await kube.delete(
                "pods",
                pod["metadata"]["name"],
                namespace=names.SYSTEM_NAMESPACE,
                grace_seconds=0,
            )
        await serves(lab, gateway)

    return undo, event


async def serves(lab: Site, gateway: str) -> None:
    """Returns when the gateway answers the load balancer's probe of the configuration."""
    uid = (await lab.configuration())["metadata"]["uid"]
    ask = f"curl -s -o /dev/null -w '%{{http_code}}' --max-time 1 http://127.0.0.1:8082/gw/{uid}"
    deadline = time.monotonic() + _BACK_SECONDS
    while time.monotonic() < deadline:
        if (await lab.run(gateway, ask, check=False)).strip() == "200":
            await asyncio.sleep(_REST)
            return
        await asyncio.sleep(0.2)
    raise BenchError(f"{gateway} does not serve again after {_BACK_SECONDS:.0f} s")


LOSSES: Final = {
    loss.name: loss
    for loss in (
        Loss("power_cut", _power_cut),
        Loss("link_cut_one_way", _cut_one_way),
        Loss("agent_killed", _kill_agent),
        Loss("internet_cut", _cut_internet),
    )
}
