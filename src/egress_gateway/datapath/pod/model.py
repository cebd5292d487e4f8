"""A pod's part of the data path as values: what it should have, and what it has."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from egress_gateway.datapath.addresses import IPAddress, IPNetwork
from egress_gateway.datapath.linux.link import Link, Route, RoutingRule
from egress_gateway.datapath.pod.origins import NO_ORIGINS, Origins
from egress_gateway.datapath.pod.ruleset import LINKS, Split, render, split
from egress_gateway.datapath.wireguard.model import Device, Endpoint

KEEPALIVE: Final = 25
"""Seconds. Opens the handshake without waiting for traffic, keeps load balancers' and
conntrack's memory of the flow alive; WireGuard's documentation suggests this value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """The pod's tunnel to one gateway.

    ``name`` is unique on the node (see ``tunnel_name``), ``link`` one of the pod's two tunnel
    links. Every move changes ``endpoint`` *and* ``listen_port``, so that the gateway left behind
    cannot take the pod back. ``mtu`` in bytes.
    """

    name: str
    link: str = LINKS[0]
    private_key: str = field(repr=False)
    peer_key: str
    endpoint: Endpoint
    listen_port: int
    mtu: int
    keepalive: int = KEEPALIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class PodDesired:
    """What an attached pod's namespace should look like.

    With ``default_route`` everything but ``excluded`` and ``exceptions`` belongs to the gateway;
    without it only ``excluded`` does (the ``azureNetworking`` swap), and exceptions never do.
    ``active`` None: all of that is held back. ``tunnel_ipv6`` False: IPv6 of the gateway's is
    held back even with a tunnel. ``standby`` is a second tunnel on the other link: connections
    that use it already stay on it, and no new ones are sent there.
    """

    netns: Path
    addresses: tuple[IPAddress, ...]
    interface: str = "eth0"
    default_route: bool = True
    excluded: tuple[IPNetwork, ...] = ()
    exceptions: tuple[IPNetwork, ...] = ()
    active: Tunnel | None = None
    tunnel_ipv6: bool = False
    standby: Tunnel | None = None
    standby_sends: bool = True
    """False: connections leave the second tunnel at once; what still comes by it is heard."""

    @property
    def tunnels(self) -> tuple[Tunnel, ...]:
        """The active one first."""
        return tuple(t for t in (self.active, self.standby) if t)

    def by_link(self, link: str) -> Tunnel | None:
        """The tunnel on this link; None: no tunnel should be there."""
        return next((t for t in self.tunnels if t.link == link), None)

    @property
    def split(self) -> Split:
        """Which destinations are the gateway's, and which keep the ordinary path."""
        return split(
            default_route=self.default_route,
            excluded=self.excluded,
            exceptions=self.exceptions,
        )

    @property
    def filter(self) -> str:
        """The table of the hold."""
        kept = self.standby.link if self.standby else None
        return render(self.split, kept=kept, leaves=self.standby_sends)


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelObserved:
    """A tunnel as it is."""

    unmoved: bool = False
    """Its link still lies in the node's namespace: it is configured whole then, whatever ``device``
    says."""
    link: Link | None = None
    device: Device | None = None
    source: IPAddress | None = None
    """What the node's filter lets through to the tunnel's listen port."""
    sysctls: tuple[tuple[str, str | None], ...] = ()
    """Those of ``link_sysctls``, once the link is there."""

    @property
    def is_new(self) -> bool:
        """Not up yet: its routes are to be added whatever was seen of them."""
        return self.device is None or self.link is None or not self.link.up


_NOTHING: Final = TunnelObserved()


@dataclass(frozen=True, slots=True, kw_only=True)
class PodObserved:
    """What exists. ``filter`` is the text that the table is known to equal ("" if the table is
    unknown, None if there is none)."""

    filter: str | None = None
    origins: Origins = NO_ORIGINS
    """Of connections older than the table; nothing if this version's table is there."""
    guarded: bool = True
    """Whether the node's end of the link is held as far as it can be (see ``linkguard``)."""
    sysctls: tuple[tuple[str, str | None], ...] = ()
    tunnels: Mapping[str, TunnelObserved] = field(default_factory=dict)
    """By link."""
    routes: frozenset[Route] = frozenset()
    rules: frozenset[RoutingRule] = frozenset()
    others: frozenset[IPNetwork] = frozenset()
    """Destinations of ``others_routes``."""
    exempt: frozenset[IPNetwork] = frozenset()
    """Destinations of ``exempt_routes``."""
    ipv6: bool = True
    """Whether the pod has IPv6."""

    def tunnel(self, link: str) -> TunnelObserved:
        """What is known of the tunnel on this link; of a link that is not there, nothing."""
        return self.tunnels.get(link, _NOTHING)


def tunnel_name(container_id: str, interface: str = "eth0", link: str = LINKS[0]) -> str:
    """A birth name of at most 15 characters for a pod's tunnel, stable per sandbox."""
    which = "" if link == LINKS[0] else f"/{link}"
    digest = hashlib.sha256(f"{container_id}/{interface}{which}".encode()).hexdigest()
    return f"egw{digest[:12]}"
