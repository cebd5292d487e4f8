"""Whether a pod's session with its gateway is alive, asked once, whatever turn it is.

A gateway that has lost its sessions (its link was made anew) answers handshakes, and none of what
pods send. WireGuard notices that after 15 s of a pod's traffic, and the streams of echoes ask one
pod of a path at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Final

from egress_gateway.datapath.addresses import ECHO_ADDRESS
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux import echo
from egress_gateway.node.sandboxes.sandbox import Sandbox

_ECHOES: Final = 3
_PAUSE: Final = 0.1
"""Seconds until the next echo, and after the last one until the session counts as lost."""


async def lives(sandbox: Sandbox) -> bool:
    """Whether an echo through the pod's tunnel is answered. True where nobody can ask: what is
    broken there, a pass over the sandbox repairs."""
    try:
        opened = await sandbox.open_echo()
        if opened is None:
            return True
        with contextlib.closing(opened):
            return await _answered(opened)
    except (OSError, DatapathError):
        return True


async def _answered(opened: socket.socket) -> bool:
    # Not the one of the streams, whose sockets in that namespace hear these answers too.
    identifier = (os.getpid() ^ 0xA5A5) & 0xFFFF
    for number in range(_ECHOES):
        with contextlib.suppress(OSError):  # a link that has just gone is silence too
            opened.sendto(echo.echo_request(identifier, number), (str(ECHO_ADDRESS), 0))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PAUSE):
                return await _reply(opened, identifier)
    return False


async def _reply(opened: socket.socket, identifier: int) -> bool:
    loop = asyncio.get_running_loop()
    while True:
        packet = await loop.sock_recv(opened, 2048)
        if echo.echo_reply(packet, identifier) is not None:
            return True
