"""PodEndpoints: what is written, and which are left over."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from egress_gateway.api.types import ObjectMeta, PodEndpoint, PodEndpointSpec
from egress_gateway.kube.errors import Forbidden, Invalid, NotFound
from egress_gateway.kube.resources import Key
from egress_gateway.node.reporting.endpoints import (
    Endpoints,
    document,
    label_value,
    leftovers,
    names_of,
    spec_of,
)
from tests.unit.node.node_values import attachment


def test_document_decodes_to_the_spec() -> None:
    state = attachment(addresses=["2001:db8::2", "10.244.1.2"])
    whole = document(state, "node-1")
    endpoint = msgspec.convert(whole, PodEndpoint)
    assert endpoint.spec == spec_of(state, "node-1")
    assert endpoint.spec.pod_ip_address == "10.244.1.2"
    assert endpoint.spec.pod_ips == ["2001:db8::2", "10.244.1.2"]
    assert [o.uid for o in endpoint.metadata.owner_references] == ["u-1"]
    assert state.private_key not in str(whole)


def test_label_of_a_long_node_name_is_a_valid_value() -> None:
    assert label_value("node-1") == "node-1"
    assert len(label_value("x" * 253)) <= 63
    assert label_value("x" * 253) != label_value("x" * 252)


def test_leftovers_are_this_nodes_endpoints_of_pods_that_are_not_attached() -> None:
    def endpoint(name: str, node: str, uid: str) -> PodEndpoint:
        meta = ObjectMeta(name=name, namespace="default")
        return PodEndpoint(metadata=meta, spec=PodEndpointSpec(node_name=node, pod_uid=uid))

    present = [
        endpoint("a", "node-1", "u-a"),
        endpoint("b", "node-1", "u-b"),
        endpoint("c", "node-2", "u-c"),
    ]
    assert leftovers(present, "node-1", {"u-a"}) == [Key("default", "b")]


def test_a_second_endpoint_of_a_pod_is_left_over_if_the_first_says_the_same() -> None:
    def endpoint(name: str, key: str, node: str = "node-1", uid: str = "u") -> PodEndpoint:
        owner = {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": uid}
        meta = msgspec.convert({"name": name, "ownerReferences": [owner]}, ObjectMeta)
        spec = PodEndpointSpec(node_name=node, pod_uid=uid, pod_public_key=key)
        return PodEndpoint(metadata=meta, spec=spec)

    own, second = names_of("web", "node-1")
    for first, kept in (
        (endpoint(own, "k"), False),
        (endpoint(own, "another"), True),
        (endpoint(own, "k", node="node-2"), True),
        (endpoint(own, "k", uid="u-2"), True),
    ):
        left = leftovers([first, endpoint(second, "k")], "node-1", {"u", "u-2"})
        assert left == ([] if kept else [Key("", second)])


class Server:
    """PodEndpoints as the API server keeps them: no key changes, and no node writes another's."""

    def __init__(self, **there: tuple[str, str]) -> None:
        """``there``: node and key by name."""
        self.there = there
        self.late = False

    async def get(self, _: Any, name: str, namespace: str) -> PodEndpoint:
        if name not in self.there:
            raise NotFound(404, "NotFound", name)
        node, key = self.there[name]
        spec = PodEndpointSpec(node_name=node, pod_public_key=key)
        return PodEndpoint(metadata=ObjectMeta(name=name, namespace=namespace), spec=spec)

    async def apply(self, _: Any, whole: dict[str, Any]) -> None:
        name = whole["metadata"]["name"]
        node, key = whole["spec"]["nodeName"], whole["spec"]["podPublicKey"]
        before = self.there.get(name, (node, key))
        if self.late:  # gone in the next moment
            self.there.pop(name, None)
            self.late = False
        if before[0] != node:
            raise Forbidden(403, "Forbidden", "another node's")
        if before[1] != key:
            raise Invalid(422, "Invalid", "no key changes")
        self.there[name] = node, key

    async def delete(self, _: Any, name: str, namespace: str, *, uid: str | None = None) -> None:
        self.there.pop(name)


class Empty:
    """The cache of an agent that has just begun."""

    is_synced = False

    def get(self, namespace: str, name: str) -> None:
        return None


@pytest.mark.parametrize(
    ("there", "late", "name"),
    [
        ({}, False, "own"),
        ({"own": ("node-1", "earlier")}, False, "own"),  # the machine lost its disk
        ({"own": ("node-1", "earlier")}, True, "own"),
        ({"own": ("node-2", "squatter")}, False, "second"),
        ({"own": ("node-2", "squatter")}, True, "own"),
    ],
)
async def test_an_agent_that_has_just_begun_writes_one_endpoint_whatever_is_there(
    there: dict[str, tuple[str, str]], late: bool, name: str
) -> None:
    state = attachment()
    own, second = names_of(state.pod, "node-1")
    server = Server(**({own: there["own"]} if there else {}))
    server.late = late
    endpoints = Endpoints(server, Empty(), "node-1")  # type: ignore[arg-type]
    await endpoints.publish(state)
    ours = {n for n, (node, key) in server.there.items() if node == "node-1"}
    assert ours == {own if name == "own" else second}
    assert server.there[own if name == "own" else second] == ("node-1", state.public_key)
