"""Gateway pools in the controller's own resource group and in those that configurations name.

Anybody who may write a configuration may write the name of a group there. What cannot be read in
such a group is the trouble of those who name it, and of nobody else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.cloud.errors import CloudError
from egress_gateway.cloud.protocol import Cloud, PoolRef
from egress_gateway.controller.problem import Problem


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
    refused: dict[str, Problem] = {}
    for key, group in sorted(named.items()):
        if key in ("", cloud.resource_group.lower()):
            continue
        try:
            pools += await cloud.pools_of(group)
        except CloudError as error:
            refused[key] = Problem.of(error)
    return Found(pools, refused)
