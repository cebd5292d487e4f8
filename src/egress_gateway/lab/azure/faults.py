"""Faults on purpose: rules that make chosen requests fail the way Azure fails.

A rule matches by method, by a regular expression on the path, and for a number of requests; the
first matching rule acts. Failing operations (accepted, then ``Failed``) are rules as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from egress_gateway.lab.azure.errors import ArmError

Kind = Literal["conflict", "throttle", "error", "cut", "fail-operation", "delay"]


@dataclass(slots=True, kw_only=True)
class Fault:
    """What happens to a matching request.

    ``conflict`` answers 409 AnotherOperationInProgress, ``throttle`` 429 with ``retry_after``
    seconds, ``error`` the given ``status`` and ``code``; ``cut`` carries the request out and
    breaks the connection in mid-answer; ``fail-operation`` lets the accepted operation end as
    Failed with ``code``; ``delay`` keeps the answer back for ``seconds``.
    """

    kind: Kind
    method: str = "*"
    path: str = "^/subscriptions/"
    """Regular expression searched in the path, without regard to case. Unless it says otherwise,
    signing in and discovery are spared."""
    times: int | None = 1
    """How many requests; None: until removed."""
    status: int = 500
    code: str = "InternalServerError"
    message: str = "An error occurred."
    retry_after: int = 1
    seconds: float = 1.0
    id: int = field(default_factory=count(1).__next__)
    hits: int = 0

    def matches(self, method: str, path: str) -> bool:
        if self.times is not None and self.hits >= self.times:
            return False
        if self.method not in ("*", method):
            return False
        return re.search(self.path, path, re.IGNORECASE) is not None

    def error(self) -> ArmError | None:
        """The answer that replaces the request's own, if this kind has one."""
        if self.kind == "conflict":
            return ArmError(
                409,
                "AnotherOperationInProgress",
                "Another operation on this or dependent resource is in progress.",
                headers={"Retry-After": str(self.retry_after)},
            )
        if self.kind == "throttle":
            return ArmError(
                429,
                "SubscriptionRequestsThrottled",
                "Number of requests for subscription exceeded the limit. Please try again after "
                f"'{self.retry_after}' seconds.",
                headers={"Retry-After": str(self.retry_after)},
            )
        if self.kind == "error":
            return ArmError(self.status, self.code, self.message)
        return None


class Faults:
    """The rules in force. ``add`` returns the rule, whose ``hits`` tells if it acted."""

    def __init__(self) -> None:
        self._rules: list[Fault] = []

    def add(self, kind: Kind, **options: Any) -> Fault:
        """Adds a rule; options are the fields of ``Fault``."""
        rule = Fault(kind=kind, **options)
        re.compile(rule.path)
        self._rules.append(rule)
        return rule

    def remove(self, rule_id: int) -> None:
        self._rules = [r for r in self._rules if r.id != rule_id]

    def clear(self) -> None:
        self._rules.clear()

    def rules(self) -> list[Fault]:
        return list(self._rules)

    def take(self, method: str, path: str) -> Fault | None:
        """The rule for this request, counted as used."""
        for rule in self._rules:
            if rule.matches(method, path):
                rule.hits += 1
                return rule
        return None
