"""``lab up``: a lab that stays, with the cluster that every story begins with, and something to
play with at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from egress_gateway_lab import host
from egress_gateway_lab.azure.client import RequestFailed
from egress_gateway_lab.demo.world import VERSIONS, World, until

POOL: Final = "npegress"
CONFIGURATION: Final = "egress"
APP: Final = "app"
Content = Literal["azure", "cluster", "app"]
"""What a new lab holds: nothing, a cluster, or all that an annotated pod needs and such pods."""


@dataclass(frozen=True, kw_only=True)
class Playground:
    """What there is to play with: the app's first pod, a gateway's node, the addresses."""

    pod: str
    gateway: str
    prefix: str


async def bring_up(
    name: str,
    *,
    content: Content,
    nodes: int,
    say: Callable[[str], None],
    state: Path | None = None,
    kubernetes: str = "embedded",
) -> tuple[host.LabHandle, Playground | None]:
    """Starts lab ``name`` and fills it with ``content``.

    ``state``: absolute path of a file that Azure's resources are kept in; what it holds already
    is taken as it is and its machines are booted. ``kubernetes``: ``embedded`` or ``real``. Raises
    ``LabError``. A lab that cannot be completed is ended again.
    """
    say("starting the lab")
    options = {"kubernetes": kubernetes, **({"state": str(state)} if state else {})}
    # NB: not in a thread, which would end its work after a Ctrl-C, with nobody to hear of the lab.
    handle = host.start(name, options=options, detach=True, progress=say)
    playground = None
    try:
        async with World(handle) as world:
            if state and await world.groups():
                await _take_up(world, say)
            elif content != "azure":
                say("creating resource group and cluster")
                await world.create_group()
                await world.create_cluster(nodes=nodes, version=VERSIONS[kubernetes])
                await world.get_credentials()
                playground = await _fill(world, say) if content == "app" else None
    except BaseException:
        host.stop(handle)
        raise
    return handle, playground


async def _fill(world: World, say: Callable[[str], None]) -> Playground:
    say(f"adding the gateway pool {POOL}: two nodes, a prefix of four addresses each configuration")
    await world.add_gateway_pool(POOL, nodes=2, prefix_size=30)
    say(f"making the prefix pip-{CONFIGURATION} and the configuration default/{CONFIGURATION}")
    prefix = await world.provide(CONFIGURATION, POOL)
    say(f"deploying {APP}: two pods that leave from {prefix}")
    pods = await world.deploy(APP, configuration=CONFIGURATION, replicas=2)
    gateways = await world.nodes(pool=POOL)
    return Playground(pod=pods[0], gateway=gateways[0]["metadata"]["name"], prefix=prefix)


async def _take_up(world: World, say: Callable[[str], None]) -> None:
    """Waits for the cluster of a state file, if it holds one."""
    say("booting what the state file holds")
    try:
        cluster = await until(world.cluster_at_rest, timeout=120, what="the cluster")
    except RequestFailed as error:
        if error.status == 404:
            return
        raise
    if cluster["properties"]["provisioningState"] == "Failed":
        raise host.LabError("the state file's cluster does not start: see lab.log of the lab")
    await world.get_credentials()
