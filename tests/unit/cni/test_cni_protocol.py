"""The words between plugin and agent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from egress_gateway.api import names
from egress_gateway.cni import protocol
from egress_gateway.cni.protocol import ProtocolError


def call(config: dict[str, Any] | None = None, args: str = "") -> protocol.Call:
    raw = {"command": "ADD", "containerID": "c", "ifName": "eth0", "args": args}
    return protocol.decode(json.dumps(raw | {"config": config or {}}).encode())


def test_addresses_of_both_families() -> None:
    result = {"ips": [{"address": "10.244.0.7/24"}, {"address": "2001:db8::7/64"}]}
    found = call({"prevResult": result}).addresses
    assert [str(address) for address in found] == ["10.244.0.7", "2001:db8::7"]


@pytest.mark.parametrize("config", [{}, {"prevResult": {}}, {"prevResult": {"ips": None}}])
def test_no_addresses(config: dict[str, Any]) -> None:
    assert call(config).addresses == ()


def test_malformed_address_says_where() -> None:
    with pytest.raises(ProtocolError, match=r"prevResult\.ips"):
        _ = call({"prevResult": {"ips": [{"address": "x"}]}}).addresses


def test_pod_of_the_arguments() -> None:
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;x;K8S_POD_UID=u=1"
    assert call(args=args).pod == ("ns", "web", "u=1")
    assert call().pod == ("", "", "")


@pytest.mark.parametrize(
    ("runtime_config", "wanted"),
    [
        (None, ""),
        ({}, ""),
        ({names.CNI_CAPABILITY: None}, ""),
        ({names.CNI_CAPABILITY: {"a": "b"}}, ""),
        ({names.CNI_CAPABILITY: {names.POD_ANNOTATION: "egress"}, "portMappings": [1]}, "egress"),
    ],
)
def test_annotation(runtime_config: Any, wanted: str) -> None:
    assert call({"runtimeConfig": runtime_config}).configuration == wanted


def test_annotations_that_are_none() -> None:
    with pytest.raises(ProtocolError, match="pod-annotations"):
        _ = call({"runtimeConfig": {names.CNI_CAPABILITY: {names.POD_ANNOTATION: 1}}}).configuration


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"command":"ADD"}', b"\xff"])
def test_what_is_no_call(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        protocol.decode(raw)


def test_refusal_is_a_cni_error() -> None:
    text = protocol.refusal(11, "why", "more", version="0.4.0").removeprefix(b"error\n")
    assert json.loads(text) == {"cniVersion": "0.4.0", "code": 11, "msg": "why", "details": "more"}
