"""An admission policy compiled: what it is asked, and its answer to one write.

MutatingAdmissionPolicy and ValidatingAdmissionPolicy of ``admissionregistration.k8s.io/v1``, as
kube-apiserver 1.36 evaluates them. Absent, and refused when a policy is created: parameters, audit
annotations, ``authorizer``, ApplyConfiguration, subresources other than ``status``. An object must
never pass because nobody looked.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from egress_gateway_lab.apiserver import errors
from egress_gateway_lab.apiserver.admission.match import Attempt, matches
from egress_gateway_lab.apiserver.cel.rules import CelError, CelRefusedError, Program, compile_rule
from egress_gateway_lab.apiserver.objects import Object, clone
from egress_gateway_lab.apiserver.requests import user_info
from egress_gateway_lab.apiserver.writes.patch import json_patch

_NAMES: Mapping[str, Any] = dict.fromkeys(("object", "oldObject", "request", "namespaceObject"))


class PolicyError(Exception):
    """A policy could not be evaluated on this request; ``failurePolicy`` says what that means."""


@dataclass(frozen=True, slots=True)
class Denial:
    message: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Validation:
    text: str
    program: Program
    message: str
    describe: Program | None
    reason: str


class Policy:
    """Raises ``CelRefusedError`` for what cannot be evaluated; ``field`` says where."""

    def __init__(self, obj: Object) -> None:
        spec = obj["spec"]
        self.name: str = obj["metadata"]["name"]
        self.kind: str = obj["kind"]
        self.ignores_errors = spec.get("failurePolicy") == "Ignore"
        self.reinvoked = spec.get("reinvocationPolicy") == "IfNeeded"
        self._constraints = spec.get("matchConstraints") or {}
        self._conditions: list[Program] = []
        self._variables: dict[str, Program] = {}
        self._schema: dict[str, Any] = {"type": "object", "properties": {}}
        self._validations: list[_Validation] = []
        self._patches: list[Program] = []
        self._compile(spec)

    def _compile(self, spec: Object) -> None:
        for i, condition in enumerate(spec.get("matchConditions") or []):
            at = f"spec.matchConditions[{i}].expression"
            self._conditions.append(_program(condition["expression"], at, _NAMES))
        names = {**_NAMES, "variables": self._schema}
        mutating = self.kind == "MutatingAdmissionPolicy"
        for i, variable in enumerate(spec.get("variables") or []):
            at = f"spec.variables[{i}].expression"
            program = _program(variable["expression"], at, names, patches=mutating)
            self._variables[variable["name"]] = program
            # A variable may use those before it.
            self._schema["properties"][variable["name"]] = {}
        for i, rule in enumerate(spec.get("validations") or []):
            self._validations.append(_validation(rule, f"spec.validations[{i}]", names))
        for i, mutation in enumerate(spec.get("mutations") or []):
            at = f"spec.mutations[{i}].jsonPatch.expression"
            text = mutation["jsonPatch"]["expression"]
            self._patches.append(_program(text, at, names, patches=True))

    def concerns(self, attempt: Attempt) -> bool:
        """Raises ``PolicyError`` when a match condition fails; false wins over a failure."""
        if not matches(self._constraints, attempt):
            return False
        # kube-apiserver leaves the namespace out here: "no such key: metadata".
        env = {**_environment(attempt), "namespaceObject": {}}
        failure: PolicyError | None = None
        for condition in self._conditions:
            try:
                if _evaluate(condition, env, bool) is False:
                    return False
            except PolicyError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return True

    def validate(self, attempt: Attempt) -> list[Denial]:
        env = self._bound(attempt)
        found = []
        for rule in self._validations:
            try:
                passed = _evaluate(rule.program, env, bool)
            except PolicyError as error:
                if self.ignores_errors:
                    continue
                text = f"expression '{rule.text}' resulted in error: {error}"
                found.append(Denial(text, "Invalid"))
                continue
            if not passed:
                found.append(Denial(_message(rule, env), rule.reason))
        return found

    def mutate(self, attempt: Attempt) -> Object:
        """The object after the patches, each computed on the outcome of those before it; the very
        same object when there is nothing to change."""
        obj = attempt.obj
        assert obj is not None
        for program in self._patches:
            env = {**self._bound(attempt), "object": obj}
            env["variables"] = _Variables(self._variables, env)
            operations = _evaluate(program, env, list)
            if operations:
                obj = _patched(obj, operations)
        return obj

    def _bound(self, attempt: Attempt) -> dict[str, Any]:
        env = _environment(attempt)
        env["variables"] = _Variables(self._variables, env)
        return env


class _Variables(dict[str, Any]):
    """Variables are computed when they are first asked for; a failure is the asker's."""

    def __init__(self, programs: Mapping[str, Program], env: Mapping[str, Any]) -> None:
        super().__init__()
        self._programs = programs
        self._env = env

    def __contains__(self, name: object) -> bool:
        return name in self._programs

    def get(self, name: str, default: Any = None) -> Any:
        return super().__getitem__(name) if name in self._programs else default

    def __missing__(self, name: str) -> Any:
        self[name] = value = self._programs[name]({**self._env, "variables": self})
        return value


def _program(text: Any, at: str, names: Mapping[str, Any], *, patches: bool = False) -> Program:
    try:
        if not isinstance(text, str) or not text.strip():
            raise CelRefusedError("an expression is required")
        return compile_rule(text, names, patches=patches)
    except CelRefusedError as error:
        raise CelRefusedError(f"{at}: Invalid value: {text!r}: compilation failed: {error}") from (
            error
        )


def _validation(rule: Mapping[str, Any], at: str, names: Mapping[str, Any]) -> _Validation:
    text = rule["expression"]
    described = rule.get("messageExpression")
    return _Validation(
        text=str(text).strip(),
        program=_program(text, f"{at}.expression", names),
        message=rule.get("message") or "",
        describe=_program(described, f"{at}.messageExpression", names) if described else None,
        reason=rule.get("reason") or "Invalid",
    )


def _evaluate(program: Program, env: Mapping[str, Any], kind: type) -> Any:
    try:
        value = program(env)
    except CelError as error:
        raise PolicyError(str(error)) from error
    if not isinstance(value, kind):
        raise PolicyError(f"the expression's result is no {kind.__name__}")
    return value


def _message(rule: _Validation, env: Mapping[str, Any]) -> str:
    """What a ``messageExpression`` says, if that is one line; else the fixed message."""
    if rule.describe is not None:
        try:
            text: str = _evaluate(rule.describe, env, str).strip()
        except PolicyError:
            text = ""
        if text and "\n" not in text:
            return text
    return rule.message or f"failed expression: {rule.text}"


def _patched(obj: Object, operations: Sequence[Any]) -> Object:
    for operation in operations:
        if not isinstance(operation, dict) or not _is_json(operation):
            raise PolicyError("a patch is a list of JSONPatch values, which hold JSON values")
    try:
        new = json_patch(obj, clone(list(operations)))
    except errors.StatusError as error:
        raise PolicyError(error.message) from error
    if not isinstance(new, dict) or _identity(new) != _identity(obj):
        raise PolicyError("a patch may not change kind, name, namespace or UID")
    return new


def _identity(obj: Object) -> tuple[Any, ...]:
    meta = obj.get("metadata") or {}
    fields = ("name", "generateName", "namespace", "uid")
    return (obj.get("apiVersion"), obj.get("kind"), *(meta.get(field) for field in fields))


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_json(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or isinstance(value, str | int | float | bool)


def _environment(attempt: Attempt) -> dict[str, Any]:
    return {
        "object": attempt.obj,
        "oldObject": attempt.old,
        "namespaceObject": attempt.namespace,
        "request": _request(attempt),
    }


def _request(attempt: Attempt) -> Object:
    """``admission.k8s.io/v1`` AdmissionRequest, without its objects; absent is what is empty."""
    rt, meta = attempt.resource, (attempt.obj or attempt.old or {})["metadata"]
    kind = {"group": rt.group, "version": rt.version, "kind": rt.kind}
    resource = {"group": rt.group, "version": rt.version, "resource": rt.plural}
    found: Object = {
        "uid": str(uuid.uuid4()),
        "kind": kind,
        "resource": resource,
        "requestKind": kind,
        "requestResource": resource,
        "operation": attempt.operation,
        "userInfo": user_info(attempt.request.user),
        "dryRun": attempt.request.dry_run,
    }
    optional = {
        "name": attempt.name,
        "namespace": meta.get("namespace", ""),
        "subResource": attempt.subresource,
        "requestSubResource": attempt.subresource,
    }
    return found | {name: value for name, value in optional.items() if value}
