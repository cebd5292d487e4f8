"""Suppresses two requests of ``wireguard-go`` to the kernel.

A filter of system calls (seccomp(2)) answers them with success, and the kernel never runs them.

- The subscription to every change of any link, address and route in the node's namespace
  (rtnetlink(7)). The start of a pod makes some twenty changes. With a hundred attached pods on a
  node, that is two thousand wake-ups for each start, more than all its other work. The process
  listens for its own link, which lives in the pod's namespace, so it could never hear of it. It
  also listens for routes, and then chooses its source address anew; it does so too when a packet is
  refused. The call is bind(2) of a netlink address. The filter recognises it by its length of 12
  bytes, the only thing that such a filter can see.
- The setting of the new link's MTU to 1,420 (SIOCSIFMTU of netdevice(7)). The process reads the MTU
  once, at that moment. It never hears that the link got another MTU in the pod's namespace, and it
  pads packets to the MTU that it has read. With 1,420 it makes 1,452 bytes of a packet of 1,440,
  and these leave in two fragments. A new TUN link has MTU 1,500. With that, no packet exceeds what
  common networks (1,500 and 9,000 less the tunnel's 60) carry.
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
_CALL, _ARCHITECTURE, _SECOND, _THIRD = 0, 4, 24, 32  # struct seccomp_data, little-endian
_NETLINK_ADDRESS: Final = 12  # sizeof(struct sockaddr_nl)
_SET_MTU: Final = 0x8922  # SIOCSIFMTU
_MACHINES: Final = {"x86_64": (0xC000003E, 49, 16), "aarch64": (0xC00000B7, 200, 29)}
"""AUDIT_ARCH_*, the numbers of bind(2) and ioctl(2)."""


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("true", ctypes.c_uint8),
        ("false", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("first", ctypes.POINTER(_Instruction)))


def calls_spared(machine: str = "") -> Callable[[], None] | None:
    """What a child is to call before it executes its program (``preexec_fn``); None on machines
    whose system calls we do not know. Where the kernel has no filters nothing is changed."""
    known = _MACHINES.get(machine or platform.machine())
    if known is None:
        return None
    architecture, bind, ioctl = known
    steps = (
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, 7, architecture),
        (_LOAD, 0, 0, _CALL),
        (_EQUAL, 0, 2, bind),
        (_LOAD, 0, 0, _THIRD),
        (_EQUAL, 4, 3, _NETLINK_ADDRESS),
        (_EQUAL, 0, 2, ioctl),
        (_LOAD, 0, 0, _SECOND),
        (_EQUAL, 1, 0, _SET_MTU),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO_0),
    )
    instructions = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    program = _Program(len(steps), instructions)
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def install() -> None:
        # Without the first, only those who administer the whole machine may filter.
        prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0)

    return install
