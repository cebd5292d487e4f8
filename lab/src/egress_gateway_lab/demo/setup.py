"""``lab up``: a lab that stays, with the cluster that every story begins with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from egress_gateway_lab import host
from egress_gateway_lab.azure.client import RequestFailed
from egress_gateway_lab.demo.world import VERSIONS, World, until


async def bring_up(
    name: str,
    *,
    empty: bool,
    nodes: int,
    say: Callable[[str], None],
    state: Path | None = None,
    kubernetes: str = "embedded",
) -> host.LabHandle:
    """Starts lab ``name`` and, unless ``empty``, makes resource group and cluster.

    ``state``: absolute path of a file that Azure's resources are kept in; what it holds already
    is taken as it is and its machines are booted. ``kubernetes``: ``embedded`` or ``real``. Raises
    ``LabError``. A lab that cannot be completed is ended again.
    """
    say("starting the lab")
    options = {"kubernetes": kubernetes, **({"state": str(state)} if state else {})}
    handle = await asyncio.to_thread(host.start, name, options=options, detach=True, progress=say)
    try:
        async with World(handle) as world:
            if state and await world.groups():
                await _take_up(world, say)
            elif not empty:
                say("creating resource group and cluster")
                await world.create_group()
                await world.create_cluster(nodes=nodes, version=VERSIONS[kubernetes])
                await world.get_credentials()
    except BaseException:
        host.stop(handle)
        raise
    return handle


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
