"""Which controllers there are, and their common life."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from egress_gateway_lab.apiserver.controllers.daemonsets import DaemonSets
from egress_gateway_lab.apiserver.controllers.events import EventExpiry
from egress_gateway_lab.apiserver.controllers.garbage import GarbageCollector
from egress_gateway_lab.apiserver.controllers.loop import Controller, Loop
from egress_gateway_lab.apiserver.controllers.namespaces import (
    DefinitionEnd,
    NamespaceContents,
    NamespaceEnd,
)
from egress_gateway_lab.apiserver.controllers.nodes import (
    NodeLifecycle,
    PodCollector,
    TaintEviction,
)
from egress_gateway_lab.apiserver.controllers.pods import PodIndex
from egress_gateway_lab.apiserver.controllers.scheduler import Scheduler
from egress_gateway_lab.apiserver.controllers.workloads import Deployments, ReplicaSets
from egress_gateway_lab.apiserver.storage.store import Event

if TYPE_CHECKING:
    from egress_gateway_lab.apiserver.api import Api


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times in seconds. ``node_grace``: after how much silence a node is Unknown (a real cluster:
    40 s; kubelets here send a heartbeat a second)."""

    node_grace: float = 6.0


class Controllers:
    def __init__(self, api: Api, timing: Timing) -> None:
        self._api = api
        self._loop = Loop()
        loop = self._loop
        pods = PodIndex(api)
        self._all: list[Controller] = [
            NamespaceContents(api, loop),
            NamespaceEnd(api, loop),
            DefinitionEnd(api, loop),
            GarbageCollector(api, loop),
            Deployments(api, loop),
            ReplicaSets(api, loop, pods),
            DaemonSets(api, loop, pods),
            Scheduler(api, loop, pods),
            NodeLifecycle(api, loop, pods, timing.node_grace),
            TaintEviction(api, loop, pods),
            PodCollector(api, loop, pods),
            EventExpiry(api, loop),
        ]

    async def start(self) -> None:
        self._api.store.listen(self._touched)
        for controller in self._all:
            controller.start()
        self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    def _touched(self, event: Event) -> None:
        for controller in self._all:
            controller.touched(event)
