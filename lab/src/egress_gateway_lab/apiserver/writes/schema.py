"""Structural schemas of custom resources: pruning, defaults, validation, list types.

What https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions
promises of a ``apiextensions.k8s.io/v1`` schema, with kube-apiserver's messages. Own walkers rather
than a JSON Schema library: pruning, defaulting, old-and-new rules and the messages are ours to do
anyway, and what remains of JSON Schema in a structural schema is a dozen keywords.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from egress_gateway_lab.apiserver.cel.functions import duration, regex
from egress_gateway_lab.apiserver.cel.rules import CelError, CelRefusedError, Program, compile_rule
from egress_gateway_lab.apiserver.errors import Cause
from egress_gateway_lab.apiserver.objects import Object, clone, parse_time

Schema = dict[str, Any]

_META: Schema = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "namespace": {"type": "string"},
        "generateName": {"type": "string"},
        "uid": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "x-kubernetes-preserve-unknown-fields": True,
}
_KNOWN_KEYWORDS = frozenset(
    {
        *("type", "properties", "additionalProperties", "items", "required", "enum", "format"),
        *("minLength", "maxLength", "pattern", "minimum", "maximum", "multipleOf"),
        *("exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems", "uniqueItems"),
        *("minProperties", "maxProperties", "nullable", "default", "title", "description"),
        *("anyOf", "oneOf", "allOf", "not", "example", "externalDocs"),
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-int-or-string",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-map-type",
        "x-kubernetes-validations",
    }
)


@dataclass(frozen=True, slots=True)
class _Rule:
    program: Program
    text: str
    message: str
    message_program: Program | None
    field: str
    reason: str
    transition: bool


class CustomSchema:
    """The schema of one version of a custom resource."""

    def __init__(self, schema: Schema) -> None:
        """Raises ``CelRefusedError`` for a rule, ``ValueError`` for a schema that this server
        cannot hold an object to."""
        self.openapi = schema
        root = dict(schema)
        root["properties"] = {
            **(schema.get("properties") or {}),
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": _META,
        }
        self._root = root
        self._rules: dict[int, list[_Rule]] = {}
        self._compile(root, "openAPIV3Schema")

    def _compile(self, schema: Schema, at: str) -> None:
        for keyword in schema:
            if keyword not in _KNOWN_KEYWORDS:
                raise ValueError(f"{at}.{keyword}: unknown field")
        if "pattern" in schema:
            try:
                regex(schema["pattern"])
            except CelError as error:
                raise ValueError(f"{at}.pattern: Invalid value: {error}") from error
        if rules := schema.get("x-kubernetes-validations"):
            self._rules[id(schema)] = [
                _compile_rule(rule, schema, f"{at}.x-kubernetes-validations[{i}]")
                for i, rule in enumerate(rules)
            ]
        for name, inner in (schema.get("properties") or {}).items():
            self._compile(inner, f"{at}.properties[{name}]")
        for keyword in ("additionalProperties", "items"):
            below: Any = schema.get(keyword)
            if isinstance(below, dict):
                self._compile(below, f"{at}.{keyword}")

    def prepare(self, obj: Object) -> list[str]:
        """Prunes unknown fields, fills in defaults and drops nulls without a meaning, in place.
        Returns the unknown paths."""
        unknown: list[str] = []
        _prune(obj, self._root, "", unknown)
        _drop_nulls(obj, self._root)
        _default(obj, self._root)
        return unknown

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        """All that is wrong with the object; ``old`` is what it replaces."""
        causes = list(_check(obj, self._root, "", old))
        if not causes:
            causes = list(self._check_rules(obj, old, self._root, ""))
        return causes

    def list_keys(self, path: tuple[str, ...]) -> tuple[str, ...] | None:
        """How the list at a path of field names merges (see ``lists.list_keys``)."""
        if path[0] == "metadata":
            return {"ownerReferences": ("uid",), "finalizers": ()}.get(path[-1])
        schema: Any = self._root
        for name in path:
            while schema and "items" in schema:
                schema = schema["items"]
            properties = (schema or {}).get("properties") or {}
            schema = properties.get(name) or (schema or {}).get("additionalProperties")
            if not isinstance(schema, dict):
                return None
        match schema.get("x-kubernetes-list-type"):
            case "map":
                return tuple(schema.get("x-kubernetes-list-map-keys") or ())
            case "set":
                return ()
        return None

    def _check_rules(self, value: Any, old: Any, schema: Schema, at: str) -> Iterator[Cause]:
        if value is None or _ratcheted(value, old):
            return
        for rule in self._rules.get(id(schema), ()):
            if rule.transition and old is None:
                continue
            if (cause := _evaluate(rule, value, old, at)) is not None:
                yield cause
        for inner, before, below, path in _children(value, old, schema, at):
            yield from self._check_rules(inner, before, below, path)


def _children(
    value: Any, old: Any, schema: Schema, at: str
) -> Iterator[tuple[Any, Any, Schema, str]]:
    """(value, old value, schema, path) of everything directly inside a value."""
    if isinstance(value, dict):
        before = old if isinstance(old, dict) else {}
        properties = schema.get("properties") or {}
        values = schema.get("additionalProperties")
        for name, inner in value.items():
            if name in properties:
                yield inner, before.get(name), properties[name], f"{at}.{name}".lstrip(".")
            elif isinstance(values, dict):
                yield inner, before.get(name), values, f"{at}[{name}]"
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        # Entries correspond to old ones only where keys tell them apart.
        keys = schema.get("x-kubernetes-list-map-keys")
        known: dict[str, Any] = {}
        if keys and isinstance(old, list):
            known = {_keyed(entry, keys): entry for entry in old}
        for i, inner in enumerate(value):
            match = known.get(_keyed(inner, keys)) if keys else None
            yield inner, match, schema["items"], f"{at}[{i}]"


def _keyed(entry: Any, keys: list[str]) -> str:
    return json.dumps([entry.get(k) for k in keys] if isinstance(entry, dict) else entry)


def _compile_rule(rule: Object, schema: Schema, at: str) -> _Rule:
    text = rule.get("rule", "")
    transition = "oldSelf" in re.findall(r"[A-Za-z_]\w*", text)
    names = {"self": schema, "oldSelf": schema}
    if rule.get("optionalOldSelf"):
        raise CelRefusedError(f"{at}.optionalOldSelf: the embedded API server cannot evaluate it")
    try:
        program = compile_rule(text, names)
        message = rule.get("messageExpression")
        message_program = compile_rule(message, names) if message else None
    except CelRefusedError as error:
        raise CelRefusedError(f"{at}.rule: Invalid value: {text!r}: {error}") from error
    return _Rule(
        program=program,
        text=text,
        message=rule.get("message") or f"failed rule: {text}",
        message_program=message_program,
        field=rule.get("fieldPath", ""),
        reason=rule.get("reason", "FieldValueInvalid"),
        transition=transition,
    )


def _evaluate(rule: _Rule, value: Any, old: Any, at: str) -> Cause | None:
    env = {"self": value, "oldSelf": old}
    try:
        if rule.program(env) is True:
            return None
        message = rule.message
        if rule.message_program is not None:
            message = str(rule.message_program(env))
    except CelError as error:
        message = f"rule evaluation error: {error}: {rule.text}"
    field = f"{at}{rule.field}".lstrip(".") or "<nil>"
    if rule.reason == "FieldValueForbidden":
        return Cause(field, f"Forbidden: {message}", rule.reason)
    if rule.reason == "FieldValueRequired":
        return Cause(field, f"Required value: {message}", rule.reason)
    return Cause(field, f"Invalid value: {_shown(value)}: {message}", rule.reason)


def _shown(value: Any) -> str:
    """A value as an error names it; objects and lists by their type alone."""
    if isinstance(value, dict):
        return '"object"'
    if isinstance(value, list):
        return '"array"'
    return json.dumps(value)


# -- pruning and defaults


def _prune(value: Any, schema: Schema, at: str, unknown: list[str]) -> None:
    if isinstance(value, dict):
        properties = schema.get("properties")
        values = schema.get("additionalProperties")
        for name in list(value):
            path = f"{at}.{name}".lstrip(".")
            if properties and name in properties:
                _prune(value[name], properties[name], path, unknown)
            elif isinstance(values, dict):
                _prune(value[name], values, path, unknown)
            elif not (values or schema.get("x-kubernetes-preserve-unknown-fields")):
                del value[name]
                unknown.append(path)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for i, inner in enumerate(value):
            _prune(inner, schema["items"], f"{at}[{i}]", unknown)


def _drop_nulls(value: Any, schema: Schema) -> None:
    """``field:`` with nothing behind it counts as left out, unless the field is nullable; an item
    of a list does not (https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/
    custom-resource-definitions/#defaulting-and-nullable)."""
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        values = schema.get("additionalProperties")
        for name in list(value):
            below = properties.get(name, values)
            if not isinstance(below, dict):
                continue
            if value[name] is None and not below.get("nullable"):
                del value[name]
            else:
                _drop_nulls(value.get(name), below)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for inner in value:
            _drop_nulls(inner, schema["items"])


def _default(value: Any, schema: Schema) -> None:
    if isinstance(value, dict):
        for name, inner in (schema.get("properties") or {}).items():
            if value.get(name) is None and "default" in inner and not inner.get("nullable"):
                value[name] = clone(inner["default"])
        for inner, _, below, _ in _children(value, None, schema, ""):
            _default(inner, below)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for inner in value:
            _default(inner, schema["items"])


# -- validation

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "integer": lambda v: (
        (isinstance(v, int) and not isinstance(v, bool))
        or (isinstance(v, float) and v.is_integer())
    ),
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
}


def _go_type(value: Any) -> str:
    if value is None:
        return "null"
    return next(name for name, test in _TYPES.items() if test(value))


def _ratcheted(value: Any, old: Any) -> bool:
    """As kube-apiserver has it since 1.30: what was stored before a rule came may stay as it is,
    or such an object could lose no finalizer and never be deleted."""
    return old is not None and bool(value == old)


def _check(value: Any, schema: Schema, at: str, old: Any = None) -> Iterator[Cause]:
    if _ratcheted(value, old):
        return
    if value is None:
        if not schema.get("nullable") and schema.get("type"):
            yield _mistyped("null", schema["type"], at)
        return
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str) or isinstance(value, bool):
            yield _mistyped(_go_type(value), "integer,string", at)
        return
    kind = schema.get("type")
    if kind and not _TYPES[kind](value):
        yield _mistyped(_go_type(value), kind, at)
        return
    if "enum" in schema and value not in schema["enum"]:
        listed = ", ".join(json.dumps(v) for v in schema["enum"])
        yield Cause(
            at,
            f"Unsupported value: {json.dumps(value)}: supported values: {listed}",
            "FieldValueNotSupported",
        )
    if isinstance(value, str):
        yield from _check_string(value, schema, at)
    elif isinstance(value, list):
        yield from _check_list(value, schema, at)
    elif isinstance(value, dict):
        yield from _check_map(value, schema, at)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _check_number(value, schema, at)
    yield from _check_junctors(value, schema, at)
    for inner, before, below, path in _children(value, old, schema, at):
        yield from _check(inner, below, path, before)


def _mistyped(found: str, wanted: str, at: str) -> Cause:
    return Cause(
        at,
        f'Invalid value: "{found}": {at or "object"} in body must be of type {wanted}: "{found}"',
        "FieldValueTypeInvalid",
    )


def _bad(value: Any, at: str, rule: str) -> Cause:
    return Cause(at, f"Invalid value: {_shown(value)}: {at} in body {rule}")


def _check_string(value: str, schema: Schema, at: str) -> Iterator[Cause]:
    if len(value) < schema.get("minLength", 0):
        yield _bad(value, at, f"should be at least {schema['minLength']} chars long")
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        yield Cause(
            at, f"Too long: may not be more than {schema['maxLength']} bytes", "FieldValueTooLong"
        )
    if "pattern" in schema and not regex(schema["pattern"]).search(value):
        yield _bad(value, at, f"should match '{schema['pattern']}'")
    test = _FORMATS.get(schema.get("format", ""))
    if test is not None and not _passes(test, value):
        yield _bad(value, at, f'must be of type {schema["format"]}: "{value}"')


def _check_number(value: float, schema: Schema, at: str) -> Iterator[Cause]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and (value < low or (schema.get("exclusiveMinimum") and value == low)):
        than = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        yield _bad(value, at, f"should be {than} {low}")
    if high is not None and (value > high or (schema.get("exclusiveMaximum") and value == high)):
        than = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        yield _bad(value, at, f"should be {than} {high}")
    if (step := schema.get("multipleOf")) and value % step:
        yield _bad(value, at, f"should be a multiple of {step}")
    if schema.get("format") == "int32" and not -(2**31) <= value < 2**31:
        yield _bad(value, at, "must be of type int32")


def _check_list(value: list[Any], schema: Schema, at: str) -> Iterator[Cause]:
    if len(value) < schema.get("minItems", 0):
        yield _bad(value, at, f"should have at least {schema['minItems']} items")
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        yield Cause(
            at,
            f"Too many: {len(value)}: must have at most {schema['maxItems']} items",
            "FieldValueTooMany",
        )
    kind = schema.get("x-kubernetes-list-type")
    if kind in ("set", "map") or schema.get("uniqueItems"):
        keys = schema.get("x-kubernetes-list-map-keys") or []
        seen: set[str] = set()
        for i, entry in enumerate(value):
            named = _keyed(entry, keys) if kind == "map" else json.dumps(entry, sort_keys=True)
            if named in seen:
                shown = json.dumps({k: entry.get(k) for k in keys} if kind == "map" else entry)
                yield Cause(f"{at}[{i}]", f"Duplicate value: {shown}", "FieldValueDuplicate")
            seen.add(named)


def _check_map(value: Object, schema: Schema, at: str) -> Iterator[Cause]:
    for name in schema.get("required") or []:
        if name not in value:
            yield Cause(f"{at}.{name}".lstrip("."), "Required value", "FieldValueRequired")
    if len(value) < schema.get("minProperties", 0):
        yield _bad(value, at, f"should have at least {schema['minProperties']} properties")
    if "maxProperties" in schema and len(value) > schema["maxProperties"]:
        yield Cause(
            at,
            f"Too many: {len(value)}: must have at most {schema['maxProperties']} items",
            "FieldValueTooMany",
        )


def _check_junctors(value: Any, schema: Schema, at: str) -> Iterator[Cause]:
    for inner in schema.get("allOf") or []:
        yield from _check(value, inner, at)
    if (options := schema.get("anyOf")) and all(any(_check(value, o, at)) for o in options):
        yield _bad(value, at, "must validate at least one schema (anyOf)")
    if options := schema.get("oneOf"):
        matching = sum(not any(_check(value, o, at)) for o in options)
        if matching != 1:
            yield _bad(value, at, "must validate one and only one schema (oneOf)")
    if (inner := schema.get("not")) is not None and not any(_check(value, inner, at)):
        yield _bad(value, at, "must not validate the schema (not)")


def _passes(convert: Callable[[str], Any], text: str) -> bool:
    try:
        convert(text)
    except (ValueError, CelError):
        return False
    return True


def _ip_of(version: int) -> Callable[[str], Any]:
    def convert(text: str) -> None:
        if ip_address(text).version != version:
            raise ValueError(text)

    return convert


_FORMATS: dict[str, Callable[[str], Any]] = {
    "ipv4": _ip_of(4),
    "ipv6": _ip_of(6),
    "cidr": lambda text: ip_network(text, strict=False),
    "date-time": parse_time,
    "duration": duration,
}
