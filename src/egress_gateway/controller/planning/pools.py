"""Which gateway pool a configuration means: pure look-ups in what the cloud listed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from egress_gateway.api import names
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


@dataclass(frozen=True, slots=True)
class Joined:
    """How many of a scale set's machines are Nodes of this cluster: marked as gateways, others."""

    gateways: int = 0
    others: int = 0


def not_for_gateways(
    pool: PoolRef, joined: Joined, *, strict: bool, held: bool, advice: Advice
) -> Problem | None:
    """Why ``gatewayVmssProfile`` must not name ``pool``. The controller may write more scale sets
    than are gateways, such as those of the cluster's workers, and a tenant names what he likes. An
    administrator says which are gateways: with the tag of AKS's gateway pools, or on their Nodes,
    which no tenant and no kubelet can mark. ``strict``: nothing else will do. ``held``: the
    configuration lives there, so that a pool without nodes is one that was scaled to none."""
    marked = pool.prefix_size is not None or joined.gateways > 0
    if marked or pool.kind != "template" or (held and not joined.others):
        return None
    if joined.others:
        why = "none of its nodes is marked as a gateway"
    elif pool.managed or strict:
        why = f"no node of it has joined this cluster, and {advice.no_gateway_pool()}"
    else:
        return None
    label = f"{names.GATEWAY_NODE_LABEL}=true"
    return Problem(
        reason=Reason.POOL_NOT_ALLOWED,
        message=f"scale set {pool.resource_name} is no gateway pool: {why}; name a gateway pool in "
        "spec.gatewayVmssProfile, or have an administrator of the cluster mark its nodes, if "
        f"they do nothing else: kubectl label node NODE {label} && "
        f"kubectl taint node NODE {label}:NoSchedule",
        accepted=False,
    )


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
    if pool.unread:
        return Problem.of(pool.unread)
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
