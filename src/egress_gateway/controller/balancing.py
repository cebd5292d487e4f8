"""The load balancer's part of a plan: which rule on which port, frontend and backend. Pure.

A rule keeps its port for life, whatever else is edited: pods know it. Growing and shrinking are two
writes of the document because a backend can only go when nobody refers to it any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from egress_gateway.api import names
from egress_gateway.cloud.protocol import PoolState, Rule, WriteBalancer
from egress_gateway.controller.wanted import BUSY, Step, Wanted

_PORTS: Final = range(names.PORT_FIRST, names.PORT_LAST + 1)


def _in_range(port: int) -> bool:
    return port in _PORTS


class Balancing:
    """``kept``: UIDs of configurations in trouble, which keep what they have."""

    def __init__(self, state: PoolState, everyone: Sequence[Wanted], kept: Collection[str]) -> None:
        self._state = state
        self._everyone = everyone
        self._kept = kept
        self._by_rule = {w.names.rule: w.uid for w in everyone}
        self._rules = self._desired_rules()

    def rule_of(self, wanted: Wanted) -> Rule | None:
        return self._rules.get(wanted.names.rule)

    def _desired_rules(self) -> dict[str, Rule]:
        key = self._state.ref.key
        observed = self._state.balancer.rules
        taken = set(self._state.balancer.ports.get(key, frozenset()))
        rules: dict[str, Rule] = {}
        claimed: set[int] = set()
        newcomers = []
        for w in self._everyone:
            rule = observed.get(w.names.rule)
            present = rule is not None and rule.pool == key
            if w.leaving or (w.uid in self._kept and not present):
                continue
            if present and rule and _in_range(rule.port) and rule.port not in claimed:
                claimed.add(rule.port)
                rules[w.names.rule] = self._rule(w, rule.port)
            else:
                newcomers.append(w)
        taken |= claimed
        for w in newcomers:
            port = next((p for p in _PORTS if p not in taken), None)
            if port is not None:
                taken.add(port)
                rules[w.names.rule] = self._rule(w, port)
        return rules

    def _rule(self, wanted: Wanted, port: int) -> Rule:
        key = self._state.ref.key
        return Rule(
            name=wanted.names.rule,
            pool=key,
            frontend=key,
            port=port,
            backend_port=port,
            probe_path=wanted.names.probe_path,
            probe_port=names.HEALTH_PORT,
        )

    def _here(self) -> dict[str, Rule]:
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
        observed = self._state.balancer
        key = self._state.ref.key
        stale = [name for name in self._here() if name not in self._rules]
        others = [r for r in observed.rules.values() if r.pool == key and r.name not in stale]
        needed = bool(self._rules or others)
        leftover = not needed and (key in observed.frontends or key in observed.backends)
        if not stale and not leftover:
            return ()
        if leftover and self._joined_elsewhere():
            return tuple(self._write_balancer(True, stale)) if stale else ()
        return tuple(self._write_balancer(needed, stale))

    def _joined_elsewhere(self) -> bool:
        """A busy instance that we may not write now still refers to the backend."""
        return any(
            i.attachment.joined and i.state in BUSY and i.state != "Deleting"
            for i in self._state.instances
        )
