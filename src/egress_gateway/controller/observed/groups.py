"""Gateway pools in the controller's own resource group and in those that configurations name.

A user who may write a configuration can name any group in it. If we cannot read a group, only the
configurations that name it have a problem.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.cloud.errors import CloudError
from egress_gateway.cloud.protocol import Cloud, PoolRef
from egress_gateway.controller.planning.problem import Problem

AT_ONCE: Final = 8
"""Groups that are read at the same time: some may be slow, and there may be many."""


@dataclass(frozen=True, slots=True)
class Found:
    """``refused``: why the pools of a group (in lower case) could not be listed."""

    pools: list[PoolRef]
    refused: Mapping[str, Problem]


async def find_pools(cloud: Cloud, configurations: Iterable[StaticGatewayConfiguration]) -> Found:
    """Raises ``CloudError`` if the controller's own group cannot be read."""
    pools = await cloud.pools()
    profiles = (sgc.spec.gateway_vmss_profile for sgc in configurations)
    named = {p.vmss_resource_group.lower(): p.vmss_resource_group for p in profiles}
    others = {k: g for k, g in named.items() if k not in ("", cloud.resource_group.lower())}
    gate = asyncio.Semaphore(AT_ONCE)
    listed = await asyncio.gather(*(_listed(cloud, group, gate) for group in others.values()))
    refused: dict[str, Problem] = {}
    for key, found in zip(others, listed, strict=True):
        if isinstance(found, CloudError):
            refused[key] = Problem.of(found)
        else:
            pools += found
    return Found(pools, refused)


async def _listed(cloud: Cloud, group: str, gate: asyncio.Semaphore) -> list[PoolRef] | CloudError:
    async with gate:
        try:
            return await cloud.pools_of(group)
        except CloudError as error:
            return error
