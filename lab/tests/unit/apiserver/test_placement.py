"""Where pods may run, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from egress_gateway_lab.apiserver.controllers.placement import obstacle, preference, tolerates
from egress_gateway_lab.apiserver.storage.selectors import label_predicate, selector_predicate

_TAINT = {"key": "k", "value": "v", "effect": "NoSchedule"}


def pod(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", "namespace": "default", "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c"}], **spec},
    }


def node(*taints: dict[str, Any], **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": "n", "labels": labels}, "spec": {"taints": list(taints)}}


@pytest.mark.parametrize(
    ("toleration", "result"),
    [
        ({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "value": "w"}, False),
        ({"key": "k", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_tolerations(toleration: dict[str, Any], result: bool) -> None:
    assert tolerates([toleration], _TAINT) is result


def affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"nodeSelectorTerms": list(terms)}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def term(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("spec", "labels", "fits"),
    [
        ({}, {}, True),
        ({"nodeSelector": {"a": "b"}}, {"a": "b"}, True),
        ({"nodeSelector": {"a": "b"}}, {"a": "c"}, False),
        ({"affinity": affinity(term("a", "In", "b", "c"))}, {"a": "c"}, True),
        ({"affinity": affinity(term("a", "NotIn", "b"))}, {"a": "b"}, False),
        ({"affinity": affinity(term("a", "Exists"))}, {}, False),
        ({"affinity": affinity(term("a", "DoesNotExist"), term("b", "Exists"))}, {"a": "1"}, False),
        ({"affinity": affinity(term("a", "DoesNotExist"), term("b", "Exists"))}, {"b": "1"}, True),
        ({"affinity": affinity(term("a", "Gt", "5"))}, {"a": "6"}, True),
        ({"affinity": affinity(term("a", "Gt", "5"))}, {"a": "five"}, False),
        ({"affinity": affinity({})}, {}, False),
    ],
)
def test_selection(spec: dict[str, Any], labels: dict[str, str], fits: bool) -> None:
    assert (obstacle(pod(**spec), node(**labels), []) is None) is fits


def test_obstacles_have_the_schedulers_words() -> None:
    assert obstacle(pod(), node(_TAINT), []) == "node(s) had untolerated taint(s)"
    cordoned = node()
    cordoned["spec"]["unschedulable"] = True
    assert obstacle(pod(), cordoned, []) == "node(s) were unschedulable"
    port = pod(containers=[{"name": "c", "ports": [{"containerPort": 1, "hostPort": 8080}]}])
    assert "free ports" in (obstacle(port, node(), [port]) or "")
    assert obstacle(port, node(), [pod()]) is None
    alone = {
        "labelSelector": {"matchLabels": {"app": "x"}},
        "topologyKey": "kubernetes.io/hostname",
    }
    lonely = pod(
        affinity={"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [alone]}}
    )
    assert "anti-affinity" in (obstacle(lonely, node(), [pod()]) or "")


def test_siblings_are_spread() -> None:
    crowded = preference(pod(), node(), siblings=0, pods=9)
    assert crowded < preference(pod(), node(), siblings=1, pods=1)
    assert preference(pod(), node(), siblings=0, pods=8) < crowded


@pytest.mark.parametrize(
    ("text", "labels", "result"),
    [
        ("a=b", {"a": "b"}, True),
        ("a==b,c!=d", {"a": "b"}, True),
        ("a in (x,y),!z", {"a": "y"}, True),
        ("a notin (x)", {}, True),
        ("a", {}, False),
        ("example.com/a=b", {"example.com/a": "b"}, True),
        ("a=", {"a": ""}, True),
    ],
)
def test_label_selectors(text: str, labels: dict[str, str], result: bool) -> None:
    assert label_predicate(text)({"metadata": {"labels": labels}}) is result


def test_an_empty_selector_matches_all_and_none_nothing() -> None:
    assert selector_predicate({})({"a": "b"})
    assert not selector_predicate(None)({"a": "b"})
