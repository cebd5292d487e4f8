"""PodEndpoints: what is written, and which are left over."""

from __future__ import annotations

import msgspec

from egress_gateway.api.types import ObjectMeta, PodEndpoint, PodEndpointSpec
from egress_gateway.kube.resources import Key
from egress_gateway.node.endpoints import document, label_value, leftovers, spec_of
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
