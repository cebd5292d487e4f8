"""Exchanging a configuration's addresses under traffic: which gateways step back, and when. Pure.

While Azure gives an ipConfig another public address (or takes it away), packets could leave with
an address that nobody chose. So no ipConfig is changed under a gateway that serves:

1. writes that Azure may refuse come first (the new prefix in the pool's model, the public addresses
   of a pool of machines), with every gateway still in service;
2. half of the gateways, those that can be written now, are to be left out of the status; when
   their pods have left (``observed.departures``) and their agents have let go, they are written;
   (no need to, where another machine is about to get the new address beside them);
3. as soon as one of them has its new address, the status lists those alone, and the other half
   follows in the same way. But for those that pods are leaving, the gateways in the status are
   always of one prefix.

A pool of one gateway serves no pod during the exchange: no gateway, no egress. Azure
would let a second ipConfig stand beside the first; but an agent does not say which of a machine's
addresses it sends from, so nobody could tell when the first may go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from egress_gateway.cloud.protocol import Instance, PoolState
from egress_gateway.controller.planning.spared import LEFT_ALONE
from egress_gateway.controller.planning.wanted import Wanted


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


def exchange(
    wanted: Wanted, state: PoolState, configs: Mapping[str, str | None]
) -> Exchange | None:
    """None when no machine carries ``wanted`` otherwise than with ``configs``: ipConfigs and the
    prefixes of their public addresses (ids in lower case; None: private mode)."""
    there = alive(state)
    stale = [i for i in there if _differs(i.interface.configs, configs)]
    if not stale:
        return None
    stale.sort(key=lambda i: (i.state in LEFT_ALONE, i.id))
    prepared = _prepared(state, configs, stale)
    serving = stale
    hopeful = any(i.state not in LEFT_ALONE for i in there if i not in stale)
    if prepared and not hopeful:
        writable = sum(i.state not in LEFT_ALONE for i in stale)
        serving = stale[min((len(stale) + 1) // 2, writable) :]
    busy = {i.id for i in stale if not prepared or wanted.used_by(i)}
    return Exchange(tuple(stale), tuple(serving), frozenset(busy), prepared)


def _differs(found: Mapping[str, str | None], configs: Mapping[str, str | None]) -> bool:
    """Whether one that is there has another prefix; one that is missing disturbs nobody."""
    return any(found.get(name, prefix) != prefix for name, prefix in configs.items())


def _prepared(state: PoolState, configs: Mapping[str, str | None], stale: list[Instance]) -> bool:
    """Whether what Azure may refuse has been written already."""
    if state.ref.kind == "template":
        written = state.model.configs
        return state.ref.rolling or all(written.get(n, "") == p for n, p in configs.items())
    made = {(p.instance, p.config, p.prefix) for p in state.publics if p.ready}
    return all((i.id, n, p) in made for i in stale for n, p in configs.items() if p is not None)
