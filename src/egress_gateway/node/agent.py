"""The node agent: its parts, put together.

``Lifecycle`` attaches, moves and detaches pods, ``Reactor`` turns events into work for it, and
``Upkeep`` looks at every pod regularly.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from egress_gateway.datapath.addresses import IPNetwork
from egress_gateway.kube.workqueue.queue import run_workers
from egress_gateway.node import metrics
from egress_gateway.node.attachment.store import AttachmentStore
from egress_gateway.node.cluster.knowledge import Knowledge
from egress_gateway.node.cni.libcni import Results
from egress_gateway.node.cni.records import Records
from egress_gateway.node.lifecycle import FULL_PASS_AFTER, Lifecycle, Liveness
from egress_gateway.node.liveness.health import GatewayHealth, State
from egress_gateway.node.liveness.pace import Pacer
from egress_gateway.node.liveness.paths import Paths
from egress_gateway.node.liveness.probe import Prober
from egress_gateway.node.liveness.proof import Prover
from egress_gateway.node.liveness.schedule import Hearing
from egress_gateway.node.liveness.trials import Trials
from egress_gateway.node.liveness.verify import Joiner, Verifier
from egress_gateway.node.metrics import PodFigures
from egress_gateway.node.parts import Parts, Queues, Sandboxes
from egress_gateway.node.reactor import Reactor
from egress_gateway.node.reporting.endpoints import Endpoints
from egress_gateway.node.reporting.tell import Teller
from egress_gateway.node.reports import Reports
from egress_gateway.node.sandboxes.damage import DamageWatch
from egress_gateway.node.sandboxes.sandbox import NodeKernel, Sandbox
from egress_gateway.node.sandboxes.spares import Spares
from egress_gateway.node.settings import Settings
from egress_gateway.node.upkeep import Upkeep
from egress_gateway.service.figures import Snapshot

log = logging.getLogger(__name__)

_WORKERS: Final = 16
_ALIVE_AFTER: Final = 900.0
"""Seconds of a step after which it hangs, in a kernel call or for a lock. One that waits for
another of its pod takes five minutes where the API server needs all its time for each request, and
no shortage there may start all agents again."""
_PASSES_AFTER_MOVES: Final = 2
"""At a time: they have time."""


class NodeAgent:
    """Attaches a node's annotated pods, keeps them attached, and moves them between gateways."""

    def __init__(
        self,
        *,
        settings: Settings,
        kernel: NodeKernel,
        knowledge: Knowledge,
        endpoints: Endpoints,
        prober: Prober,
        teller: Teller,
    ) -> None:
        queues, sandboxes = Queues(), Sandboxes()
        self._kernel = kernel
        self._parts = parts = Parts(
            settings=settings,
            kernel=kernel,
            knowledge=knowledge,
            endpoints=endpoints,
            teller=teller,
            records=Records(
                kernel,
                knowledge,
                Results(Path(settings.cni_cache_dir)),
                on_found=queues.moves.add,
                on_missing=teller.unreachable,
            ),
            sandboxes=sandboxes,
            queues=queues,
        )
        hearing, pacer = Hearing(), Pacer(settings.move_rate)
        self._paths = Paths(lambda: list(sandboxes), misses=settings.path_misses)
        reactor = Reactor(parts, hearing, prober, self._paths)
        verifier = Verifier(pacer, on_verified=reactor.on_verified, on_silence=reactor.on_silence)
        joiner = Joiner(pacer, on_joined=reactor.on_joined, on_silence=reactor.on_join_silence)
        prover = Prover(
            self._paths,
            verifier,
            heard=hearing.since,
            on_lost=reactor.on_path_lost,
            on_forgotten=reactor.on_forgotten,
        )
        self._paths.on_suspect = prover.suspect
        self._spares = Spares(kernel, settings.spare_tunnels, wanted=lambda: bool(len(sandboxes)))
        self._prober = prober
        self._upkeep = Upkeep(parts)
        self._trials = Trials(kernel, lambda: sandboxes)
        self.reports = Reports(parts, prober.states, self._trials.verdicts)
        self._damage = DamageWatch(queues.moves.add)
        liveness = Liveness(
            prober=prober,
            paths=self._paths,
            hearing=hearing,
            pacer=pacer,
            verifier=verifier,
            joiner=joiner,
        )
        self.lifecycle = Lifecycle(parts, liveness, self._spares)
        reactor.subscribe()

    async def run(self) -> None:
        """Works until cancelled. ``lifecycle.adopt_pods`` goes before."""
        queues, lifecycle = self._parts.queues, self.lifecycle
        lifecycle.watch_gateways()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(run_workers(queues.routine, self._look, _WORKERS))
                group.create_task(run_workers(queues.moves, lifecycle.converge_pod, _WORKERS))
                after_moves = queues.after_moves
                group.create_task(run_workers(after_moves, self._look_again, _PASSES_AFTER_MOVES))
                group.create_task(run_workers(queues.endpoints, lifecycle.publish_pod, _WORKERS))
                look_for = self._parts.records.look_for
                group.create_task(run_workers(queues.unrecorded, look_for, 1))
                group.create_task(self._spares.run())
                group.create_task(self._paths.run())
                group.create_task(self._trials.run())
                group.create_task(self._upkeep.run())
                group.create_task(self.reports.run())
                group.create_task(self._damage.run(lambda: self._parts.sandboxes))
        finally:
            for sandbox in self._parts.sandboxes:
                for task in (sandbox.verifier, sandbox.joiner):
                    if task:
                        task.cancel()

    async def _look(self, sandbox_id: str) -> float | None:
        """A pass that no connections wait for: it runs after passes that connections wait for."""
        return await self._converge_unless(bool(self._parts.queues.moves), sandbox_id)

    async def _look_again(self, sandbox_id: str) -> float | None:
        now = asyncio.get_running_loop().time()
        return await self._converge_unless(
            self._parts.queues.waits_for_moves(sandbox_id, now), sandbox_id
        )

    async def _converge_unless(self, later: bool, sandbox_id: str) -> float | None:
        if later:
            return FULL_PASS_AFTER
        await self.lifecycle.converge_pod(sandbox_id)
        return None

    def spare_from_gateways(self, networks: tuple[IPNetwork, ...]) -> None:
        """From now on these keep the cluster's ordinary path, of every pod."""
        self._kernel.facts = replace(self._kernel.facts, exceptions=networks)
        for sandbox in self._parts.sandboxes:
            self._parts.queues.routine.add(sandbox.attachment.id)

    def snapshot(self) -> Snapshot:
        """What a scrape tells of pods and gateways."""
        return metrics.snapshot(self._pods, self._gateways, self._reached, self._upkeep.held)

    def _pods(self) -> list[PodFigures]:
        return [
            PodFigures(
                namespace=sandbox.attachment.namespace,
                configuration=sandbox.attachment.configuration.name,
                gateway=shown.gateway,
                state=shown.state,
            )
            for sandbox in self._parts.sandboxes
            if (shown := self.reports.standing(sandbox.attachment.id)) is not None
        ]

    def _gateways(self) -> dict[str, GatewayHealth]:
        """By their nodes' names, which configurations tell."""
        attached = (s.attachment.configuration for s in self._parts.sandboxes)
        names = {g.address: g.name for configuration in attached for g in configuration.gateways}
        return {names.get(a, a): health for a, health in self._prober.gateways().items()}

    def _reached(self) -> dict[str, bool]:
        """By gateway, of all configurations of the node's pods together, where it is known."""
        found: dict[str, bool] = {}
        served = {s.attachment.configuration.uid: s.attachment for s in self._parts.sandboxes}
        for attachment in served.values():
            for name, verdict in self._trials.verdicts(attachment.configuration).items():
                if verdict:
                    found[name] = found.get(name, True) and verdict == "reached"
        return found

    @property
    def sandboxes(self) -> list[Sandbox]:
        """A copy: pods come and go meanwhile."""
        return list(self._parts.sandboxes)

    @property
    def store(self) -> AttachmentStore:
        """Where attachments are kept over a restart."""
        return self._kernel.store

    @property
    def failing(self) -> bool:
        """Whether some pod's step has failed and is to be tried again."""
        return self._parts.queues.failing()

    @property
    def stalled(self) -> str | None:
        """Why the agent should be started again; None while the steps of its pods end. A step
        waits for the attaching of its pod."""
        return self._parts.queues.stalled(_ALIVE_AFTER + self._parts.settings.attach_timeout)

    @property
    def trials(self) -> Trials:
        """The checks of paths that no pod uses."""
        return self._trials

    @property
    def paths(self) -> Paths:
        """What is known of every pod's paths."""
        return self._paths

    @property
    def probed(self) -> dict[str, State]:
        """What the prober found, by the gateway's address."""
        return self._prober.states()
