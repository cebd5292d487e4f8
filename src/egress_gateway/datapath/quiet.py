"""Keeps ``wireguard-go`` from listening to everything that happens on its node.

Each process subscribes to every change of any link, address and route in the node's namespace
(rtnetlink(7)), and a pod's start makes some twenty: with a hundred attached pods on a node, two
thousand awakenings a start, more than all the rest of it. What the process listens for is its own
link, which lives in the pod's namespace and is never heard of there; and routes, after a change of
which it chooses its source address anew, as it also does when a packet is refused.

So the subscription is answered with success and not made: bind(2) of a netlink address, known by
its length of 12 bytes, the only thing that a filter of system calls (seccomp(2)) can see of it.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from typing import Final

_SET_NO_NEW_PRIVS: Final = 38
_SET_SECCOMP: Final = 22
_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_ERRNO_0: Final = 0x00050000
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06
_CALL, _ARCHITECTURE, _THIRD = 0, 4, 32  # struct seccomp_data, little-endian
_NETLINK_ADDRESS: Final = 12  # sizeof(struct sockaddr_nl)
_MACHINES: Final = {"x86_64": (0xC000003E, 49), "aarch64": (0xC00000B7, 200)}
"""AUDIT_ARCH_* and the number of bind(2)."""


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("true", ctypes.c_uint8),
        ("false", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("first", ctypes.POINTER(_Instruction)))


def subscriptions_ignored(machine: str = "") -> Callable[[], None] | None:
    """What a child is to call before it executes its program (``preexec_fn``); None on machines
    whose system calls we do not know. Where the kernel has no filters nothing is changed."""
    known = _MACHINES.get(machine or platform.machine())
    if known is None:
        return None
    architecture, bind = known
    steps = (
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, 5, architecture),
        (_LOAD, 0, 0, _CALL),
        (_EQUAL, 0, 3, bind),
        (_LOAD, 0, 0, _THIRD),
        (_EQUAL, 0, 1, _NETLINK_ADDRESS),
        (_RETURN, 0, 0, _ERRNO_0),
        (_RETURN, 0, 0, _ALLOW),
    )
    instructions = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    program = _Program(len(steps), instructions)
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def install() -> None:
        # Without the first, only those who administer the whole machine may filter.
        prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0)

    return install
