"""Exchanging a configuration's addresses under traffic: which gateways step back, and when. Pure.

While Azure gives an ipConfig another public address (or takes it away), packets could leave with
an address of nobody's choice. So no ipConfig is changed under a gateway that serves:

1. what can be refused is tried first (the new prefix in the scale set's model, the public addresses
   of a pool of machines), with every gateway still in service;
2. half of the gateways are left out of the status; when their agents have let go, they are written;
3. as soon as one of them has its new address, the status lists those alone, and the other half
   follows. The gateways in the status are always of one prefix.

A pool of one gateway serves nobody for the moment of the exchange: no gateway, no egress.
"""

from __future__ import annotations

from dataclasses import dataclass

from egress_gateway.cloud.protocol import Instance, PoolState
from egress_gateway.controller.wanted import Wanted


@dataclass(frozen=True, slots=True)
class Exchange:
    """``stale`` carry the configuration with another prefix or mode. ``serving`` are those that
    may be listed until the first new address is there, ``held`` the ids of those that may not be
    written yet."""

    stale: tuple[Instance, ...]
    serving: tuple[Instance, ...]
    held: frozenset[str]
    prepared: bool


def alive(state: PoolState) -> list[Instance]:
    """The machines that a configuration can count on."""
    return [i for i in state.instances if i.state != "Deleting" and i.provider_id]


def exchange(wanted: Wanted, state: PoolState, prefix: str | None) -> Exchange | None:
    """None when no machine carries ``wanted`` otherwise than with ``prefix`` (an id in lower
    case; None: private mode)."""
    name = wanted.names.ip_config
    there = alive(state)
    stale = [i for i in there if i.attachment.configs.get(name, prefix) != prefix]
    if not stale:
        return None
    stale.sort(key=lambda i: i.id)
    prepared = _prepared(wanted, state, prefix, stale)
    serving = stale
    if prepared and len(stale) == len(there):
        serving = stale[(len(stale) + 1) // 2 :]
    busy = {i.id for i in stale if not prepared or i.provider_id.lower() in wanted.in_use}
    return Exchange(tuple(stale), tuple(serving), frozenset(busy), prepared)


def _prepared(wanted: Wanted, state: PoolState, prefix: str | None, stale: list[Instance]) -> bool:
    """Whether what Azure may refuse has been written already."""
    name = wanted.names.ip_config
    if state.ref.kind == "scale-set":
        return state.ref.rolling or state.model.configs.get(name, "") == prefix
    if prefix is None:
        return True
    made = {(p.instance, p.config) for p in state.publics if p.prefix == prefix}
    return all((i.id, name) in made for i in stale)
