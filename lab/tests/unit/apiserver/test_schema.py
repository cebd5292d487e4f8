"""Structural schemas: pruning, defaults, validation."""

from __future__ import annotations

from typing import Any

import pytest

from egress_gateway_lab.apiserver.objects import clone
from egress_gateway_lab.apiserver.writes.schema import CustomSchema


def spec(**schema: Any) -> CustomSchema:
    return CustomSchema({"type": "object", "properties": {"spec": schema}})


def messages(schema: CustomSchema, value: Any, old: Any = None) -> list[str]:
    before = None if old is None else {"spec": old}
    return [f"{c.field}: {c.message}" for c in schema.validate({"spec": value}, before)]


@pytest.mark.parametrize(
    ("schema", "good", "bad", "message"),
    [
        (
            {"type": "integer", "minimum": 28, "maximum": 31},
            28,
            27,
            "spec: Invalid value: 27: spec in body should be greater than or equal to 28",
        ),
        (
            {"type": "integer", "maximum": 31},
            31,
            32,
            "spec: Invalid value: 32: spec in body should be less than or equal to 31",
        ),
        (
            {"type": "integer"},
            1,
            True,
            'spec: Invalid value: "boolean": spec in body must be of type integer: "boolean"',
        ),
        (
            {"type": "string", "pattern": "^a+$"},
            "aa",
            "aa\n",
            "spec: Invalid value: \"aa\\n\": spec in body should match '^a+$'",
        ),
        (
            {"type": "string", "maxLength": 2},
            "ab",
            "abc",
            "spec: Too long: may not be more than 2 bytes",
        ),
        (
            {"type": "array", "items": {"type": "string"}, "maxItems": 1},
            ["a"],
            ["a", "b"],
            "spec: Too many: 2: must have at most 1 items",
        ),
        (
            {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            ["a", "b"],
            ["a", "a"],
            'spec[1]: Duplicate value: "a"',
        ),
        (
            {"type": "string", "enum": ["a", "b"]},
            "a",
            "c",
            'spec: Unsupported value: "c": supported values: "a", "b"',
        ),
        (
            {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}},
            {"a": "x"},
            {},
            "spec.a: Required value",
        ),
        (
            {"type": "object", "additionalProperties": {"type": "integer"}},
            {"a": 1},
            {"a": "x"},
            'spec[a]: Invalid value: "string": spec[a] in body must be of type integer: "string"',
        ),
        (
            {"x-kubernetes-int-or-string": True},
            "25%",
            1.5,
            'spec: Invalid value: "number": spec in body must be of type integer,string: "number"',
        ),
        (
            {"type": "string", "format": "ipv4"},
            "10.0.0.1",
            "10.0.0.300",
            'spec: Invalid value: "10.0.0.300": spec in body must be of type ipv4: "10.0.0.300"',
        ),
        (
            {"type": "string", "nullable": True},
            None,
            5,
            'spec: Invalid value: "number": spec in body must be of type string: "number"',
        ),
    ],
)
def test_keywords(schema: dict[str, Any], good: Any, bad: Any, message: str) -> None:
    compiled = spec(**schema)
    assert messages(compiled, good) == []
    found = messages(compiled, bad)
    assert [m.replace('"number"', '"integer"') for m in found] == [
        message.replace('"number"', '"integer"')
    ] or found == [message]


def test_one_of_and_not() -> None:
    either = spec(oneOf=[{"required": ["a"]}, {"required": ["b"]}], type="object")
    assert messages(either, {"a": 1}) == []
    assert len(messages(either, {"a": 1, "b": 2})) == 1
    assert len(messages(either, {})) == 1


def test_pruning_and_defaults_go_deep() -> None:
    schema = spec(
        type="object",
        properties={
            "mode": {"type": "string", "default": "a"},
            "inner": {
                "type": "object",
                "default": {},
                "properties": {"size": {"type": "integer", "default": 3}},
            },
            "list": {
                "type": "array",
                "items": {"type": "object", "properties": {"on": {"type": "boolean"}}},
            },
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    )
    obj = {
        "apiVersion": "x/v1",
        "kind": "X",
        "metadata": {"name": "n", "labels": {"a": "b"}},
        "spec": {"mode": None, "list": [{"on": True, "off": 1}], "free": {"z": 1}, "odd": 1},
        "extra": {},
    }
    assert sorted(schema.prepare(obj)) == ["extra", "spec.list[0].off", "spec.odd"]
    assert obj["spec"] == {
        "mode": "a",
        "inner": {"size": 3},
        "list": [{"on": True}],
        "free": {"z": 1},
    }
    again = clone(obj)
    assert schema.prepare(again) == []
    assert again == obj


def test_what_was_stored_before_a_rule_may_stay() -> None:
    schema = spec(
        type="object",
        properties={"a": {"type": "integer", "minimum": 5}, "b": {"type": "integer"}},
    )
    assert messages(schema, {"a": 1, "b": 2}, old={"a": 1, "b": 1}) == []
    assert len(messages(schema, {"a": 2, "b": 1}, old={"a": 1, "b": 1})) == 1


def test_rules_report_where_and_why() -> None:
    schema = spec(
        type="object",
        properties={"low": {"type": "integer"}, "high": {"type": "integer"}},
        **{
            "x-kubernetes-validations": [
                {
                    "rule": "self.low <= self.high",
                    "messageExpression": "'low is ' + string(self.low)",
                    "fieldPath": ".low",
                }
            ]
        },
    )
    assert messages(schema, {"low": 1, "high": 2}) == []
    assert messages(schema, {"low": 3, "high": 2}) == [
        'spec.low: Invalid value: "object": low is 3'
    ]
    assert "rule evaluation error: no such key: high" in messages(schema, {"low": 3})[0]


def test_unknown_keywords_and_patterns_are_refused() -> None:
    with pytest.raises(ValueError, match="minimun: unknown field"):
        spec(type="integer", minimun=1)
    with pytest.raises(ValueError, match="error parsing regexp"):
        spec(type="string", pattern="(")


def test_list_types_tell_apply_how_to_merge() -> None:
    schema = spec(
        type="object",
        properties={
            "conditions": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {"type": "object", "properties": {"type": {"type": "string"}}},
            },
            "tags": {
                "type": "array",
                "x-kubernetes-list-type": "set",
                "items": {"type": "string"},
            },
            "plain": {"type": "array", "items": {"type": "string"}},
        },
    )
    assert schema.list_keys(("spec", "conditions")) == ("type",)
    assert schema.list_keys(("spec", "tags")) == ()
    assert schema.list_keys(("spec", "plain")) is None
    assert schema.list_keys(("metadata", "finalizers")) == ()
