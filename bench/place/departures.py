"""Ways in which a gateway goes by plan, how it ends, and how it comes back.

``announce`` tells of the departure, as whoever takes the node away would; then connections have
time to finish; ``end`` takes the node, if it is to go; ``back`` gives it back.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from bench.place.losses import serves
from bench.place.site import POOL, Site
from egress_gateway.api import names
from egress_gateway_lab.demo.world import until

Step = Callable[[Site, str], Awaitable[None]]
_BACK_SECONDS: Final = 120.0
_AGENTS: Final = ("egress-gateway-gateway", "egress-gateway-node")
_API: Final = "2026-06-01"


async def _nothing(lab: Site, gateway: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Departure:
    """``leaves``: new connections are to use another gateway."""

    name: str
    announce: Step
    end: Step = _nothing
    back: Step = _nothing
    leaves: bool = True


async def _cordon(lab: Site, gateway: str) -> None:
    await lab.world.kube.patch("nodes", gateway, {"spec": {"unschedulable": True}})


async def _uncordon(lab: Site, gateway: str) -> None:
    await lab.world.kube.patch("nodes", gateway, {"spec": {"unschedulable": None}})


async def _upgrade(lab: Site, gateway: str) -> None:
    """All agents are replaced, as by ``helm upgrade``; returns when that has rolled out."""
    where = {"namespace": names.SYSTEM_NAMESPACE}
    stamp = {"name": "BENCH_UPGRADE", "value": str(time.time())}
    for name in _AGENTS:
        agent = await lab.world.kube.get("daemonsets", name, **where)
        template = agent["spec"]["template"]
        container = template["spec"]["containers"][0]
        kept = [e for e in container["env"] if e["name"] != stamp["name"]]
        container["env"] = [*kept, stamp]
        await lab.world.kube.patch("daemonsets", name, {"spec": {"template": template}}, **where)
    for name in _AGENTS:

        async def rolled_out(name: str = name) -> bool:
            found = await lab.world.kube.get("daemonsets", name, **where)
            status = found.get("status", {})
            desired = status.get("desiredNumberScheduled")
            return bool(
                status.get("observedGeneration") == found["metadata"]["generation"]
                and status.get("updatedNumberScheduled") == desired
                and status.get("numberReady") == desired
            )

        await until(rolled_out, timeout=_BACK_SECONDS, what=f"{name} to be replaced")


async def _shutdown(lab: Site, gateway: str) -> None:
    """What the kubelet of a node says that shuts down gracefully (kubelet's nodeshutdown)."""
    node = await lab.world.kube.get("nodes", gateway)
    conditions: list[dict[str, Any]] = node["status"]["conditions"]
    for condition in (c for c in conditions if c["type"] == "Ready"):
        condition |= {"status": "False", "reason": "KubeletNotReady"}
        condition["message"] = "node is shutting down"
    patch = {"status": {"conditions": conditions}}
    await lab.world.kube.patch("nodes", gateway, patch, subresource="status")


async def _power_off(lab: Site, gateway: str) -> None:
    await lab.world.control.call("power_cut", node=gateway)


async def _power_on(lab: Site, gateway: str) -> None:
    await lab.world.control.call("power_on", node=gateway)
    await serves(lab, gateway)


async def _size(lab: Site, count: int) -> None:
    pool = f"{lab.world.cluster_id}/agentPools/{POOL}"
    known = await lab.world.arm.get(pool, _API)
    properties = known["properties"] | {"count": count}
    await lab.world.arm.put(pool, {"properties": properties}, _API)
    found = (await lab.machines()).values()
    lab.gateways[:] = [m["name"] for m in found if m["pool"] == POOL]


async def _scale_in(lab: Site, gateway: str) -> None:
    await _size(lab, len(lab.gateways) - 1)


async def _scale_out(lab: Site, gateway: str) -> None:
    await _size(lab, len(lab.gateways) + 1)
    wanted = set(lab.gateways)

    async def listed() -> bool:
        status = (await lab.configuration())["status"]
        return {g["node"] for g in status["gateways"] if g.get("publicIp")} == wanted

    await until(listed, timeout=_BACK_SECONDS, what="the new gateway to be listed")
    for name in lab.gateways:
        await serves(lab, name)


DEPARTURES: Final = {
    one.name: one
    for one in (
        # Azure takes the last machine of a pool, AKS cordons it before.
        Departure("scale_in", _cordon, _scale_in, _scale_out),
        Departure("cordon", _cordon, back=_uncordon),
        Departure("upgrade", _upgrade, leaves=False),
        Departure("shutdown", _shutdown, _power_off, _power_on),
        Departure("kill", _power_off, back=_power_on),
    )
}
