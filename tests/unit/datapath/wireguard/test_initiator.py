"""A handshake by hand: what it sends, and what it takes for an answer.

That responders take it, and that sessions carry packets, is seen in ``tests/node/test_trials.py``.
"""

from __future__ import annotations

import pytest

from egress_gateway.api import keys
from egress_gateway.datapath.wireguard.initiator import Initiator, receiver

PAIR, SERVER = keys.generate(), keys.generate()


def begun() -> Initiator:
    return Initiator(private_key=PAIR.private, server_key=SERVER.public, now=1e9)


def test_an_initiation_is_of_its_length_and_never_the_same() -> None:
    one, other = begun(), begun()
    assert len(one.initiation) == 148
    assert one.initiation[:4] == b"\1\0\0\0"
    assert one.initiation != other.initiation
    assert PAIR.private not in repr(one)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 64, 92, 93, 148, 1500])
@pytest.mark.parametrize("kind", range(6))
def test_what_is_no_answer_is_none(kind: int, length: int) -> None:
    attempt = begun()
    index = attempt.index.to_bytes(4, "little")
    datagram = (bytes([kind, 0, 0, 0]) + index * 2 + bytes(1500))[:length]
    assert attempt.answered(datagram) is None
    assert attempt.put_off(datagram) == (kind == 3 and length == 64)
    assert receiver(datagram) in (None, attempt.index)


def test_a_malformed_key_is_a_value_error() -> None:
    for private, server in ((PAIR.private, "x"), ("", SERVER.public)):
        with pytest.raises(ValueError, match="key"):
            Initiator(private_key=private, server_key=server, now=0.0)
