"""What agents keep of objects: all that their rules read, and no more."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from egress_gateway.api import keys, names
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.gateway.peers import rules
from egress_gateway.gateway.serving import listed
from egress_gateway.kube import kept, wire
from egress_gateway.kube.resources import NODES, POD_ENDPOINTS, PODS, SGCS, Resource
from egress_gateway.node.attachment.model import NotUsable, usable_configuration

OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "app", "uid": "u1"}
NOISE = {"labels": {"a": "b"}, "finalizers": ["f/g"], "managedFields": [{"manager": "kubectl"}]}


def pod(**changed: Any) -> dict[str, Any]:
    meta = {
        "name": "app",
        "namespace": "shop",
        "uid": "u1",
        "resourceVersion": "7",
        "creationTimestamp": "2026-11-30T01:00:00Z",
        "annotations": {names.POD_ANNOTATION: "partners", "prometheus.io/scrape": "true"},
        **NOISE,
    }
    status = {
        "phase": "Running",
        "podIP": "10.1.0.5",
        "podIPs": [{"ip": "10.1.0.5"}, {"ip": "FD00::5"}],
        "hostIP": "10.0.0.9",
    }
    return {"metadata": meta, "spec": {"nodeName": "worker"}, "status": status} | changed


def endpoint() -> dict[str, Any]:
    spec = {
        "staticGatewayConfiguration": "partners",
        "podIpAddress": "10.1.0.5",
        "podIps": ["10.1.0.5", "fd00::5"],
        "podPublicKey": keys.generate().public,
        "podUid": "u1",
        "nodeName": "worker",
    }
    meta = {
        "name": "app",
        "namespace": "shop",
        "uid": "u2",
        "resourceVersion": "9",
        "creationTimestamp": "2026-11-30T01:00:01Z",
        "ownerReferences": [OWNER],
        **NOISE,
    }
    return {"metadata": meta, "spec": spec, "status": {"state": "Lost", "message": "x" * 200}}


def raw(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"status": {"podIP": "10.1.0.5"}},
        {"status": {"podIPs": [{"ip": "10.1.0.6"}]}},
        {"status": {"phase": "Failed"}},
        {"status": {}},
        {"spec": {"nodeName": "worker", "hostNetwork": True}},
        {"spec": {"nodeName": "other"}},
        {"metadata": {"name": "app", "namespace": "shop", "uid": "u3"}},
        {
            "metadata": {
                "name": "app",
                "namespace": "shop",
                "uid": "u1",
                "annotations": {names.POD_ANNOTATION: "partners", names.MIRROR_ANNOTATION: "x"},
            }
        },
    ],
)
def test_a_gateway_judges_what_it_keeps_as_it_judges_all_of_it(changed: dict[str, Any]) -> None:
    verdicts = []
    for pods, claims in (
        (PODS, POD_ENDPOINTS),
        (PODS.keeping(kept.pod), POD_ENDPOINTS.keeping(kept.claim)),
    ):
        known = wire.decode_object(pods, raw(pod(**changed)))
        claim = wire.decode_object(claims, raw(CLAIM))
        evidence = rules.Evidence(pod=known, named={rules.annotated(known)})
        verdicts.append((rules.judge(claim, evidence), known.ips, known.has_network))
        assert pods.reference(known) == PODS.reference(known)
    assert verdicts[0] == verdicts[1]


CLAIM = endpoint()


def configuration(key: str, *conditions: dict[str, str]) -> dict[str, Any]:
    return {
        "metadata": {"name": "partners", "namespace": "shop", "uid": "u", "annotations": {"a": "b"}}
        | NOISE,
        "spec": {"gatewayNodepoolName": "npegress", "excludeCidrs": ["10.0.0.0/8"]},
        "status": {
            "gatewayServerProfile": {"ip": "10.0.0.4", "port": 6000, "publicKey": key},
            "gateways": [{"node": "g", "primaryIp": "10.0.0.5", "secondaryIp": "10.0.0.6"}],
            "conditions": list(conditions),
        },
    }


def used(sgc: StaticGatewayConfiguration) -> object:
    """What a node agent makes of it, or why it does not."""
    try:
        return usable_configuration(sgc, "shop/partners")
    except NotUsable as error:
        return str(error)


@pytest.mark.parametrize("key", ["A" * 43 + "=", ""])
@pytest.mark.parametrize("status", ["True", "False", "Unknown"])
def test_agents_make_the_same_of_a_configuration_that_they_keep(status: str, key: str) -> None:
    said = {"type": "Ready", "status": status, "reason": "R", "message": "why"}
    document = raw(configuration(key, {**said, "type": "Other", "status": "True"}, said))
    whole = wire.decode_object(SGCS, document)
    less = wire.decode_object(SGCS.keeping(kept.configuration), document)
    assert used(less) == used(whole)
    assert listed([less], "g") == listed([whole], "g")
    assert [c.type for c in less.status.conditions] == ["Ready"] * (status != "True")


def test_a_node_keeps_addresses_networks_and_what_keeps_pods_away() -> None:
    document = raw(
        {
            "metadata": {"name": "n", "uid": "u"} | NOISE,
            "spec": {"podCIDRs": ["10.1.0.0/24"], "taints": [{"key": "k", "effect": "NoSchedule"}]},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "10.0.0.9"}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
    )
    whole = wire.decode_object(NODES, document)
    less = wire.decode_object(NODES.keeping(kept.node), document)
    assert (less.spec, less.internal_ips) == (whole.spec, whole.internal_ips)
    assert less.metadata.labels == {}


LARGE = "x" * 250_000
MANY = {f"l{n}": "" for n in range(20_000)}
HUNG_ON = {
    "labels": MANY,
    "annotations": {names.POD_ANNOTATION: LARGE, names.ROTATE_KEYS_ANNOTATION: LARGE, "a": LARGE},
    "finalizers": [f"example.com/{label}" for label in MANY],
    "ownerReferences": [OWNER] * 1000,
}


@pytest.mark.parametrize(
    ("resource", "document", "most"),
    [
        (PODS.keeping(kept.pod), pod(), 1_500),
        (SGCS.keeping(kept.configuration), configuration("k"), 1_500),
        (SGCS.keeping(kept.wish), configuration("k"), 1_500),
    ],
)
def test_what_tenants_hang_on_objects_is_not_kept(
    resource: Resource[Any], document: dict[str, Any], most: int
) -> None:
    """Annotations have 256 KiB, and labels and finalizers no bound but that of an object, 1.5 MB,
    of which a dict makes several times as much."""
    document["metadata"] = {"name": "n", "namespace": "shop", "uid": "u"} | HUNG_ON
    whole = wire.decode_object(resource, raw(document))
    assert len(msgspec.json.encode(whole)) < most
    assert wire.decode_event(resource, raw({"type": "ADDED", "object": document})).obj == whole


def test_lists_and_watches_keep_alike_and_other_readers_keep_all() -> None:
    """Also where one object of a list does not decode, and each is read by itself."""
    less = PODS.keeping(kept.pod)
    bad = pod(status={"phase": 5})
    for items in ([pod()], [pod(), bad]):
        document = {"metadata": {"resourceVersion": "1"}, "items": items}
        (found,) = wire.decode_list(less, raw(document)).items
        assert found.metadata.labels == {}
        assert found.metadata.annotations == {names.POD_ANNOTATION: "partners"}
    event = wire.decode_event(less, raw({"type": "ADDED", "object": pod()}))
    assert event.obj == found
    assert wire.decode_object(PODS, raw(pod())).metadata.labels == {"a": "b"}
    assert wire.decode_object(less.untyped(), raw(pod()))["metadata"]["labels"] == {"a": "b"}


def test_texts_that_many_objects_share_are_in_memory_once() -> None:
    first, second = (
        wire.decode_object(POD_ENDPOINTS.keeping(kept.claim), raw(CLAIM)) for _ in range(2)
    )
    assert first.spec.node_name is second.spec.node_name
    assert first.metadata.namespace is second.metadata.namespace
    assert first.metadata.owner_references[0].uid is first.spec.pod_uid
    assert first.status is second.status
