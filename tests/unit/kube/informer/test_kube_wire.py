"""Bytes of the API server become values, and one bad object hides no other."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from egress_gateway.api.types import ObjectMeta, StaticGatewayConfiguration
from egress_gateway.kube import errors, wire
from egress_gateway.kube.resources import NODES, PODS, SECRETS, SGCS, Key, Pod


def listed(*items: dict[str, Any], version: str = "9", token: str = "") -> bytes:
    return json.dumps(
        {"metadata": {"resourceVersion": version, "continue": token}, "items": list(items)}
    ).encode()


def test_a_list_decodes_with_its_version_and_token() -> None:
    page = wire.decode_list(PODS, listed({"metadata": {"name": "a"}}, token="next"))
    assert [p.metadata.name for p in page.items] == ["a"]
    assert (page.resource_version, page.continue_token) == ("9", "next")


def test_null_items_are_an_empty_list() -> None:
    page = wire.decode_list(PODS, b'{"metadata":{"resourceVersion":"1"},"items":null}')
    assert list(page.items) == []


def test_one_object_that_does_not_decode_is_named_and_the_others_are_kept() -> None:
    good = {"metadata": {"name": "good", "namespace": "ns"}, "spec": {}}
    bad = {"metadata": {"name": "bad", "namespace": "ns"}, "spec": {"defaultRoute": 5}}
    page = wire.decode_list(SGCS, listed(good, bad))
    assert [o.metadata.name for o in page.items] == ["good"]
    assert [b.key for b in page.undecodable] == [Key("ns", "bad")]
    assert "defaultRoute" in page.undecodable[0].why


def event(kind: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode()


def test_watch_events() -> None:
    obj = {"metadata": {"name": "a", "resourceVersion": "12"}, "status": {"podIP": "10.0.0.1"}}
    added = wire.decode_event(PODS, event("ADDED", obj))
    assert added.obj is not None
    assert (added.type, added.resource_version, added.obj.ips) == ("ADDED", "12", ["10.0.0.1"])
    mark = wire.decode_event(PODS, event("BOOKMARK", {"metadata": {"resourceVersion": "13"}}))
    assert (mark.type, mark.obj, mark.resource_version) == ("BOOKMARK", None, "13")


def test_a_watch_event_that_does_not_decode_still_moves_the_version() -> None:
    obj = {"metadata": {"name": "a", "namespace": "n", "resourceVersion": "3"}, "spec": []}
    change = wire.decode_event(SGCS, event("MODIFIED", obj))
    assert change.obj is None
    assert change.undecodable is not None
    assert change.undecodable.key == Key("n", "a")
    assert change.resource_version == "3"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ({"code": 410, "reason": "Expired", "message": "too old"}, errors.Gone),
        ({"code": 403, "reason": "Forbidden", "message": "no"}, errors.Forbidden),
        ({"code": 500, "reason": "InternalError"}, errors.Unavailable),
    ],
)
def test_an_error_event_raises(status: dict[str, Any], kind: type[errors.ApiError]) -> None:
    with pytest.raises(kind):
        wire.decode_event(PODS, event("ERROR", {"kind": "Status", **status}))


@pytest.mark.parametrize(
    ("http", "reason", "kind"),
    [
        (400, "BadRequest", errors.BadRequest),
        (401, "Unauthorized", errors.Unauthorized),
        (403, "Forbidden", errors.Forbidden),
        (404, "NotFound", errors.NotFound),
        (409, "Conflict", errors.Conflict),
        (409, "AlreadyExists", errors.AlreadyExists),
        (410, "Expired", errors.Gone),
        (422, "Invalid", errors.Invalid),
        (429, "TooManyRequests", errors.TooManyRequests),
        (503, "ServiceUnavailable", errors.Unavailable),
        (418, "Teapot", errors.ApiError),
    ],
)
def test_each_refusal_has_its_type(http: int, reason: str, kind: type[errors.ApiError]) -> None:
    body = json.dumps({"kind": "Status", "code": http, "reason": reason, "message": "why"})
    error = errors.from_response(http, body.encode(), context="GET /x", retry_after="7")
    assert type(error) is kind
    assert str(error) == "GET /x: why"
    assert error.retry_after == 7


def test_a_proxy_page_is_no_status_but_still_an_error() -> None:
    error = errors.from_response(502, b"<html>bad gateway</html>", context="GET /x")
    assert isinstance(error, errors.Unavailable)
    assert "bad gateway" in str(error)


def test_documents_say_what_they_are_although_structs_leave_defaults_out() -> None:
    obj = StaticGatewayConfiguration(metadata=ObjectMeta(name="a", namespace="n"))
    body = wire.document(SGCS, obj)
    assert body["kind"] == "StaticGatewayConfiguration"
    assert body["apiVersion"] == "egressgateway.kubernetes.azure.com/v1alpha1"


def test_an_apply_carries_no_metadata_that_only_the_server_writes() -> None:
    meta = ObjectMeta(name="a", namespace="n", uid="u", resource_version="5", generation=2)
    body = wire.apply_document(PODS, Pod(metadata=meta))
    assert body["metadata"] == {"name": "a", "namespace": "n", "uid": "u"}


def test_paths() -> None:
    assert NODES.path(name="n1") == "/api/v1/nodes/n1"
    assert PODS.path() == "/api/v1/pods"
    assert PODS.path("ns", "a", "status") == "/api/v1/namespaces/ns/pods/a/status"
    assert SGCS.path("ns") == (
        "/apis/egressgateway.kubernetes.azure.com/v1alpha1/namespaces/ns"
        "/staticgatewayconfigurations"
    )
    assert PODS.path("a/b") == "/api/v1/namespaces/a%2Fb/pods"


def test_a_secret_does_not_print_its_content() -> None:
    secret = wire.decode_object(
        SECRETS, b'{"metadata":{"name":"s","namespace":"n"},"data":{"PrivateKey":"aHVzaA=="}}'
    )
    assert "aHVzaA" not in repr(secret)
    assert "PrivateKey" in repr(secret)


def test_untyped_objects_keep_everything() -> None:
    body = b'{"metadata":{"name":"a","managedFields":[{}]},"spec":{"x":1}}'
    obj = wire.decode_object(PODS.untyped(), body)
    assert obj["spec"] == {"x": 1}
    assert PODS.untyped().key(obj) == Key("", "a")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>blocked</html>",
        b"[]",
        b"null",
        b'{"gitVersion":7}',
        b'{"kind":"List"}',
        b'{"gitVersion":"\xff"}',
        b'{"gitVersion":' + b"[" * 100_000,
    ],
)
def test_what_answers_in_the_api_servers_place_is_one_expected_error(body: bytes) -> None:
    class Version(msgspec.Struct):
        name: str = msgspec.field(name="gitVersion")

    with pytest.raises(errors.Unavailable, match="the version: answer does not decode"):
        wire.decode_answer(Version, body, "the version")
    assert wire.decode_answer(Version, b'{"gitVersion":"v1","x":[]}', "it").name == "v1"


@pytest.mark.parametrize("depth", [100, 990, 2_000, 9_900])
def test_an_object_that_nests_without_end_hides_no_other(depth: int) -> None:
    """API servers take 10,000 levels of ``managedFields`` from whoever creates a pod."""
    fields = b'{"f:a":' * depth + b'["]}",{}]' + b"}" * depth
    head = b'{"metadata":{"name":"a\\"]}","resourceVersion":"7","managedFields":[{"fieldsV1":'
    deep = head + fields + b'}]},"spec":{"nodeName":"n"}}'
    page = wire.decode_list(PODS, b'{"items":[' + deep + b',{"metadata":{"name":"b"}}]}')
    assert [(p.metadata.name, p.spec.node_name) for p in page.items] == [('a"]}', "n"), ("b", "")]
    page = wire.decode_list(PODS, b'{"items":[' + deep + b',{"metadata":{"name":"b"},"spec":1}]}')
    assert (len(page.items), [b.key.name for b in page.undecodable]) == (1, ["b"])
    change = wire.decode_event(PODS, b'{"type":"ADDED","object":' + deep + b"}")
    assert change.obj == page.items[0] == wire.decode_object(PODS, deep)
    bad = wire.decode_event(PODS, b'{"type":"ADDED","object":' + deep.replace(b'"n"', b"1") + b"}")
    assert (bad.obj, bad.resource_version) == (None, "7")
