"""What attaching (``lifecycle``), events (``reactor``) and routine work (``upkeep``) share."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

from egress_gateway.cni.protocol import Call
from egress_gateway.kube.resources import Key
from egress_gateway.kube.workqueue.queue import WorkQueue
from egress_gateway.node.cluster.knowledge import Knowledge
from egress_gateway.node.cni.records import Records
from egress_gateway.node.reporting.endpoints import Endpoints
from egress_gateway.node.reporting.tell import Teller
from egress_gateway.node.sandboxes.sandbox import NodeKernel, Sandbox
from egress_gateway.node.settings import Settings

_PUT_OFF: Final = 10.0
"""Seconds for which a pass after a move lets other moves go first."""


class Sandboxes:
    """The node's attached sandboxes by their ids, and a lock for each id that is worked on."""

    def __init__(self) -> None:
        self._by_id: dict[str, Sandbox] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def __iter__(self) -> Iterator[Sandbox]:
        """Iterates over a copy, so that pods may be attached and detached meanwhile."""
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, sandbox_id: str) -> Sandbox | None:
        """None: no pod with this id is attached."""
        return self._by_id.get(sandbox_id)

    def add(self, sandbox: Sandbox) -> None:
        """Replaces the one with the same id."""
        self._by_id[sandbox.attachment.id] = sandbox

    def remove(self, sandbox: Sandbox) -> None:
        """Raises ``KeyError`` if it is not there."""
        del self._by_id[sandbox.attachment.id]

    def ids(self) -> set[str]:
        """A copy: pods come and go meanwhile."""
        return set(self._by_id)

    def uids(self) -> set[str]:
        """Of their pods."""
        return {sandbox.attachment.uid for sandbox in self}

    def of_pod(self, key: Key) -> list[Sandbox]:
        """More than one if the runtime made another after the first failed to start."""
        return [s for s in self if (s.attachment.namespace, s.attachment.pod) == key]

    def of_call(self, call: Call) -> Sandbox | None:
        """What the call's pod is attached by: hold and routes are those of its whole namespace,
        so however many interfaces a pod has, one of them has the tunnel.
        NB: nothing may be awaited between this and the ``add`` of a new one."""
        return self.get(call.id) or next(
            (s for s in self if s.attachment.container_id == call.container_id), None
        )

    def lock(self, sandbox_id: str) -> asyncio.Lock:
        """Whoever changes a sandbox, or makes one of this id, holds it."""
        return self._locks.setdefault(sandbox_id, asyncio.Lock())

    def forget_locks(self, known: Collection[str]) -> None:
        """Drops the locks of ids that are not ``known`` and that nobody holds."""
        for sandbox_id in [i for i, lock in self._locks.items() if not lock.locked()]:
            if sandbox_id not in known:
                del self._locks[sandbox_id]


@dataclass(frozen=True, slots=True)
class Queues:
    """Ids of sandboxes that are to be looked at, by how soon; and pods without a record."""

    routine: WorkQueue[str] = field(
        default_factory=lambda: WorkQueue("pass over sandbox", backoff_limit=10.0)
    )
    """Nobody's connections wait for it."""
    moves: WorkQueue[str] = field(
        default_factory=lambda: WorkQueue("move of sandbox", backoff_limit=2.0)
    )
    """Somebody's do."""
    unrecorded: WorkQueue[str] = field(
        default_factory=lambda: WorkQueue("pod without a record", backoff_limit=10.0)
    )
    """``namespace/name`` of pods that ask for a gateway and that no record exists of."""
    after_moves: WorkQueue[str] = field(
        default_factory=lambda: WorkQueue("pass after move of sandbox", backoff_limit=10.0)
    )
    """A whole pass is to follow what a move did in haste."""
    endpoints: WorkQueue[str] = field(
        default_factory=lambda: WorkQueue("endpoint of sandbox", backoff_limit=10.0)
    )
    """Gateways are to hear of it. An API server that does not answer keeps no pass waiting."""

    _first_put_off: dict[str, float] = field(default_factory=dict)

    def waits_for_moves(self, sandbox_id: str, now: float) -> bool:
        """Whether the pass after the sandbox's move should come later still. Others' moves go
        first, or the last of hundreds of pods that lose their gateway would wait for passes over
        the first ones. Not for ever: a move may wait for an API server. ``now``: seconds of any one
        clock."""
        since = self._first_put_off.setdefault(sandbox_id, now)
        if self.moves.busy and now - since < _PUT_OFF:
            return True
        del self._first_put_off[sandbox_id]
        return False

    def failing(self) -> bool:
        """Whether the step of some sandbox has failed and is to be tried again."""
        steps = (self.routine, self.moves, self.after_moves, self.endpoints)
        return any(queue.failing for queue in steps)

    def stalled(self, limit: float) -> str | None:
        """The step of some sandbox that has run for more than ``limit`` seconds; None: no step."""
        every = (self.moves, self.routine, self.after_moves, self.endpoints, self.unrecorded)
        return next(filter(None, (queue.stalled(limit) for queue in every)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Each is made once for a node's agent."""

    settings: Settings
    kernel: NodeKernel
    knowledge: Knowledge
    endpoints: Endpoints
    teller: Teller
    records: Records
    sandboxes: Sandboxes
    queues: Queues


class UsesParts:
    """What works on an agent's parts, and knows each by its name."""

    def __init__(self, parts: Parts) -> None:
        self._settings = parts.settings
        self._kernel = parts.kernel
        self._store = parts.kernel.store
        self._knowledge = parts.knowledge
        self._endpoints = parts.endpoints
        self._teller = parts.teller
        self._records = parts.records
        self._sandboxes = parts.sandboxes
        self._queues = parts.queues
