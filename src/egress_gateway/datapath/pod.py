"""The pod's side of the data path: the hold, the tunnel, routes and marks.

Guarantee: once ``apply`` of a plan has returned (even half-way, after its first action) nothing
that belongs to the gateway leaves the pod by another link. The hold comes first and does not
depend on any link; the tunnel may come, go and move behind it.

How to use it, level-triggered, from a worker thread::

    side = PodSide(netns_path, backend=backend, sources=sources)
    observed = side.observe(desired)
    for action in plan(desired, observed): side.apply(action)     # or side.converge(desired)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from egress_gateway.datapath.wireguard import Backend, Device, Endpoint, IPAddress, IPNetwork

TUNNEL_LINK: Final = "wg0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """The pod's tunnel to one gateway.

    ``name`` is unique on the node (see ``tunnel_name``). Every move changes ``endpoint`` *and*
    ``listen_port``, so that the gateway left behind cannot take the pod back.
    """

    name: str
    private_key: str = field(repr=False)
    peer_key: str
    endpoint: Endpoint
    listen_port: int
    mtu: int
    keepalive: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PodDesired:
    """What an attached pod's namespace should look like.

    With ``default_route`` everything but ``excluded`` and ``exceptions`` belongs to the gateway;
    without it only ``excluded`` does (the ``azureNetworking`` swap), and exceptions never do.
    ``tunnel`` None: all of that is held back. ``tunnel_ipv6`` False: IPv6 of the gateway's is
    held back even with a tunnel.
    """

    netns: Path
    addresses: tuple[IPAddress, ...]
    interface: str = "eth0"
    link: str = TUNNEL_LINK
    default_route: bool = True
    excluded: tuple[IPNetwork, ...] = ()
    exceptions: tuple[IPNetwork, ...] = ()
    tunnel: Tunnel | None = None
    tunnel_ipv6: bool = False


class SourceFilter:
    """On the node: outer UDP to a pod's listen port is taken from its gateway only."""

    def __init__(self) -> None: ...

    def allow(self, port: int, source: IPAddress) -> None:
        raise NotImplementedError

    def forget(self, port: int) -> None:
        raise NotImplementedError

    def sync(self, wanted: dict[int, IPAddress]) -> None:
        """Exactly these; used after a restart."""
        raise NotImplementedError


def tunnel_name(container_id: str, interface: str = "eth0") -> str:
    """A birth name of at most 15 characters for a pod's tunnel, stable per sandbox."""
    raise NotImplementedError


class PodSide:
    """One pod's namespace, observed and changed. Methods block; one caller at a time."""

    def __init__(self, netns: Path, *, backend: Backend, sources: SourceFilter) -> None: ...

    def converge(self, desired: PodDesired) -> list[str]:
        """Observe, plan, apply; returns what was done (empty: nothing was amiss)."""
        raise NotImplementedError

    def status(self, desired: PodDesired) -> Device | None:
        """The tunnel as it is now: handshake, counters. None if it is gone."""
        raise NotImplementedError

    def handshake_again(self, desired: PodDesired) -> None:
        """Removes and re-adds the peer in one call, unchanged: a new handshake at once."""
        raise NotImplementedError

    def detach(self, desired_or_name: PodDesired | str) -> None:
        """Takes everything away, the hold last. Works (and frees the node's half) when the
        namespace is gone."""
        raise NotImplementedError

    def held(self) -> int:
        """Packets held back since the hold was put in place; 0 if there is none."""
        raise NotImplementedError
