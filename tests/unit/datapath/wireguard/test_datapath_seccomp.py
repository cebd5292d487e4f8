"""Calls that are answered and not made, and all others that are made."""

from __future__ import annotations

import subprocess
import sys

import pytest

from egress_gateway.datapath.wireguard.seccomp import calls_spared

_TRIES = """
import fcntl, socket, struct

def tried(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return error.errno
    return 0

ordinary = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
nowhere = struct.pack("16si12x", b"nowhere", 1420)
listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
links = 1
print(
    tried(fcntl.ioctl, ordinary, 0x8922, nowhere),
    tried(fcntl.ioctl, ordinary, 0x8921, nowhere),
    tried(listener.bind, (0, links)),
    listener.getsockname()[1],
    tried(ordinary.bind, ("127.0.0.1", 0)),
    int(ordinary.getsockname()[1] > 0),
)
"""


def _found(*, spared: bool) -> list[int]:
    prepare = calls_spared()
    if prepare is None:
        pytest.skip("this machine's system calls are not known")
    ran = subprocess.run(
        [sys.executable, "-I", "-c", _TRIES],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=prepare if spared else None,
    )
    return [int(word) for word in ran.stdout.split()]


def test_the_mtu_and_the_subscription_are_spared_and_nothing_else() -> None:
    without = _found(spared=False)
    assert without[0] != 0
    assert without[1:] == [19, 0, 1, 0, 1]
    assert _found(spared=True) == [0, 19, 0, 0, 0, 1]


def test_unknown_machines_are_left_alone() -> None:
    assert calls_spared("s390x") is None
