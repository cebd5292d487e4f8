"""The admission policies of a cluster: refused when they cannot be evaluated, asked at each write.

A policy is in force through its bindings, and at once: kube-apiserver takes a moment to notice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from egress_gateway_lab.apiserver import errors
from egress_gateway_lab.apiserver.admission.match import GROUP, Attempt, matches
from egress_gateway_lab.apiserver.admission.policy import Denial, Policy, PolicyError
from egress_gateway_lab.apiserver.cel.rules import CelRefusedError
from egress_gateway_lab.apiserver.errors import Cause
from egress_gateway_lab.apiserver.objects import Object
from egress_gateway_lab.apiserver.requests import Request
from egress_gateway_lab.apiserver.storage.registry import Registry, ResourceType
from egress_gateway_lab.apiserver.storage.store import Store

_CODES = {"Unauthorized": 401, "Forbidden": 403, "RequestEntityTooLarge": 413, "Invalid": 422}
_OPERATIONS = ("CREATE", "UPDATE", "DELETE")
_SHARED = frozenset({"failurePolicy", "matchConstraints", "matchConditions", "variables"})
_FIELDS = {
    "ValidatingAdmissionPolicy": _SHARED | {"validations"},
    "MutatingAdmissionPolicy": _SHARED | {"mutations", "reinvocationPolicy"},
    "ValidatingAdmissionPolicyBinding": {"policyName", "matchResources", "validationActions"},
    "MutatingAdmissionPolicyBinding": {"policyName", "matchResources"},
}
_MATCH_FIELDS = {
    "resourceRules",
    "excludeResourceRules",
    "namespaceSelector",
    "objectSelector",
    "matchPolicy",
}


class Policies:
    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._compiled: dict[tuple[str, str], tuple[str, Policy]] = {}

    def _attempt(
        self,
        operation: str,
        rt: ResourceType,
        obj: Object | None,
        old: Object | None,
        request: Request,
        subresource: str = "",
    ) -> Attempt:
        meta = (obj or old or {})["metadata"]
        inside = meta.get("namespace", "") if rt.namespaced else ""
        return Attempt(
            operation=operation,
            resource=rt,
            versions=[
                other.version
                for other in self._registry
                if (other.group, other.plural) == (rt.group, rt.plural)
            ],
            request=request,
            obj=obj,
            old=old,
            namespace=self._store.get("namespaces", ("", inside)) if inside else None,
            subresource=subresource,
        )

    def mutate(self, rt: ResourceType, obj: Object, old: Object | None, request: Request) -> Object:
        """The object as the policies want it, the very same one if they want nothing."""
        bound = list(self._bound("Mutating"))
        if not bound:
            return obj
        operation = "CREATE" if old is None else "UPDATE"
        left: list[Object] = []
        for policy, binding in bound:
            obj = self._mutate_one(policy, binding, operation, rt, obj, old, request)
            left.append(obj)
        for (policy, binding), seen in zip(bound, left, strict=True):
            # Others have changed the object since: once more, and no more than once.
            if policy.reinvoked and obj is not seen and obj != seen:
                obj = self._mutate_one(policy, binding, operation, rt, obj, old, request)
        return obj

    def _mutate_one(
        self,
        policy: Policy,
        binding: Object,
        operation: str,
        rt: ResourceType,
        obj: Object,
        old: Object | None,
        request: Request,
    ) -> Object:
        attempt = self._attempt(operation, rt, obj, old, request)
        try:
            if _binds(binding, attempt) and policy.concerns(attempt):
                return policy.mutate(attempt)
        except PolicyError as error:
            if not policy.ignores_errors:
                raise _refusal(policy, binding, attempt, Denial(str(error), "Invalid")) from error
        return obj

    def validate(
        self,
        operation: str,
        rt: ResourceType,
        obj: Object | None,
        old: Object | None,
        request: Request,
        subresource: str = "",
    ) -> list[str]:
        """Raises ``StatusError`` for what a policy refuses; returns warnings."""
        bound = list(self._bound("Validating"))
        if not bound:
            return []
        attempt = self._attempt(operation, rt, obj, old, request, subresource)
        warnings = []
        for policy, binding in bound:
            actions = binding["spec"].get("validationActions") or []
            for denial in _denials(policy, binding, attempt):
                if "Deny" in actions:
                    raise _refusal(policy, binding, attempt, denial)
                if "Warn" in actions:
                    warnings.append(
                        f"Validation failed for {policy.kind} '{policy.name}' with binding "
                        f"'{binding['metadata']['name']}': {denial.message}"
                    )
        return warnings

    def _bound(self, kind: str) -> Iterator[tuple[Policy, Object]]:
        """Policies in force with their bindings; in the order of the policies' names."""
        plural = f"{kind.lower()}admissionpolic"
        bindings = self._store.list(f"{plural}ybindings.{GROUP}")
        for binding in sorted(bindings, key=lambda b: str(b["spec"]["policyName"])):
            found = self._store.get(f"{plural}ies.{GROUP}", ("", binding["spec"]["policyName"]))
            if found is not None:
                yield self._policy(found), binding

    def _policy(self, obj: Object) -> Policy:
        key, version = (obj["kind"], obj["metadata"]["name"]), obj["metadata"]["resourceVersion"]
        known = self._compiled.get(key)
        if known is None or known[0] != version:
            known = self._compiled[key] = (version, Policy(obj))
        return known[1]


def _binds(binding: Object, attempt: Attempt) -> bool:
    return matches(binding["spec"].get("matchResources") or {}, attempt)


def _denials(policy: Policy, binding: Object, attempt: Attempt) -> Sequence[Denial]:
    try:
        if not (_binds(binding, attempt) and policy.concerns(attempt)):
            return ()
    except PolicyError as error:
        return () if policy.ignores_errors else (Denial(str(error), "Invalid"),)
    return policy.validate(attempt)


def _refusal(
    policy: Policy, binding: Object, attempt: Attempt, denial: Denial
) -> errors.StatusError:
    """kube-apiserver's words: "is forbidden" whatever the reason is."""
    error = errors.forbidden(
        attempt.resource.plural,
        attempt.resource.group,
        attempt.name,
        f"{policy.kind} '{policy.name}' with binding '{binding['metadata']['name']}' denied "
        f"request: {denial.message}",
    )
    details = {**(error.details or {}), "causes": [{"message": denial.message}]}
    return errors.StatusError(_CODES.get(denial.reason, 422), denial.reason, error.message, details)


# -- what a policy may be


def settle(obj: Object) -> None:
    """Defaults of a policy or binding, then refuses (``StatusError``) what cannot be evaluated."""
    try:
        _default(obj)
        causes = _causes(obj)
        if not causes and not obj["kind"].endswith("Binding"):
            causes = _compile_causes(obj)
    except (TypeError, AttributeError, KeyError, IndexError) as error:
        raise errors.bad_request(
            f"{obj['kind']} cannot be handled: a field is missing or of the wrong type "
            f"({type(error).__name__}: {error})"
        ) from error
    if causes:
        raise errors.invalid(obj["kind"], GROUP, obj["metadata"].get("name", ""), causes)


def _default(obj: Object) -> None:
    spec = obj["spec"]
    if obj["kind"].endswith("Binding"):
        constraints = spec.get("matchResources")
    else:
        spec.setdefault("failurePolicy", "Fail")
        constraints = spec.get("matchConstraints")
    if constraints is None:
        return
    constraints.setdefault("matchPolicy", "Equivalent")
    for name in ("namespaceSelector", "objectSelector"):
        constraints.setdefault(name, {})
    for rule in _rules(constraints):
        rule.setdefault("scope", "*")


def _rules(constraints: Object) -> list[Object]:
    return [
        *(constraints.get("resourceRules") or []),
        *(constraints.get("excludeResourceRules") or []),
    ]


def _causes(obj: Object) -> list[Cause]:
    kind, spec = obj["kind"], obj["spec"]
    causes = [
        Cause(f"spec.{name}", "Forbidden: the embedded API server cannot evaluate this field")
        for name in spec
        if name not in _FIELDS[kind]
    ]
    if kind.endswith("Binding"):
        causes += _required(spec, "policyName")
        if kind.startswith("Validating"):
            causes += _required(spec, "validationActions")
            causes += _chosen(
                spec.get("validationActions") or [],
                ("Deny", "Warn", "Audit"),
                "spec.validationActions",
            )
        if spec.get("matchResources"):
            causes += _match_causes(spec["matchResources"], "spec.matchResources", kind)
        return causes
    causes += _chosen([spec["failurePolicy"]], ("Fail", "Ignore"), "spec.failurePolicy")
    if not (spec.get("matchConstraints") or {}).get("resourceRules"):
        at = "spec.matchConstraints.resourceRules"
        return [*causes, Cause(at, "Required value", "FieldValueRequired")]
    causes += _match_causes(spec["matchConstraints"], "spec.matchConstraints", kind)
    if kind == "ValidatingAdmissionPolicy":
        return causes + _required(spec, "validations") + _reason_causes(spec)
    causes += _required(spec, "mutations") + _required(spec, "reinvocationPolicy")
    causes += _chosen(
        [spec.get("reinvocationPolicy")], ("Never", "IfNeeded"), "spec.reinvocationPolicy"
    )
    return causes + _mutation_causes(spec)


def _required(spec: Object, name: str) -> list[Cause]:
    return [] if spec.get(name) else [Cause(f"spec.{name}", "Required value", "FieldValueRequired")]


def _chosen(values: Sequence[Any], known: Sequence[str], at: str) -> list[Cause]:
    shown = ", ".join(f'"{k}"' for k in known)
    return [
        Cause(at, f'Unsupported value: "{value}": supported values: {shown}')
        for value in values
        if value not in known
    ]


def _match_causes(constraints: Object, at: str, kind: str) -> list[Cause]:
    causes = [
        Cause(f"{at}.{name}", "Forbidden: the embedded API server cannot evaluate this field")
        for name in constraints
        if name not in _MATCH_FIELDS
    ]
    causes += _chosen([constraints["matchPolicy"]], ("Exact", "Equivalent"), f"{at}.matchPolicy")
    below = ("status",) if kind.startswith("Validating") else ()
    for rule in _rules(constraints):
        for name in ("apiGroups", "apiVersions", "operations", "resources"):
            if not rule.get(name):
                causes.append(Cause(f"{at}.resourceRules.{name}", "Required value"))
        causes += _chosen(
            rule.get("operations") or [], (*_OPERATIONS, "*"), f"{at}.resourceRules.operations"
        )
        causes += [
            Cause(
                f"{at}.resourceRules.resources",
                f'Invalid value: "{resource}": the embedded API server does not ask policies '
                "about this subresource",
            )
            for resource in rule.get("resources") or []
            if "/" in resource and resource.partition("/")[2] not in below
        ]
    return causes


def _reason_causes(spec: Object) -> list[Cause]:
    reasons = [rule.get("reason") or "Invalid" for rule in spec.get("validations") or []]
    return _chosen(reasons, tuple(_CODES), "spec.validations.reason")


def _mutation_causes(spec: Object) -> list[Cause]:
    return [
        Cause(
            f"spec.mutations[{i}].patchType",
            f'Unsupported value: "{mutation.get("patchType")}": the embedded API server evaluates '
            '"JSONPatch" only',
        )
        for i, mutation in enumerate(spec.get("mutations") or [])
        if mutation.get("patchType") != "JSONPatch"
    ]


def _compile_causes(obj: Object) -> list[Cause]:
    try:
        Policy(obj)
    except CelRefusedError as error:
        field, _, message = str(error).partition(": ")
        return [Cause(field, message)]
    return []
