from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway_lab.fabric.probes import Verdict
from egress_gateway_lab.fabric.services.dns import respond

ZONE = {"ifconfig.me": IPv4Address("198.51.100.10")}


def query(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(x)]) + x.encode() for x in name.split(".") if x)
    return struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


def answer(name: str, kind: int = 1) -> tuple[int, int, bytes]:
    """Response code, number of answers, last bytes."""
    got = respond(query(name, kind), ZONE)
    assert got is not None
    identity, flags, _, answers, _, _ = struct.unpack_from("!6H", got)
    assert identity == 7
    assert flags & 0x8000
    return flags & 15, answers, got


@pytest.mark.parametrize(
    ("name", "kind", "code", "answers"),
    [
        ("ifconfig.me", 1, 0, 1),
        ("IfConfig.Me", 1, 0, 1),
        ("ifconfig.me", 28, 0, 0),  # AAAA: the name exists, the type does not
        ("10.100.51.198.in-addr.arpa", 12, 0, 1),
        ("11.100.51.198.in-addr.arpa", 12, 3, 0),
        ("ifconfig.me.default.svc.cluster.local", 1, 3, 0),
    ],
)
def test_names_are_answered(name: str, kind: int, code: int, answers: int) -> None:
    assert answer(name, kind)[:2] == (code, answers)


def test_the_address_is_in_the_answer() -> None:
    assert answer("ifconfig.me")[2].endswith(IPv4Address("198.51.100.10").packed)


@given(st.binary(max_size=80))
def test_any_packet_is_survived(packet: bytes) -> None:
    got = respond(packet, ZONE)
    assert got is None or got[:2] == packet[:2]


@given(st.lists(st.booleans(), max_size=12), st.integers(1, 3))
def test_a_verdict_follows_the_last_results(results: list[bool], threshold: int) -> None:
    verdict = Verdict()
    for success in results:
        verdict = verdict.after(success, threshold)
    failures = next((n for n, ok in enumerate(reversed(results)) if ok), None)
    assert verdict.healthy is (failures is not None and failures < threshold)
