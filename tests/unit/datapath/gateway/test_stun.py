"""STUN as far as we speak it, checked against the vectors of RFC 5769."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.datapath.gateway import stun

# RFC 5769, sections 2.2 and 2.3: responses whose mapped addresses the RFC names.
TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
IPV4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220"
    "002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004c07d4c96"
)
IPV6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf1"
    "1784c97c8292c275bfe3ed41802800 04c8fb0b4c".replace(" ", "")
)


def test_the_answers_of_the_rfc_are_read() -> None:
    assert stun.seen(IPV4) == (TRANSACTION, ipaddress.ip_address("192.0.2.1"))
    address = ipaddress.ip_address("2001:db8:1234:5678:11:2233:4455:6677")
    assert stun.seen(IPV6) == (TRANSACTION, address)


@pytest.mark.parametrize("size", [0, 20, 100, 1372])
@given(st.binary(min_size=12, max_size=12), st.ip_addresses(), st.integers(1, 65535))
def test_what_was_asked_is_answered(
    size: int, transaction: bytes, address: ipaddress.IPv4Address, port: int
) -> None:
    asked = stun.request(transaction, size=size)
    assert size - 4 < len(asked) <= max(size, 20)
    answer = stun.response(asked, address, port)
    assert answer is not None
    assert stun.seen(answer) == (transaction, address)
    assert stun.seen(asked) is None


@given(st.binary(max_size=80))
def test_garbage_is_nobodys_answer(garbage: bytes) -> None:
    stun.seen(garbage)
    assert stun.response(garbage, ipaddress.ip_address("192.0.2.1"), 1) is None
    cut = IPV4[: len(garbage)]
    if len(cut) < len(IPV4):
        assert stun.seen(cut) is None
