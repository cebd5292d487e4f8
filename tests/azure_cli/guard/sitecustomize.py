"""Loaded by every Python that starts with this folder on its path, so by `az`: notes each address
that the process connects to or looks up, and refuses what is not loopback.

An audit hook sees what `socket` does beneath every library, and cannot be taken away again.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from typing import Any

_LOG = os.environ.get("EGRESS_GUARD_LOG")
_DISCARD = 9
"""The port at which the environment's proxies point: going there means going out."""


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.bind"):
        address = arguments[1]
        if not isinstance(address, tuple):
            return  # a Unix socket, or netlink
        host, port = address[0], address[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host, port = arguments[0], arguments[1] if len(arguments) > 1 else None
    else:
        return
    inside = _is_loopback(host) and str(port) != str(_DISCARD)
    _note(f"{'inside' if inside else 'OUTSIDE'} {event} {host} {port} {sys.argv[1:]}")
    if not inside:
        raise PermissionError(f"{host} is not loopback")


def _is_loopback(host: Any) -> bool:
    text = host.decode() if isinstance(host, bytes) else host
    if text in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False


def _note(line: str) -> None:
    descriptor = os.open(_LOG or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


if _LOG:
    sys.addaudithook(_watch)
