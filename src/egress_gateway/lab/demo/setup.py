"""``lab up``: a lab that stays, with the cluster that every story begins with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from egress_gateway.lab import host
from egress_gateway.lab.demo.world import World


async def bring_up(
    name: str, *, empty: bool, nodes: int, say: Callable[[str], None]
) -> host.LabHandle:
    """Starts lab ``name`` and, unless ``empty``, makes resource group and cluster.

    Raises ``LabError``. A lab that cannot be completed is ended again.
    """
    say("starting the lab")
    handle = await asyncio.to_thread(host.start, name, detach=True, progress=say)
    if empty:
        return handle
    try:
        async with World(handle) as world:
            say("creating resource group and cluster")
            await world.create_group()
            await world.create_cluster(nodes=nodes)
            await world.get_credentials()
    except BaseException:
        host.stop(handle)
        raise
    return handle
