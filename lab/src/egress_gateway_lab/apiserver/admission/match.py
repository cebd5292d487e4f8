"""Which requests an admission policy is asked about: its ``matchConstraints``.

https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/. Policies never
see the kinds that say what admission is: one that refused them could not be mended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from egress_gateway_lab.apiserver.objects import Object, labels_of
from egress_gateway_lab.apiserver.requests import Request
from egress_gateway_lab.apiserver.storage.registry import ResourceType
from egress_gateway_lab.apiserver.storage.selectors import selector_predicate

GROUP = "admissionregistration.k8s.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A write that is asked for. ``namespace`` is the Namespace that the object lies in, None for
    what lies in none. ``versions`` are all versions that the resource is served in."""

    operation: str
    resource: ResourceType
    versions: Sequence[str]
    request: Request
    obj: Object | None
    old: Object | None
    namespace: Object | None
    subresource: str = ""

    @property
    def name(self) -> str:
        if self.request.target.plural and self.request.verb == "deletecollection":
            return ""
        name: str = self._any["metadata"].get("name", "")
        return name

    @property
    def _any(self) -> Object:
        found = self.obj if self.obj is not None else self.old
        assert found is not None
        return found


def matches(constraints: Mapping[str, Any], attempt: Attempt) -> bool:
    """``MatchResources``; constraints without rules (a binding's) take whatever comes."""
    if attempt.resource.group == GROUP:
        return False
    exact = constraints.get("matchPolicy") == "Exact"
    rules = constraints.get("resourceRules")
    if rules and not any(_rule(rule, attempt, exact=exact) for rule in rules):
        return False
    excluded = constraints.get("excludeResourceRules") or []
    if any(_rule(rule, attempt, exact=exact) for rule in excluded):
        return False
    return _in_namespace(constraints, attempt) and _labelled(constraints, attempt)


def _rule(rule: Mapping[str, Any], attempt: Attempt, *, exact: bool) -> bool:
    rt = attempt.resource
    versions = [rt.version] if exact else attempt.versions
    wanted = "/".join(p for p in (rt.plural, attempt.subresource) if p)
    resources = rule.get("resources") or []
    named = rule.get("resourceNames")
    scope = rule.get("scope", "*")
    return (
        _has(rule.get("apiGroups"), rt.group)
        and any(_has(rule.get("apiVersions"), version) for version in versions)
        and _has(rule.get("operations"), attempt.operation)
        and (wanted in resources or ("*" in resources and not attempt.subresource))
        and (not named or attempt.name in named)
        and scope in ("*", "Namespaced" if rt.namespaced else "Cluster")
    )


def _has(values: Any, wanted: str) -> bool:
    return bool(values) and ("*" in values or wanted in values)


def _in_namespace(constraints: Mapping[str, Any], attempt: Attempt) -> bool:
    """A Namespace counts as lying in itself; what lies in none is not asked for its labels."""
    select = selector_predicate(constraints.get("namespaceSelector") or {})
    if attempt.resource.storage == "namespaces":
        return select(labels_of(attempt.obj or attempt.old or {}))
    return attempt.namespace is None or select(labels_of(attempt.namespace))


def _labelled(constraints: Mapping[str, Any], attempt: Attempt) -> bool:
    select = selector_predicate(constraints.get("objectSelector") or {})
    return any(select(labels_of(obj)) for obj in (attempt.obj, attempt.old) if obj is not None)
