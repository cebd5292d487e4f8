"""Finds unrecorded names of resources from Azure itself. Pure, except for ``recognise_all``.

Somebody deleted the Go project's objects by force, and the UIDs that they carried are only in
Azure's names. The probe path of the rule contains the configuration's UID. Its ipConfig must
be one of those in the pool that belong to no configuration we know. It must lead to the brought
prefix, to the managed prefix of the addresses in the status, or (in private mode) have these very
addresses. Only a single candidate is believed: a wrong guess would take another's addresses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from egress_gateway.api.conditions import Reason
from egress_gateway.api.names import is_ipv6_config, key_secret
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.cloud.protocol import Cloud, LoadBalancer, PoolRef, PoolState
from egress_gateway.controller.observed.record import annotations_of
from egress_gateway.controller.planning.pools import resolve
from egress_gateway.controller.planning.problem import Problem
from egress_gateway.controller.planning.wanted import SECOND, Names


def nameless(known: Iterable[Names], balancer: LoadBalancer) -> dict[Names, str]:
    """Of those in ``known`` who have no rule of their name: the rule with their probe path."""
    usual = (rule for rule in balancer.rules.values() if not rule.name.endswith(SECOND))
    by_path = {rule.probe_path: rule.name for rule in usual}
    return {
        names: by_path[names.probe_path]
        for names in known
        if names.rule not in balancer.rules and names.probe_path in by_path
    }


def recognise(
    sgc: StaticGatewayConfiguration, rule: str, state: PoolState, taken: Collection[str]
) -> Names | None:
    """``taken`` are ipConfigs of configurations whose names are known. None: cannot be told."""
    found = candidates(sgc, state, taken)
    if len(found) != 1:
        return None
    return replace(Names.of(sgc.metadata.uid), rule=rule, ip_config=found[0])


def candidates(
    sgc: StaticGatewayConfiguration, state: PoolState, taken: Collection[str]
) -> list[str]:
    """ipConfigs of the pool that could be ``sgc``'s, by name."""
    seen: dict[str, str | None] = dict(state.model.configs)
    for instance in state.instances:
        seen |= instance.interface.configs
    return [
        name
        for name, prefix in sorted(seen.items())
        if name not in taken and not is_ipv6_config(name) and _fits(sgc, name, prefix, state)
    ]


@dataclass(frozen=True, slots=True)
class Recognised:
    """By UID: names that were told, and why others could not be."""

    told: Mapping[str, Names]
    untold: Mapping[str, Problem]


async def recognise_all(
    cloud: Cloud,
    live: Mapping[str, StaticGatewayConfiguration],
    known: Mapping[str, Names],
    pools: Collection[PoolRef],
    *,
    balancer: LoadBalancer,
    keys_namespace: str,
) -> Recognised:
    """Looks at the pools of those in ``live`` who have no rule under the names in ``known``.
    Raises ``CloudError``; asks the cloud nothing if there are none."""
    rules = nameless(known.values(), balancer)
    taken = {names.ip_config for names in known.values()}
    told: dict[str, Names] = {}
    untold: dict[str, Problem] = {}
    for uid, sgc in live.items():
        rule = rules.get(known[uid])
        target = resolve(sgc.spec, pools, resource_group=cloud.resource_group, advice=cloud.advice)
        if rule is None or isinstance(target, Problem):
            continue
        state = await cloud.observe(target.pool, [])
        found = recognise(sgc, rule, state, taken)
        if found:
            told[uid] = found
        else:
            options = candidates(sgc, state, taken)
            untold[uid] = unrecognised(uid, rule, options, keys_namespace)
    return Recognised(told, untold)


def _fits(sgc: StaticGatewayConfiguration, name: str, prefix: str | None, state: PoolState) -> bool:
    told = sgc.status.egress_ip_prefix
    if not sgc.spec.provision_public_ips:
        return prefix is None and _secondaries(name, state) == set(told.split(","))
    if sgc.spec.public_ip_prefix_id:
        return prefix == sgc.spec.public_ip_prefix_id.lower()
    made = state.managed.get(name)
    return (
        made is not None and str(made.network) == told.split(",")[0] and prefix == made.id.lower()
    )


def _secondaries(name: str, state: PoolState) -> set[str]:
    addresses = (instance.addresses.get(name) for instance in state.instances)
    return {str(a.secondary) for a in addresses if a and a.secondary}


def unrecognised(uid: str, rule: str, found: list[str], keys_namespace: str) -> Problem:
    """What a person must do."""
    some = f"it could be any of {', '.join(found)}" if found else "no ipConfig of the pool fits"
    known = replace(Names.of(uid), rule=rule, ip_config="egressgateway-<uid>")
    spelled = " ".join(f"{key}={value}" for key, value in annotations_of(known).items())
    return Problem(
        reason=Reason.CONFLICT,
        message=f"load balancing rule {rule} was made for this configuration under a name that "
        f"nobody recorded, and its ipConfig cannot be told ({some}); write both down: kubectl "
        f"annotate secret -n {keys_namespace} {key_secret(uid)} --overwrite {spelled}",
    )
