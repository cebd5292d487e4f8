"""What ``egress-gateway probe`` prints, and ``test`` and ``trace`` read."""

from __future__ import annotations

import msgspec


class _Answer(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Part of a line of JSON."""


class Asked(_Answer, frozen=True):
    """What one server said. ``seen`` empty: no answer; ``full_seen``: to a packet of ``mtu``
    bytes."""

    server: str
    address: str = ""
    device: str = ""
    seen: str = ""
    mtu: int = 0
    full_seen: str = ""
    error: str = ""


class AskedResolver(_Answer, frozen=True):
    """A DNS server, the link that packets to it take, and why it is of no use (empty: it
    answers)."""

    server: str
    device: str = ""
    error: str = ""


class SeenTunnel(_Answer, frozen=True):
    """One of the pod's tunnels in the kernel. ``endpoint``: address and port of the gateway;
    ``handshake``: seconds since the last one, None: there was none."""

    link: str
    endpoint: str = ""
    handshake: float | None = None


class SeenPod(_Answer, frozen=True):
    """What the kernel has of a pod. ``held``: packets that its hold has dropped, None: it has no
    hold. ``tunnel``: the one that new connections take, None: it has none."""

    held: int | None = None
    tunnel: SeenTunnel | None = None


class Round(_Answer, frozen=True):
    """Names that did not resolve with the reason, what servers and resolvers said, the link that
    packets to each of ``ways`` take, what connections came to (empty: accepted), and in a node
    agent what the kernel has of the pod."""

    unresolved: dict[str, str] = {}
    asked: list[Asked] = []
    resolvers: list[AskedResolver] = []
    ways: dict[str, str] = {}
    connected: dict[str, str] = {}
    pod: SeenPod | None = None
