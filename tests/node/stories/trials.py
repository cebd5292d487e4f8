"""Paths that no pod uses are broken and mended, as scenarios. Run by ``test_trials.py``."""

from __future__ import annotations

import itertools

from egress_gateway.node.attachment import choose
from egress_gateway.node.liveness import pathtrial, trials
from tests.node.world import GatewayNode, World, sh, until

_LARGE = "udp length > 1400"
FAULTS = {
    "to": ("input", "udp dport 6000"),
    "from": ("output", "udp sport 6000"),
    "large-to": ("input", f"udp dport 6000 {_LARGE}"),
    "large-from": ("output", f"udp sport 6000 {_LARGE}"),
    "machine": ("input", "ip saddr 10.224.0.4"),
}
"""What is dropped at the gateway's machine: at which hook, and which packets."""


def hasten() -> None:
    """As the agent does it, in a tenth of the time; but an answer may take as long as ever."""
    pathtrial.GRACE = 2.0  # type: ignore[misc]
    pathtrial.INTERVAL, pathtrial.HURRY = 1.0, 0.2  # type: ignore[misc]
    trials.INTERVAL = 1.0  # type: ignore[attr-defined]


def said(world: World) -> dict[str, list[tuple[str, str]]]:
    """Of each pod: what its endpoint says of gateways."""
    found = {e.metadata.name: e.status.unreached_gateways for e in world.endpoints.values()}
    return {pod: [(u.gateway, u.reason) for u in each] for pod, each in found.items() if each}


def tellings(world: World) -> int:
    """How often it was written anew what endpoints say of gateways, whatever else was written:
    where processors are busy, a pod's own tunnel is in doubt now and then."""
    told = [[], *(status.unreached_gateways for status in world.api.written)]
    return sum(before != after for before, after in itertools.pairwise(told))


def alike(world: World, gateway: GatewayNode, name: str) -> str:
    """``name``, with an ending by which the pod is the gateway's."""
    nodes = [choose.GatewayNode(g.name, g.address) for g in world.gateways]
    names = (f"{name}-{i}" for i in itertools.count())
    return next(n for n in names if choose.rendezvous(f"uid-{n}", nodes).name == gateway.name)


async def tried(world: World, gateway: GatewayNode, verdict: str) -> None:
    """The agent has found that of the gateway."""

    def found() -> set[str]:
        known = (s.attachment.configuration for s in world.agent.sandboxes)
        return {world.agent.trials.verdicts(c)[gateway.name] for c in known}

    await until(lambda: found() == {verdict})


def broken(gateway: GatewayNode, fault: str) -> None:
    hook, packets = FAULTS[fault]
    sh(
        f"nft 'add table ip d; add chain ip d c {{ type filter hook {hook} priority 0; }};"
        f" add rule ip d c {packets} drop'",
        ns=gateway.name,
    )


def mended(gateway: GatewayNode) -> None:
    sh("nft delete table ip d", ns=gateway.name)


async def paths_that_no_pod_uses(*faults: str) -> None:
    """Their loss is told once, and for as long as it lasts: by another pod when the first one goes,
    and across a restart of the agent. Pods notice nothing of it."""
    hasten()
    world = World()
    world.build()
    world.configure()
    async with world.running():
        used, spare = world.gateways
        pod = await world.start_pod(first := alike(world, used, "web"))
        await tried(world, spare, "reached")
        for fault in faults:
            assert said(world) == {}
            told = tellings(world)
            broken(spare, fault)
            reason = "LargePacketsLost" if "large" in fault else "TunnelsUnanswered"
            await until(lambda: said(world) == {first: [(spare.name, reason)]})  # noqa: B023
            if fault != faults[-1]:
                mended(spare)
                await until(lambda: said(world) == {})
            assert tellings(world) <= told + 2
        told = tellings(world)
        await world.stop_agent()
        await world.start_agent()
        await tried(world, spare, "silent")
        assert tellings(world) == told
        other = await world.start_pod(second := alike(world, used, "other"))
        await pod.delete()
        await until(lambda: list(said(world)) == [second])
        mended(spare)
        await until(lambda: said(world) == {})
        assert not any(r in ("EgressMoved", "EgressLost") for _, r, _ in world.recorder.events)
        assert world.gateway_of(await other.whoami()) is used
