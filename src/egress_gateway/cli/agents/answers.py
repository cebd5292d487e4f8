"""What ``egress-gateway probe`` prints, and ``test`` and ``trace`` read."""

from __future__ import annotations

import msgspec


class Asked(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What one server said. ``seen`` empty: no answer; ``full_seen``: to a packet of ``mtu``
    bytes."""

    server: str
    address: str = ""
    device: str = ""
    seen: str = ""
    mtu: int = 0
    full_seen: str = ""
    error: str = ""


class Round(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Names that did not resolve with the reason, what servers said, and the link that packets to
    each of ``ways`` take."""

    unresolved: dict[str, str] = {}
    asked: list[Asked] = []
    ways: dict[str, str] = {}
