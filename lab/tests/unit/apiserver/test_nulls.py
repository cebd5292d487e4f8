"""Nulls in custom resources, as a template writes them: ``excludeCidrs:`` with nothing behind."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from egress_gateway_lab.apiserver.writes.schema import CustomSchema

TEXT = {"type": "string"}
SPEC: dict[str, Any] = {
    "type": "object",
    "properties": {
        "cidrs": {"type": "array", "items": TEXT},
        "size": {"type": "integer", "default": 31},
        "note": {"type": "string", "nullable": True},
        "profile": {"type": "object", "properties": {"name": TEXT, "parts": {"type": "array"}}},
        "tags": {"type": "object", "additionalProperties": TEXT},
        "rows": {
            "type": "array",
            "items": {"type": "object", "properties": {"name": TEXT}},
        },
        "port": {"x-kubernetes-int-or-string": True},
    },
    "required": ["cidrs"],
}


def prepared(spec: Any) -> tuple[Any, list[str]]:
    schema = CustomSchema({"type": "object", "properties": {"spec": SPEC}})
    obj = {"apiVersion": "v1", "kind": "K", "metadata": {}, "spec": copy.deepcopy(spec)}
    schema.prepare(obj)
    return obj.get("spec"), [cause.message for cause in schema.validate(obj, None)]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"profile": None}, {}),
        ({"tags": None}, {}),
        ({"port": None}, {}),
        ({"note": None}, {"note": None}),
        ({"tags": {"a": None, "b": "c"}}, {"tags": {"b": "c"}}),
        ({"size": None}, {}),
        ({"profile": {"name": None, "parts": None}}, {"profile": {}}),
        ({"rows": [{"name": None}, {"name": "a"}]}, {"rows": [{}, {"name": "a"}]}),
    ],
)
def test_a_null_that_means_nothing_is_pruned(given: dict[str, Any], kept: dict[str, Any]) -> None:
    spec, problems = prepared({"cidrs": [], **given})
    assert spec == {"cidrs": [], "size": 31, **kept}
    assert problems == []


def test_what_is_required_is_missing_then() -> None:
    assert prepared({"cidrs": None})[1] == ["Required value"]


def test_a_null_in_a_list_is_none_of_its_type() -> None:
    (problem,) = prepared({"cidrs": [None]})[1]
    assert 'must be of type string: "null"' in problem
