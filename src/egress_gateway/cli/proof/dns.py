"""Asks one DNS server one question, over UDP (RFC 1035).

The C library asks the servers of ``/etc/resolv.conf`` alone, and does not say which one answered.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_RESOLV_CONF: Final = Path("/etc/resolv.conf")
_PORT: Final = 53
_HEADER: Final = struct.Struct("!6H")
_RECURSION_DESIRED: Final = 0x0100
_A, _NS, _IN = 1, 2, 1
_USELESS: Final = {2: "SERVFAIL", 5: "REFUSED"}
"""RFC 1035, 4.1.1: codes of a server that answers, and resolves nothing."""


def servers(asked: Sequence[str]) -> list[str]:
    """Addresses; ``node`` stands for those of this file system's ``/etc/resolv.conf``."""
    return list(dict.fromkeys(s for one in asked for s in (_node() if one == "node" else [one])))


def _node() -> Iterator[str]:
    try:
        lines = _RESOLV_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return
    for words in map(str.split, lines):
        if len(words) > 1 and words[0] == "nameserver":
            with contextlib.suppress(ValueError):  # the C library passes over it too
                yield str(ipaddress.ip_address(words[1]))


def ask(server: str, name: str, wait: float, *, tries: int = 1) -> str:
    """Why ``server`` (an address) is of no use to resolve ``name``; empty: it answers. Without a
    name any answer will do. ``wait``: seconds for each of ``tries``."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    identity = int.from_bytes(os.urandom(2))
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.settimeout(wait)
            asking.connect((server, _PORT))
            for _ in range(tries):
                asking.send(question(identity, name))
                try:
                    while (code := rcode(asking.recv(4096), identity)) is None:
                        pass  # no answer to this question
                except TimeoutError:
                    continue
                return f"it answers {_USELESS[code]}" if name and code in _USELESS else ""
    except OSError as error:
        return str(error)
    return f"no answer in {wait * tries:.0f} s"


def question(identity: int, name: str) -> bytes:
    """For the address of ``name``; empty: for the root's servers."""
    labels = [label.encode("idna") for label in name.split(".") if label]
    encoded = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    head = _HEADER.pack(identity, _RECURSION_DESIRED, 1, 0, 0, 0)
    return head + encoded + struct.pack("!2H", _A if labels else _NS, _IN)


def rcode(answer: bytes, identity: int) -> int | None:
    """None: it answers another question, or is no answer."""
    if len(answer) < _HEADER.size:
        return None
    found, flags, *_ = _HEADER.unpack_from(answer)
    return flags & 0xF if found == identity and flags & 0x8000 else None
