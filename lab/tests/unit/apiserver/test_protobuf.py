"""Protobuf bodies: the real bytes of kubectl, and broken ones."""

from __future__ import annotations

import pytest

from egress_gateway_lab.apiserver.errors import StatusError
from egress_gateway_lab.apiserver.wire import protobuf


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    meta = field(1, api_version.encode()) + field(2, kind.encode())
    return b"k8s\x00" + field(1, meta) + field(2, raw) + field(3, b"") + field(4, b"")


def test_a_config_map() -> None:
    metadata = field(1, b"c") + field(3, b"default") + field(8, b"")
    entry = field(1, b"key") + field(2, b"value")
    body = envelope("v1", "ConfigMap", field(1, metadata) + field(2, entry))
    assert protobuf.decode(body) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c", "namespace": "default"},
        "data": {"key": "value"},
    }


def test_secrets_are_base64() -> None:
    entry = field(1, b"k") + field(2, b"v")
    body = envelope("v1", "Secret", field(1, field(1, b"s")) + field(2, entry))
    assert protobuf.decode(body)["data"] == {"k": "dg=="}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"nonsense", 400),
        (envelope("batch/v1", "CronJob", b""), 415),
        (envelope("v1", "ConfigMap", field(9, b"what?")), 415),
        (envelope("v1", "ConfigMap", b"\x0a\xff\xff"), 400),
        (envelope("v1", "ConfigMap", b"\x0d"), 400),
        (b"k8s\x00\x0a", 400),
    ],
)
def test_what_is_not_understood_is_refused(body: bytes, code: int) -> None:
    with pytest.raises(StatusError) as caught:
        protobuf.decode(body)
    assert caught.value.code == code
