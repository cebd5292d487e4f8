"""Which gateway pool a configuration means: pure look-ups in what the cloud listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from egress_gateway.api.conditions import Reason
from egress_gateway.api.types import StaticGatewayConfigurationSpec
from egress_gateway.api.validation import validate_spec
from egress_gateway.cloud.protocol import Advice, PoolRef
from egress_gateway.controller.planning.problem import Problem


@dataclass(frozen=True, slots=True)
class Target:
    """The pool, and the prefix size that it asks of this configuration."""

    pool: PoolRef
    prefix_size: int


def resolve(
    spec: StaticGatewayConfigurationSpec,
    pools: Iterable[PoolRef],
    *,
    resource_group: str,
    advice: Advice,
    refused: Mapping[str, Problem] | None = None,
) -> Target | Problem:
    """The pool that ``spec`` names, or why there is none. ``refused``: why the pools of another
    group (in lower case) are not known."""
    problems = validate_spec(spec)
    if problems:
        text = "; ".join(str(problem) for problem in problems)
        return Problem(reason=Reason.INVALID_SPEC, message=text, accepted=False)
    if spec.gateway_nodepool_name:
        return _by_tag(spec.gateway_nodepool_name, list(pools), resource_group, advice)
    profile = spec.gateway_vmss_profile
    for pool in pools:
        if (
            pool.resource_group.lower() == profile.vmss_resource_group.lower()
            and pool.resource_name.lower() == profile.vmss_name.lower()
        ):
            return _usable(Target(pool, profile.public_ip_prefix_size))
    return (refused or {}).get(profile.vmss_resource_group.lower()) or _unknown(
        advice.no_such_pool(profile.vmss_resource_group, profile.vmss_name)
    )


def _usable(target: Target) -> Target | Problem:
    pool = target.pool
    if not pool.unusable:
        return target
    message = f"gateway pool {pool.name or pool.resource_name} {pool.unusable}"
    return Problem(reason=Reason.POOL_UNUSABLE, message=message, accepted=False)


def _by_tag(name: str, pools: list[PoolRef], group: str, advice: Advice) -> Target | Problem:
    here = [p for p in pools if p.resource_group.lower() == group.lower()]
    found = next((p for p in here if p.name == name), None)
    if found is None:
        known = sorted(p.name for p in here if p.prefix_size is not None)
        others = f"gateway pools: {', '.join(known)}" if known else "there is no gateway pool yet"
        return _unknown(
            f"no node pool {name!r} in resource group {group} ({others}); create it: "
            f"{advice.create_pool(name)}"
        )
    if found.prefix_size is None:
        return _unknown(f"node pool {name!r} is not a gateway pool: {advice.no_gateway_pool()}")
    return _usable(Target(found, found.prefix_size))


def _unknown(message: str) -> Problem:
    return Problem(reason=Reason.POOL_NOT_FOUND, message=message, accepted=False)
