"""Any pod reaches the webhook's port: garbage is a 400, size and number are bounded."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway.webhook.review import ReviewError, asks_default, review
from egress_gateway.webhook.server import parse

BRACKETS = 200_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'"text"',
        b"\xff\xfe",
        b"[" * BRACKETS,
        b"[" * BRACKETS + b"]" * BRACKETS,
        b'{"a":' * BRACKETS + b"1" + b"}" * BRACKETS,
        b'{"request":{"uid":"u","object":{"spec":' + b"[" * BRACKETS,
        b'{"request":{"uid":"u","object":{"metadata":{"annotations":' + b'{"a":' * BRACKETS,
        b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":[]}',
        b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":1}}',
        b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview",'
        b'"request":{"uid":"u","object":{"spec":[]}}}',
    ],
    ids=range(14),
)
def test_garbage_is_no_review(body: bytes) -> None:
    with pytest.raises(ReviewError) as caught:
        review(parse(body))
    assert len(str(caught.value).splitlines()) <= 1


def document(**pod: Any) -> dict[str, Any]:
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": "u", "namespace": "shop", "object": pod},
    }


POD = {
    "metadata": {"name": "p", "annotations": {"a/b": "c"}, "labels": {"x": "y"}},
    "spec": {
        "hostNetwork": False,
        "nodeSelector": {"disk": "fast"},
        "containers": [{"name": "c", "env": [{"name": "e", "value": "v"}]}],
    },
}


@pytest.mark.parametrize(
    "pod",
    [
        POD,
        {"metadata": None, "spec": None},
        {"metadata": {}, "spec": {}},
        {"metadata": {"annotations": None}, "spec": {"nodeSelector": None, "hostNetwork": True}},
        {"spec": {"nodeSelector": {}}},
    ],
)
def test_what_is_skipped_changes_no_answer(pod: dict[str, Any]) -> None:
    whole = document(**pod)
    parsed = parse(json.dumps(whole).encode())
    assert asks_default(parsed) == asks_default(whole)
    for default in ("", "main"):
        assert review(parsed, default=default) == review(whole, default=default)


@pytest.mark.parametrize(
    "asked",
    [
        {"operation": "UPDATE"},
        {"operation": "DELETE", "object": None},
        {"operation": "CONNECT", "object": {"kind": "PodExecOptions"}, "subResource": "exec"},
        {"operation": "UPDATE", "subResource": "ephemeralcontainers"},
        {"operation": "CREATE", "subResource": "binding"},
        {"operation": "CREATE", "kind": {"group": "apps", "kind": "Deployment"}},
    ],
    ids=str,
)
def test_whatever_is_no_new_pod_is_left_as_it_is(asked: dict[str, Any]) -> None:
    """Somebody has added it to the registration."""
    whole = document(metadata={"annotations": {names.POD_ANNOTATION: "main"}}, spec={})
    whole["request"] |= asked
    parsed = parse(json.dumps(whole).encode())
    assert asks_default(parsed) == ""
    answer = review(parsed, default="main", wait_image="image")["response"]
    assert answer == {"uid": "u", "allowed": True}


def test_a_pod_of_three_megabytes_costs_little() -> None:
    spec = {"containers": [{"name": f"c{i}", "args": ["x"] * 20} for i in range(20_000)]}
    body = json.dumps(document(metadata={}, spec=spec)).encode()
    assert 2 << 20 < len(body) < 4 << 20
    tracemalloc.start()
    review(parse(body))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
