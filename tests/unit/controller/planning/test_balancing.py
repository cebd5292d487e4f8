"""Which rules a pool's part of the load balancer has: pure, by tables."""

from __future__ import annotations

from egress_gateway.cloud.protocol import BalancingRule, LoadBalancer, PoolRef, PoolState
from egress_gateway.controller.planning.balancing import MAX_RULES, Balancing
from egress_gateway.controller.planning.wanted import Names, Wanted

POOL = PoolRef(key="pool", kind="template", resource_group="rg", resource_name="vmss")


def rules_of(state: PoolState, everyone: list[Wanted]) -> dict[str, BalancingRule]:
    (step,) = Balancing(state, everyone, ()).grows()
    return {rule.name: rule for rule in step.action.rules}  # type: ignore[union-attr]


def test_second_rules_stay_within_a_nic_s_limit_and_first_ones_come_first() -> None:
    """Azure refuses the whole document otherwise, for everybody."""
    everyone = [Wanted(uid=f"u{n:03}", names=Names.of(f"u{n:03}"), second=True) for n in range(250)]
    stranger = BalancingRule(
        name="theirs",
        pool="pool",
        frontend="pool",
        port=80,
        backend_port=80,
        probe_path="/",
        probe_port=80,
    )
    state = PoolState(ref=POOL, balancer=LoadBalancer(exists=True, rules={"theirs": stranger}))
    rules = rules_of(state, everyone)
    assert len(rules) == MAX_RULES - 1
    assert rules.keys() >= {w.names.rule for w in everyone}

    balancer = LoadBalancer(exists=True, rules=rules | {"theirs": stranger})
    over = [w if w.names.second_rule not in rules else unhurried(w) for w in everyone]
    (step,) = Balancing(PoolState(ref=POOL, balancer=balancer), over, ()).grows()
    then = {rule.name for rule in step.action.rules} - rules.keys()  # type: ignore[union-attr]
    assert len(then) == MAX_RULES - 1 - len(everyone)
    assert then <= {w.names.second_rule for w in over if w.second}


def unhurried(w: Wanted) -> Wanted:
    return Wanted(uid=w.uid, names=w.names)
