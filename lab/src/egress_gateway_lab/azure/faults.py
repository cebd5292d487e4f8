"""Faults on purpose: rules that make chosen requests fail the way Azure fails.

A rule matches by method, by a regular expression on the path, and for a number of requests; the
first matching rule acts. Failing operations (accepted, then ``Failed``) are rules as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from itertools import count
from typing import Any, Literal, get_args

from egress_gateway_lab.azure.arm.errors import ArmError

Kind = Literal[
    "conflict",
    "throttle",
    "error",
    "cut",
    "delay",
    "shape",
    "html",
    "answer",
    "garble",
    "deny",
    "fail-operation",
    "cancel-operation",
    "hang",
    "strip",
    "modify",
    "join-pool",
]
Denial = Literal["assignment", "links", "tenant"]
"""Why Azure forbids what roles allow: a deny assignment at the resource, one at what the request
refers to, or a subscription of another tenant."""
OperationShape = Literal["async", "location", "both"]
"""How an accepted operation is announced: by Azure-AsyncOperation, by Location, by both."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """What happens to a matching request.

    ``conflict`` answers 409 AnotherOperationInProgress, ``throttle`` 429 with ``retry_after``
    seconds, ``error`` the given ``status`` and ``code``; ``cut`` carries the request out and
    breaks the connection in mid-answer; ``fail-operation`` lets the accepted operation end as
    Failed with ``status`` and ``code``; ``delay`` keeps the answer back for ``seconds``;
    ``shape`` announces the accepted operation by the headers of ``shape``.

    ``html`` answers ``status`` with a front door's page in place of JSON; ``answer`` answers
    ``status``, ``headers`` and ``body`` as they are given, and ``garble`` does so when the request
    has been carried out (a proxy that spoils what passes); ``deny`` refuses for the
    reason ``denial``, whatever roles there are; ``cancel-operation`` lets the accepted operation
    end as Canceled.

    ``hang``: the accepted operation does not end until the rule is removed. ``strip``: when the
    accepted operation has ended, the NICs of the instances that it was about have lost all but
    their primary ipConfigs, while the instances' documents keep them (a rollout in place).
    ``modify``: the write is carried out without every member called ``drop``, and answered as if
    nothing had happened (Azure Policy with effect Modify, or a field that Azure forgets).
    ``join-pool``: just before the request, somebody adds the backend pool ``pool`` to the primary
    ipConfigs of the scale set that the path lies in (the cloud provider, for a Service).
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
    shape: OperationShape = "both"
    denial: Denial = "assignment"
    body: str = ""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    drop: str = "publicIPPrefix"
    pool: str = ""
    id: int = field(default_factory=count(1).__next__)
    hits: int = 0

    def matches(self, method: str, path: str) -> bool:
        if self.times is not None and self.hits >= self.times:
            return False
        if self.method.upper() not in ("*", method):
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
            wait = {"Retry-After": str(self.retry_after)} if self.status == 503 else {}
            return ArmError(self.status, self.code, self.message, headers=wait)
        return None


class Faults:
    """The rules in force. ``add`` returns the rule, whose ``hits`` tells if it acted."""

    def __init__(self, removed: Callable[[int], None] = lambda _: None) -> None:
        """``removed`` is called with the number of each rule that is taken away."""
        self._rules: list[Fault] = []
        self._removed = removed

    def add(self, kind: Kind, **options: Any) -> Fault:
        """Adds a rule; options are the fields of ``Fault``. Raises ``ValueError`` for what is
        none."""
        _check(kind, options)
        rule = Fault(kind=kind, **options)
        self._rules.append(rule)
        return rule

    def remove(self, rule_id: int) -> None:
        """Raises ``LookupError`` if there is no such rule."""
        if all(r.id != rule_id for r in self._rules):
            raise LookupError(f"no fault has the number {rule_id}")
        self._rules = [r for r in self._rules if r.id != rule_id]
        self._removed(rule_id)

    def clear(self) -> None:
        for rule in list(self._rules):
            self.remove(rule.id)

    def rules(self) -> list[Fault]:
        return list(self._rules)

    def command(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """What the control socket's ``fault`` does: adds a rule (``kind`` and its options),
        clears all (``clear: true``) or some of them, else lists. Raises ``ValueError``,
        ``LookupError``."""
        chosen = arguments.get("clear")
        if isinstance(chosen, list):
            for number in chosen:
                self.remove(number)
        elif chosen:
            self.clear()
        elif "kind" in arguments:
            return {"added": asdict(self.add(**arguments))}
        elif arguments:
            raise ValueError("name the kind of fault")
        return {"faults": [asdict(f) for f in self.rules()]}

    def take(self, method: str, path: str) -> Fault | None:
        """The rule for this request, counted as used."""
        for rule in self._rules:
            if rule.matches(method, path):
                rule.hits += 1
                return rule
        return None


def _check(kind: str, options: dict[str, Any]) -> None:
    if kind not in get_args(Kind):
        raise ValueError(f"no kind of fault is called {kind!r}: {', '.join(get_args(Kind))}")
    unknown = options.keys() - {f.name for f in fields(Fault)} | options.keys() & {"id", "hits"}
    if unknown:
        raise ValueError(f"a fault has no option {sorted(unknown)[0]!r}")
    try:
        re.compile(options.get("path", ""))
    except re.error as error:
        raise ValueError(f"path is no regular expression: {error}") from error


def without(body: Any, member: str) -> Any:
    """A copy of a request's body in which no object has a member of that name."""
    if isinstance(body, dict):
        return {k: without(v, member) for k, v in body.items() if k != member}
    if isinstance(body, list):
        return [without(v, member) for v in body]
    return body
