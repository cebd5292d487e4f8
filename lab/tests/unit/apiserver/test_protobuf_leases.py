"""What client-go's leader election sends as protobuf: its Lease, renewed, and its Events."""

from __future__ import annotations

import pytest

from egress_gateway_lab.apiserver.wire import protobuf


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def envelope(api_version: str, kind: str, raw: bytes) -> bytes:
    meta = field(1, api_version.encode()) + field(2, kind.encode())
    return b"k8s\x00" + field(1, meta) + field(2, raw) + field(3, b"") + field(4, b"")


def instant(seconds: int, nanoseconds: int = 0) -> bytes:
    return field(1, seconds) + field(2, nanoseconds)


METADATA = (
    field(1, b"leader")
    + field(2, b"")
    + field(3, b"kube-system")
    + field(4, b"")
    + field(5, b"4f1c0f1e-0000-4000-8000-000000000000")
    + field(6, b"1234")
    + field(7, 0)
    + field(8, instant(1_760_000_000))
    + field(17, field(1, b"program") + field(2, b"Update") + field(7, b"{}"))
)


def test_a_lease_that_was_read_and_is_renewed() -> None:
    spec = (
        field(1, b"host-1_uid")
        + field(2, 15)
        + field(3, instant(1_760_000_000, 123_456_789))
        + field(4, instant(1_760_000_010))
        + field(5, 3)
    )
    body = envelope("coordination.k8s.io/v1", "Lease", field(1, METADATA) + field(2, spec))
    assert protobuf.decode(body) == {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": "leader",
            "namespace": "kube-system",
            "uid": "4f1c0f1e-0000-4000-8000-000000000000",
            "resourceVersion": "1234",
            "generation": 0,
        },
        "spec": {
            "holderIdentity": "host-1_uid",
            "leaseDurationSeconds": 15,
            "acquireTime": "2025-10-09T08:53:20.123456Z",
            "renewTime": "2025-10-09T08:53:30.000000Z",
            "leaseTransitions": 3,
        },
    }


def test_a_lease_that_is_given_up() -> None:
    spec = field(1, b"") + field(2, 1) + field(3, b"") + field(4, instant(1_760_000_000))
    body = envelope("coordination.k8s.io/v1", "Lease", field(1, METADATA) + field(2, spec))
    assert protobuf.decode(body)["spec"] == {
        "leaseDurationSeconds": 1,
        "renewTime": "2025-10-09T08:53:20.000000Z",
    }


def test_the_event_of_who_leads() -> None:
    involved = field(1, b"Lease") + field(2, b"kube-system") + field(3, b"leader")
    raw = (
        field(1, field(1, b"leader.18a") + field(3, b"kube-system"))
        + field(2, involved + field(5, b"coordination.k8s.io/v1") + field(7, b""))
        + field(3, b"LeaderElection")
        + field(4, b"host-1 became leader")
        + field(5, field(1, b"program") + field(2, b""))
        + field(6, instant(1_760_000_000))
        + field(7, instant(1_760_000_000))
        + field(8, 1)
        + field(9, b"Normal")
        + field(10, b"")
        + field(12, b"")
        + field(14, b"program")
        + field(15, b"")
    )
    event = protobuf.decode(envelope("v1", "Event", raw))
    assert event["involvedObject"]["kind"] == "Lease"
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2025-10-09T08:53:20Z"
    assert "eventTime" not in event
    assert event["source"] == {"component": "program"}


@pytest.mark.parametrize(
    ("seconds", "text"), [(-62_135_596_800, "0001-01-01T00:00:00Z"), (-1, "1969-12-31T23:59:59Z")]
)
def test_times_before_1970_are_times_too(seconds: int, text: str) -> None:
    raw = field(1, field(1, b"e")) + field(6, instant(seconds))
    assert protobuf.decode(envelope("v1", "Event", raw))["firstTimestamp"] == text
