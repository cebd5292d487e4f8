"""Which gateway serves a pod. Pure.

Any gateway of a configuration can serve any of its pods. A pod stays where it is while its gateway
lives, so that its public address stays. Otherwise rendezvous hashing by pod UID decides, so that
nodes and restarted agents agree without talking and the loss of one gateway spreads evenly.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec

FLAPS: Final = 1e12
"""The doubt of a gateway that was lost again and again, besides the seconds of its last loss."""


class GatewayNode(msgspec.Struct, frozen=True, tag="gateway"):
    """A gateway node: its name, the address at which its WireGuard sockets answer, whether it
    carries IPv6, and whether its pods are to leave it before it stops serving."""

    name: str
    address: str
    ipv6: bool = False
    leaving: bool = False


class BalancerAddress(msgspec.Struct, frozen=True, tag="balancer"):
    """The load balancer's address, which reaches some gateway."""

    address: str


Destination = GatewayNode | BalancerAddress
"""Where a tunnel can lead."""


def same_place(one: Destination, other: Destination) -> bool:
    """Whether both are the same gateway node, or both the load balancer."""
    if isinstance(one, GatewayNode) and isinstance(other, GatewayNode):
        return one.name == other.name
    return isinstance(one, BalancerAddress) and isinstance(other, BalancerAddress)


def rendezvous(uid: str, candidates: Sequence[GatewayNode]) -> GatewayNode:
    """The highest of ``candidates`` in the pod's own random order. Order of the input and
    presence of the others do not matter (highest random weight, Thaler and Ravishankar 1998)."""
    return max(candidates, key=lambda c: (_weight(uid, c.name), c.name))


def choose(
    uid: str,
    current: Destination | None,
    candidates: Sequence[GatewayNode],
    *,
    balancer: BalancerAddress | None,
    doubt: Callable[[str], float],
    avoid: Collection[str] = (),
    vetoed: Collection[str] = (),
) -> Destination | None:
    """Where the pod's tunnel should end.

    ``current`` is what was chosen before. ``doubt`` is what checks say of an address: 0, nothing
    speaks against it; infinity, it is silent; else when it was last lost, though it answers again.
    ``avoid`` holds addresses that answer probes but did not answer this pod's handshake. ``vetoed``
    names the gateways whose own agent asks to be left; a veto counts only while another gateway
    will do.
    Without a gateway beyond doubt it is the one that was lost longest ago: a load balancer sends to
    the dead for ten seconds. If none answers, or those that do flap, it is the load balancer's
    address, and failing that any gateway there is: a check never evicts the last one. None only if
    there is nothing at all.
    """
    answering = [c for c in candidates if doubt(c.address) < math.inf]
    heard = [c for c in answering if c.address not in avoid and doubt(c.address) < FLAPS]
    if not heard and (balancer is None or balancer.address in avoid):
        heard = answering
    sure = [c for c in heard if not doubt(c.address)]
    willing = [c for c in sure if c.name not in vetoed] or sure
    stay = [c for c in willing if current is not None and same_place(c, current)]
    if stay:
        return stay[0]
    if willing:
        return rendezvous(uid, willing)
    if heard:
        return min(heard, key=lambda c: (doubt(c.address), c.name))
    if balancer is not None:
        return balancer
    listed = [c for c in candidates if current is not None and same_place(c, current)]
    return listed[0] if listed else (rendezvous(uid, candidates) if candidates else None)


def _weight(uid: str, name: str) -> bytes:
    return hashlib.blake2b(f"{uid}\0{name}".encode(), digest_size=8).digest()
