"""Which pods are sent to us at all: the promise to all others."""

from __future__ import annotations

import base64

from egress_gateway.api import names
from egress_gateway.webhook.registration import NAME_LABEL, client, covers, webhooks

SERVICE = client(service="hook", namespace="system", url="", trust=b"PEM")


def test_all_is_closed_and_nothing_wider_than_it_must_be() -> None:
    for webhook in webhooks(SERVICE, system="system", defaulted=["shop"]):
        assert webhook["failurePolicy"] == "Fail"
        assert webhook["sideEffects"] == "None"
        assert webhook["rules"] == [
            {
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE"],
                "resources": ["pods"],
                "scope": "Namespaced",
            }
        ]
        assert len(webhook["matchConditions"]) == 3
        conditions = " ".join(c["expression"] for c in webhook["matchConditions"])
        assert f"'{names.POD_ANNOTATION}'" in conditions
        assert "hostNetwork" in conditions


def test_namespaces_are_named_and_ours_never_is() -> None:
    annotated, defaulted = webhooks(SERVICE, system="system", defaulted=["b", "system", "a", "b"])
    assert annotated["namespaceSelector"]["matchExpressions"] == [
        {"key": NAME_LABEL, "operator": "NotIn", "values": ["system"]}
    ]
    assert defaulted["namespaceSelector"]["matchExpressions"] == [
        {"key": NAME_LABEL, "operator": "In", "values": ["a", "b"]}
    ]


def test_without_any_namespace_none_is_meant() -> None:
    """An empty selector would mean all."""
    _, defaulted = webhooks(SERVICE, system="system", defaulted=["system"])
    assert defaulted["namespaceSelector"]["matchExpressions"] == [
        {"key": NAME_LABEL, "operator": "DoesNotExist"}
    ]


def test_where_we_are() -> None:
    assert base64.b64decode(SERVICE["caBundle"]) == b"PEM"
    assert SERVICE["service"] == {
        "name": "hook",
        "namespace": "system",
        "path": "/pods",
        "port": 443,
    }
    outside = client(service="hook", namespace="system", url="https://a:1/", trust=b"")
    assert outside == {"url": "https://a:1/pods", "caBundle": ""}


def test_what_the_server_has_added_is_no_difference() -> None:
    wanted = webhooks(SERVICE, system="system", defaulted=["a"])
    live = [w | {"objectSelector": {}, "extra": 1} for w in wanted]
    assert covers(live, wanted)
    assert not covers(live[:1], wanted)
    assert not covers(None, wanted)
    assert not covers(live, webhooks(SERVICE, system="system", defaulted=["a", "b"]))
    other = client(service="hook", namespace="system", url="", trust=b"NEW")
    assert not covers(live, webhooks(other, system="system", defaulted=["a"]))


def test_what_the_provider_excludes_beyond_is_left_to_it() -> None:
    """AKS adds expressions to every webhook; taking them away again would go on for ever."""
    wanted = webhooks(SERVICE, system="system", defaulted=["a"])
    live = webhooks(SERVICE, system="system", defaulted=["a"])
    for webhook in live:
        expression = {"key": "control-plane", "operator": "NotIn", "values": ["true"]}
        webhook["namespaceSelector"]["matchExpressions"].append(expression)
    assert covers(live, wanted)
    assert not covers(wanted, live)
