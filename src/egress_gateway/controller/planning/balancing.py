"""The load balancer's part of a plan: which rule on which port, frontend and backend. Pure.

A rule keeps its port for life, whatever else is edited: pods know it. Growing and shrinking are two
writes of the document because a backend can only go when nobody refers to it any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from egress_gateway.api import names
from egress_gateway.cloud.protocol import BalancingRule, PoolState, WriteBalancer
from egress_gateway.controller.planning.wanted import BUSY, Step, Wanted

MAX_RULES: Final = 300
"""Load balancer rules of one NIC (Azure subscription and service limits). A pool that is full of
configurations keeps this many free for second rules, which come and go."""
_PORTS: Final = range(names.PORT_FIRST, names.PORT_LAST + 1)


def _in_range(port: int) -> bool:
    return port in _PORTS


def _rules_of(wanted: Wanted) -> tuple[str, str]:
    return wanted.names.rule, wanted.names.second_rule


class Balancing:
    """``kept``: UIDs of configurations in trouble, which keep what they have."""

    def __init__(self, state: PoolState, everyone: Sequence[Wanted], kept: Collection[str]) -> None:
        self._state = state
        self._everyone = everyone
        self._kept = kept
        self._by_rule = {rule: w.uid for w in everyone for rule in _rules_of(w)}
        self._rules = self._desired_rules()

    def rule_of(self, wanted: Wanted) -> BalancingRule | None:
        """The rule that the configuration should have; None: it gets none now."""
        return self._rules.get(wanted.names.rule)

    def _desired_rules(self) -> dict[str, BalancingRule]:
        key = self._state.ref.key
        here = {n: r for n, r in self._state.balancer.rules.items() if r.pool == key}
        taken = set(self._state.balancer.ports.get(key, frozenset()))
        rules: dict[str, BalancingRule] = {}
        claimed: set[int] = set()
        newcomers = []
        for w, name in self._wanted(here):
            rule = here.get(name)
            port = self._given(w, name, here) or (rule.port if rule else 0)
            if _in_range(port) and port not in claimed:
                claimed.add(port)
                rules[name] = self._rule(w, name, port)
            else:
                newcomers.append((w, name))
        taken |= claimed
        room = MAX_RULES - len(here.keys() - self._by_rule.keys())
        for w, name in sorted(newcomers, key=lambda new: new[1] == new[0].names.second_rule):
            if name == w.names.second_rule and len(rules) >= room:
                continue  # its turn comes when another change of keys is over
            free = next((p for p in _PORTS if p not in taken), None)
            if free is not None:
                taken.add(free)
                rules[name] = self._rule(w, name, free)
        return rules

    def _wanted(self, here: Mapping[str, BalancingRule]) -> Iterable[tuple[Wanted, str]]:
        """Which rules there are to be. Who is in trouble keeps those that there are."""
        for w in self._everyone:
            kept = w.uid in self._kept
            if not w.leaving and (not kept or w.names.rule in here):
                yield w, w.names.rule
            if not w.leaving and (w.names.second_rule in here if kept else w.second):
                yield w, w.names.second_rule

    def _given(self, wanted: Wanted, name: str, here: Mapping[str, BalancingRule]) -> int:
        """The port that the rule of the usual name takes over from the second; 0: none."""
        if wanted.uid in self._kept or name != wanted.names.rule:
            return 0
        own = _rules_of(wanted)
        others = {rule.port for rule in here.values() if rule.name not in own}
        return 0 if wanted.port in others else wanted.port

    def _rule(self, wanted: Wanted, name: str, port: int) -> BalancingRule:
        key = self._state.ref.key
        return BalancingRule(
            name=name,
            pool=key,
            frontend=key,
            port=port,
            backend_port=port,
            probe_path=wanted.names.probe_path,
            probe_port=names.HEALTH_PORT,
        )

    def _here(self) -> dict[str, BalancingRule]:
        """Our rules that this pool's backend has now."""
        key = self._state.ref.key
        return {
            name: rule
            for name, rule in self._state.balancer.rules.items()
            if name in self._by_rule and rule.pool == key
        }

    def _write_balancer(self, present: bool, changed: Iterable[str]) -> list[Step]:
        action = WriteBalancer(
            pool=self._state.ref,
            rules=tuple(sorted(self._rules.values(), key=lambda r: r.port)),
            names=frozenset(self._by_rule),
            present=present,
        )
        return [Step(action, frozenset(self._by_rule[name] for name in changed))]

    def grows(self) -> tuple[Step, ...]:
        """Rules to add or mend, frontend or backend missing although there are rules. What Azure
        failed to write, nothing may refer to until the same write has succeeded."""
        observed = self._state.balancer
        key = self._state.ref.key
        changed = [n for n, rule in self._rules.items() if observed.rules.get(n) != rule]
        lacking = self._rules and not (key in observed.frontends and key in observed.backends)
        failed = bool(self._rules) and observed.failed
        if not changed and not lacking and not failed:
            return ()
        return tuple(self._write_balancer(True, changed or self._rules))

    def shrinks(self) -> tuple[Step, ...]:
        """Rules to remove, or the pool's whole part once nothing of ours is left on it."""
        if self.grows():
            return ()
        stale = [name for name in self._here() if name not in self._rules]
        if self._leftover() and not self.held_back:
            leaving = [w.names.rule for w in self._everyone if w.leaving]
            return tuple(self._write_balancer(False, stale or leaving))
        return tuple(self._write_balancer(True, stale)) if stale else ()

    @property
    def held_back(self) -> bool:
        """The pool's part is to go, and cannot yet: Azure removes no backend that a network
        interface refers to. That of a busy machine may, whatever the machine's document says of
        it already, and that of one which still carries packets of what is leaving."""
        held = any(
            i.state in BUSY or any(w.carried_by(i) for w in self._everyone)
            for i in self._state.instances
            if i.state != "Deleting"
        )
        return held and self._leftover()

    def _leftover(self) -> bool:
        """Whether the pool's part is there although no rule needs it: of ours, or of others."""
        observed = self._state.balancer
        key = self._state.ref.key
        if self._rules or not (key in observed.frontends or key in observed.backends):
            return False
        return all(r.pool != key or r.name in self._by_rule for r in observed.rules.values())
