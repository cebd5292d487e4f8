"""Machines that stay as they are, because what they carry cannot be written again.

Azure checks every reference of a write, unchanged ones too: when a role is taken away from a
prefix in use, each write that carries its addresses is refused (``LinkedAuthorizationFailed``).
Other configurations must not wait for that, and the owner must not lose working addresses. So the
owner keeps half of the machines that it has, and the others are written for everybody else. A pool
of one machine cannot be shared; there the owner gives way.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from egress_gateway.cloud.protocol import Instance, PoolState
from egress_gateway.controller.planning.wanted import BUSY, Wanted

SPARED: Final = "left alone: Azure would refuse to write one of its configurations again"
"""Shown in place of the provisioning state."""
LEFT_ALONE: Final = BUSY | {SPARED}
"""States of a machine that is not written now."""


def has(instance: Instance, name: str) -> bool:
    """Whether a machine has all addresses of the ipConfig ``name`` that its document asks for."""
    address = instance.addresses.get(name)
    if address is None or name not in instance.interface.configs:
        return False
    public = instance.interface.configs[name] is not None
    return address.secondary is not None and (address.public is not None or not public)


def spared(state: PoolState, everyone: Collection[Wanted]) -> PoolState:
    """``state`` in which half of the machines that serve who ``gives_way`` are left alone."""
    lasting = {w.names.ip_config for w in everyone if w.gives_way and not w.leaving}

    def held(instance: Instance) -> int:
        return sum(name in lasting and has(instance, name) for name in instance.addresses)

    serving = [i for i in state.instances if i.provider_id and held(i)]
    room = sum(1 for i in state.instances if i.provider_id) // 2
    keep = {i.id for i in sorted(serving, key=lambda i: (-held(i), i.id))[:room]}
    if not keep:
        return state
    return replace(
        state,
        instances=tuple(
            replace(i, state=SPARED) if i.id in keep and i.state not in BUSY else i
            for i in state.instances
        ),
    )
