"""Label and field selectors: text in, predicate out.

Grammar: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#api and
field-selectors. A field that a resource cannot be selected by is an error, as on a cluster:
a selector that silently matched everything would hide a bug in a component.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from egress_gateway_lab.apiserver import errors
from egress_gateway_lab.apiserver.objects import Object, dig, labels_of
from egress_gateway_lab.apiserver.storage.registry import ResourceType

Predicate = Callable[[Object], bool]

_SET = re.compile(r"^\s*([^\s!=(),]+)\s+(in|notin)\s*\(([^()]*)\)\s*$")
_PAIR = re.compile(r"^\s*([^\s!=(),]+)\s*(==|=|!=)\s*([^\s!=(),]*)\s*$")
_EXISTS = re.compile(r"^\s*(!?)\s*([^\s!=(),]+)\s*$")


def _split(text: str) -> list[str]:
    """At commas that are not inside parentheses."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return [p for p in parts if p.strip()]


def requirement(key: str, operator: str, values: list[str]) -> Callable[[Mapping[str, str]], bool]:
    """A test on a set of labels; operators as in ``metav1.LabelSelectorRequirement`` and
    ``core/v1.NodeSelectorRequirement``."""
    wanted = set(values)
    match operator:
        case "In":
            return lambda labels: labels.get(key) in wanted
        case "NotIn":
            return lambda labels: labels.get(key) not in wanted
        case "Exists":
            return lambda labels: key in labels
        case "DoesNotExist":
            return lambda labels: key not in labels
        case "Gt" | "Lt":
            limit = int(values[0])
            sign = 1 if operator == "Gt" else -1
            return lambda labels: (
                labels.get(key, "").lstrip("-").isdigit() and sign * (int(labels[key]) - limit) > 0
            )
    raise errors.bad_request(f'"{operator}" is not a valid label selector operator')


def _label_term(term: str) -> Callable[[Mapping[str, str]], bool]:
    if found := _SET.match(term):
        key, operator, values = found.groups()
        listed = [v.strip() for v in values.split(",")]
        return requirement(key, "In" if operator == "in" else "NotIn", listed)
    if found := _PAIR.match(term):
        key, operator, value = found.groups()
        return requirement(key, "NotIn" if operator == "!=" else "In", [value])
    if found := _EXISTS.match(term):
        absent, key = found.groups()
        return requirement(key, "DoesNotExist" if absent else "Exists", [])
    raise errors.bad_request(
        f"unable to parse requirement: found {term.strip()!r}, expected a label selector term"
    )


def label_predicate(text: str) -> Predicate:
    """A ``labelSelector`` query parameter."""
    tests = [_label_term(term) for term in _split(text)]
    return lambda obj: all(test(labels_of(obj)) for test in tests)


def selector_predicate(selector: Mapping[str, Any] | None) -> Callable[[Mapping[str, str]], bool]:
    """A ``metav1.LabelSelector`` as a test on labels. None matches nothing, ``{}`` everything."""
    if selector is None:
        return lambda labels: False
    tests = [requirement(k, "In", [v]) for k, v in (selector.get("matchLabels") or {}).items()]
    tests += [
        requirement(e["key"], e["operator"], e.get("values") or [])
        for e in selector.get("matchExpressions") or []
    ]
    return lambda labels: all(test(labels) for test in tests)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _field_term(term: str, rt: ResourceType) -> Predicate:
    found = re.match(r"^\s*([^\s!=]+)\s*(==|=|!=)\s*(.*?)\s*$", term)
    if not found:
        raise errors.bad_request(f"invalid field selector term: {term!r}")
    path, operator, value = found.groups()
    known = ("metadata.name", "metadata.namespace", *rt.fields)
    if path not in known:
        # Kinds without fields of their own are refused in other words.
        raise errors.bad_request(
            f"field label not supported: {path}"
            if rt.fields or rt.custom
            else f'"{path}" is not a known field selector: only "metadata.name", '
            '"metadata.namespace"'
        )
    parts = path.split(".")
    negative = operator == "!="
    return lambda obj: (_text(dig(obj, parts)) == value) != negative


def field_predicate(text: str, rt: ResourceType) -> Predicate:
    """A ``fieldSelector`` query parameter."""
    tests = [_field_term(term, rt) for term in text.split(",") if term.strip()]
    return lambda obj: all(test(obj) for test in tests)


def predicate(rt: ResourceType, query: Mapping[str, str]) -> Predicate | None:
    """What list, watch and deletecollection select; None selects everything."""
    tests: list[Predicate] = []
    if text := query.get("labelSelector"):
        tests.append(label_predicate(text))
    if text := query.get("fieldSelector"):
        tests.append(field_predicate(text, rt))
    if not tests:
        return None
    return lambda obj: all(test(obj) for test in tests)
