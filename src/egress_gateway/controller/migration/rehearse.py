"""What the controller's first pass would write to the cloud, without writing: for `migrate`.

Reads only. Uses the very ``resolve`` and ``plan`` that the controller acts by, with the names that
a take-over would put in force; so an empty answer means that nothing would change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.cloud.protocol import (
    Action,
    Cloud,
    CreatePrefix,
    DeleteAddress,
    DeletePrefix,
    PoolRef,
    WriteBalancer,
    WriteInstance,
    WriteModel,
)
from egress_gateway.controller.migration.recognise import recognise_all
from egress_gateway.controller.observed.groups import find_pools
from egress_gateway.controller.planning.plan import Plan, plan
from egress_gateway.controller.planning.pools import Target, resolve
from egress_gateway.controller.planning.problem import Problem
from egress_gateway.controller.planning.wanted import Names, Wanted
from egress_gateway.kube.resources import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """``writes``: one line a document that would be written. ``problems``: what stands in the
    way, by configuration."""

    writes: tuple[str, ...] = ()
    problems: Mapping[Key, str]


async def rehearse(
    cloud: Cloud,
    configurations: Iterable[StaticGatewayConfiguration],
    recorded: Mapping[str, Names],
    *,
    keys_namespace: str,
) -> Rehearsal:
    """Raises ``CloudError``. Configurations that are being deleted are left out."""
    live = [sgc for sgc in configurations if not sgc.metadata.deletion_timestamp]
    listed = await find_pools(cloud, live)
    known = {uid: recorded.get(uid, Names.of(uid)) for uid in (s.metadata.uid for s in live)}
    found = await recognise_all(
        cloud,
        {sgc.metadata.uid: sgc for sgc in live},
        known,
        listed.pools,
        balancer=await cloud.balancer(),
        keys_namespace=keys_namespace,
    )
    known |= found.told
    problems: dict[Key, str] = {}
    members: dict[PoolRef, list[Wanted]] = defaultdict(list)
    for sgc in live:
        target = resolve(
            sgc.spec,
            listed.pools,
            resource_group=cloud.resource_group,
            advice=cloud.advice,
            refused=listed.refused,
        )
        if isinstance(target, Problem):
            problems[_key(sgc)] = target.message
        else:
            wanted = _wanted(sgc, target, known[sgc.metadata.uid], found.untold)
            members[target.pool].append(wanted)
    plans = [await _planned(cloud, pool, wanted) for pool, wanted in members.items()]
    steps = (step for one in plans for stage in one.stages for step in stage)
    verdicts = {uid: verdict for one in plans for uid, verdict in one.verdicts.items()}
    for sgc in live:
        verdict = verdicts.get(sgc.metadata.uid)
        if verdict is not None and verdict.problem:
            problems[_key(sgc)] = verdict.problem.message
    return Rehearsal(writes=tuple(_line(step.action) for step in steps), problems=problems)


async def _planned(cloud: Cloud, pool: PoolRef, wanted: list[Wanted]) -> Plan:
    brought = {p for w in wanted for p in (w.prefix_id, w.prefix_id6) if p}
    state = await cloud.observe(pool, brought)
    managed = {w.names.ip_config: cloud.managed_prefix_id(w.names.ip_config) for w in wanted}
    return plan(state, wanted, advice=cloud.advice, managed_ids=managed)


def _wanted(
    sgc: StaticGatewayConfiguration,
    target: Target,
    known: Names,
    untold: Mapping[str, Problem],
) -> Wanted:
    uid = sgc.metadata.uid
    return Wanted(
        uid=uid,
        names=known,
        private=not sgc.spec.provision_public_ips,
        prefix_id=sgc.spec.public_ip_prefix_id,
        prefix_id6=sgc.spec.public_ip_prefix_id_v6,
        prefix_size=target.prefix_size,
        problem=untold.get(uid),
    )


def _key(sgc: StaticGatewayConfiguration) -> Key:
    return Key(sgc.metadata.namespace, sgc.metadata.name)


def _line(action: Action) -> str:
    match action:
        case CreatePrefix():
            return f"create public IP prefix {action.name} (/{action.size})"
        case WriteBalancer():
            rules = ", ".join(f"{rule.name} on {rule.port}" for rule in action.rules)
            return f"write the load balancer's part of pool {action.pool.name}: rules {rules}"
        case WriteModel():
            return f"write the model of pool {action.pool.resource_name}"
        case WriteInstance():
            return f"write {action.instance}"
        case DeletePrefix() | DeleteAddress():
            return f"delete {action.name}"
        case _:
            return f"{type(action).__name__}: {action}"
