"""Which gateway serves a pod. Pure.

Any gateway of a configuration can serve any of its pods. A pod stays where it is while its gateway
lives, so that its public address stays; otherwise rendezvous hashing by pod UID decides, so that
nodes and restarted agents agree without talking and the loss of one gateway spreads evenly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

BALANCER: Final = ""
"""In place of a gateway's name: the load balancer's address, which reaches some gateway."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A gateway node, the address at which its WireGuard sockets answer, and whether it carries
    IPv6."""

    name: str
    address: str
    ipv6: bool = False


def rendezvous(uid: str, candidates: Sequence[Candidate]) -> Candidate:
    """The highest of ``candidates`` in the pod's own random order. Order of the input and
    presence of the others do not matter (highest random weight, Thaler and Ravishankar 1998)."""
    return max(candidates, key=lambda c: (_weight(uid, c.name), c.name))


def choose(
    uid: str,
    current: str | None,
    candidates: Sequence[Candidate],
    *,
    balancer: str,
    usable: Callable[[Candidate], bool],
    avoid: Collection[str] = (),
    vetoed: Collection[str] = (),
) -> Candidate | None:
    """Where the pod's tunnel should end.

    ``current`` is the name chosen before (None: never chosen), ``usable`` what probes say,
    ``avoid`` names gateways that answer probes but did not answer this pod's handshake, ``vetoed``
    those whose own agent asks to be left; a veto counts only while another gateway will do.
    Without a usable gateway it is the load balancer's address, and failing that any gateway there
    is: a check never evicts the last one. None only if there is nothing at all.
    """
    alive = [c for c in candidates if usable(c)]
    answering = [c for c in alive if c.name not in avoid]
    willing = [c for c in answering if c.name not in vetoed] or answering
    willing = willing or (alive if BALANCER in avoid else [])
    for candidate in willing:
        if candidate.name == current:
            return candidate
    if willing:
        return rendezvous(uid, willing)
    if balancer:
        return Candidate(BALANCER, balancer)
    return next(
        (c for c in candidates if c.name == current),
        rendezvous(uid, candidates) if candidates else None,
    )


def _weight(uid: str, name: str) -> bytes:
    return hashlib.blake2b(f"{uid}\0{name}".encode(), digest_size=8).digest()
