"""Attaches, re-attaches, moves and detaches the pods of one node.

Everything is one level-triggered step, ``_settle``: what should this sandbox look like now, and
make it so. CNI ADD runs it and waits for the handshake; changes of configurations and pods,
gateways that are lost, and a timer run it too. So an ADD that was interrupted, a kernel state that
somebody damaged and an agent that was killed all end in the same state.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Final

from egress_gateway.api import keys
from egress_gateway.api.types import GatewayStatus, StaticGatewayConfiguration
from egress_gateway.cni.protocol import Call
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.pod.ruleset import LINKS
from egress_gateway.kube.errors import ApiError
from egress_gateway.kube.resources import Key, Pod
from egress_gateway.kube.workqueue.queue import WorkQueue, run_workers
from egress_gateway.node import metrics
from egress_gateway.node.attachment.choose import Balancer, same_place
from egress_gateway.node.attachment.model import Attachment, NotUsable, PodConfiguration, want
from egress_gateway.node.attachment.moves import joined, retarget
from egress_gateway.node.cni.libcni import Results
from egress_gateway.node.cni.records import Records
from egress_gateway.node.damage import DamageWatch
from egress_gateway.node.endpoints import Endpoints
from egress_gateway.node.knowledge import Knowledge, annotation
from egress_gateway.node.liveness.health import State
from egress_gateway.node.liveness.pace import Pacer
from egress_gateway.node.liveness.paths import Paths, TunnelPath, path_of
from egress_gateway.node.liveness.probe import Prober
from egress_gateway.node.liveness.proof import Prover
from egress_gateway.node.liveness.schedule import Hearing
from egress_gateway.node.liveness.verify import Joiner, Verifier
from egress_gateway.node.sandbox import Kernel, Sandbox
from egress_gateway.node.settings import Settings
from egress_gateway.node.spares import Spares
from egress_gateway.node.tell import Teller

log = logging.getLogger(__name__)

_WORKERS: Final = 16
_AVOID_SECONDS: Final = 30.0
_ASK_AGAIN_SECONDS: Final = 5.0
_WITHDRAW_SECONDS: Final = 1.0
_LATER: Final = 0.05
_FULL_PASS_AFTER: Final = 1.0
"""Seconds until a whole pass follows a tunnel's start or move: others may be waiting for theirs."""
_HOLD_SECONDS: Final = 3.0
"""For putting the hold in place after the wait; less than the plugin waits longer than we do."""
_LOOK_SECONDS: Final = 0.1
"""Between two routine looks at pods: a look takes milliseconds, and hundreds of idle pods must not
keep a processor busy."""


class Refused(Exception):
    """CNI ADD cannot succeed now; the text is for the pod's owner."""


class Agent:
    def __init__(
        self,
        *,
        settings: Settings,
        kernel: Kernel,
        knowledge: Knowledge,
        endpoints: Endpoints,
        prober: Prober,
        teller: Teller,
    ) -> None:
        self._settings = settings
        self._kernel = kernel
        self._store = kernel.store
        self._knowledge = knowledge
        self._endpoints = endpoints
        self._prober = prober
        self._teller = teller
        self._records = Records(
            kernel,
            knowledge,
            Results(Path(settings.cni_cache_dir)),
            on_found=lambda sandbox_id: self._moves.add(sandbox_id),
            on_missing=teller.unreachable,
        )
        self._spares = Spares(kernel, settings.spare_tunnels, wanted=lambda: bool(self._sandboxes))
        self._pacer = Pacer(settings.move_rate)
        self._hearing = Hearing()
        self._verifier = Verifier(
            self._pacer, on_verified=self._on_verified, on_silence=self._on_silence
        )
        self._joiner = Joiner(
            self._pacer, on_joined=self._on_joined, on_silence=self._on_join_silence
        )
        self._paths = Paths(lambda: self._sandboxes.values(), misses=settings.path_misses)
        prover = Prover(
            self._paths, self._verifier, heard=self._hearing.since, on_lost=self._on_way_lost
        )
        self._paths.on_suspect = prover.suspect
        self._sandboxes: dict[str, Sandbox] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._queue: WorkQueue[str] = WorkQueue("sandbox", backoff_limit=10.0)
        self._moves: WorkQueue[str] = WorkQueue("move of sandbox", backoff_limit=2.0)
        self._late: WorkQueue[str] = WorkQueue("pod without a record", backoff_limit=10.0)
        self._damage = DamageWatch(self._moves.add)
        knowledge.configurations.on_change(self._on_configuration)
        knowledge.pods.on_change(self._on_pod)
        knowledge.statuses.on_change(self._on_status)
        prober.on_change(self._on_gateway)

    # What CNI asks.

    async def add(self, call: Call) -> None:
        """Attaches the call's pod; returns when its tunnel is verified. Raises ``Refused``."""
        name = call.configuration
        if not name:
            return
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(self._settings.attach_timeout):
                sandbox = await self._attach(call, name)
                await sandbox.verified.wait()
        except (TimeoutError, ApiError, DatapathError, NotUsable) as error:
            reason = self._why_not(call, name, error)
            if await self._started_held(call, name):
                self._teller.started_held(call.pod, reason)
                return
            metrics.ATTACH_FAILURES.inc()
            self._teller.not_ready(call.pod, reason)
            raise Refused(reason) from error
        seconds = loop.time() - started
        metrics.ATTACH_SECONDS.observe(seconds)
        self._teller.attached(sandbox.attachment, seconds)

    async def _started_held(self, call: Call, name: str) -> bool:
        """Lets the pod start without a tunnel if its configuration wants that: with the hold in
        place, and work on the tunnel going on."""
        namespace, pod, uid = call.pod
        if not self._knowledge.may_start_held(namespace, name):
            return False
        try:
            async with asyncio.timeout(_HOLD_SECONDS), self._lock(call.id):
                uid = uid or await self._knowledge.uid(namespace, pod)
                configuration, _ = self._knowledge.for_running(None, namespace, name)
                sandbox = self._of_pod(call) or self._new(call, uid, configuration)
                await sandbox.become(sandbox.attachment)
        except (TimeoutError, DatapathError) as error:
            log.warning("pod cannot be held back", extra={"pod": pod, "error": str(error)})
            return False
        self._moves.add(call.id)
        return True

    async def delete(self, call: Call) -> None:
        """Detaches the call's sandbox, if it is attached."""
        async with self._lock(call.id):
            await self._detach(call.id)

    def check(self, call: Call) -> str | None:
        """None if the sandbox is attached and verified, else what is wrong."""
        sandbox = self._sandboxes.get(call.id)
        if sandbox is None:
            return "the sandbox is not attached"
        self._queue.add(call.id)
        return None if sandbox.verified.is_set() else "the tunnel has no handshake yet"

    def collect(self, call: Call) -> None:
        """CNI GC: records of this network whose sandbox the runtime no longer knows."""
        for sandbox_id in self._records.collect(call):
            self._queue.add(sandbox_id)

    # Life.

    def adopt(self) -> None:
        """Takes over what an earlier agent left, moving nobody. Blocks; call it before ``run``."""
        for attachment in self._store.attachments():
            self._sandboxes[attachment.id] = Sandbox(attachment, self._kernel)
        attachments = [sandbox.attachment for sandbox in self._sandboxes.values()]
        self._spares.adopt({name for a in attachments for name in a.names.values()})
        self._kernel.sync_sources(attachments)
        log.info("adopted attachments", extra={"count": len(self._sandboxes)})

    async def run(self) -> None:
        """Works until cancelled."""
        self._watch_gateways()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(run_workers(self._queue, self._look, _WORKERS))
                group.create_task(run_workers(self._moves, self._reconcile, _WORKERS))
                group.create_task(run_workers(self._late, self._records.look_for, 1))
                group.create_task(self._spares.run())
                group.create_task(self._paths.run())
                group.create_task(self._resync())
                group.create_task(self._damage.run(self._sandboxes.values))
        finally:
            for sandbox in self._sandboxes.values():
                for task in (sandbox.verifier, sandbox.joiner):
                    if task:
                        task.cancel()

    @property
    def sandboxes(self) -> list[Sandbox]:
        return list(self._sandboxes.values())

    @property
    def paths(self) -> Paths:
        return self._paths

    @property
    def probed(self) -> dict[str, State]:
        return self._prober.states()

    async def _resync(self) -> None:
        """At once after a start, when anything may have happened; later one pod after another
        over the interval: hundreds at a time would hold up whoever starts a pod meanwhile."""
        loop, interval = asyncio.get_running_loop(), self._settings.resync_interval
        first = True
        while True:
            due = loop.time() + interval
            known = self._store.record_ids() | self._sandboxes.keys()
            pause = 0.0 if first else max(interval / max(len(known), 1), _LOOK_SECONDS)
            for sandbox_id in known:
                self._queue.add(sandbox_id)
                await asyncio.sleep(pause)
            first = False
            await asyncio.sleep(max(due - loop.time(), 0.0))
            try:
                await self._housekeep()
            except (ApiError, DatapathError) as error:
                log.warning("housekeeping failed", extra={"error": str(error)})

    async def _housekeep(self) -> None:
        known = self._store.record_ids() | self._sandboxes.keys()
        for sandbox_id in [i for i, lock in self._locks.items() if not lock.locked()]:
            if sandbox_id not in known:
                del self._locks[sandbox_id]
        await metrics.observe(self.sandboxes)
        await self._find_stalled()
        await self._kernel.run(self._kernel.sources.sync)
        if self._knowledge.pods.is_synced:
            await self._records.find_missing()
            await self._endpoints.sweep({s.attachment.uid for s in self.sandboxes})

    async def _find_stalled(self) -> None:
        loop = asyncio.get_running_loop()
        for sandbox in self.sandboxes:
            if await sandbox.distrust(loop.time()):
                self._teller.stalled(sandbox.attachment)
                self._moves.add(sandbox.attachment.id)

    # One sandbox.

    async def _attach(self, call: Call, name: str) -> Sandbox:
        namespace, pod, uid = call.pod
        uid = uid or await self._knowledge.uid(namespace, pod)
        configuration = await self._knowledge.usable(namespace, name)
        async with self._lock(call.id):
            sandbox = self._of_pod(call) or self._new(call, uid, configuration)
            if sandbox.attachment.id == call.id:
                await self._settle(sandbox, configuration)
        return sandbox

    def _of_pod(self, call: Call) -> Sandbox | None:
        """What the call's pod is attached by: hold and routes are those of its whole namespace,
        so however many interfaces a pod has, one of them has the tunnel.
        NB: nothing may be awaited between this and ``_new``."""
        return self._sandboxes.get(call.id) or next(
            (s for s in self.sandboxes if s.attachment.container_id == call.container_id), None
        )

    async def _look(self, sandbox_id: str) -> float | None:
        """A pass that nobody's connections wait for: after those that somebody's do."""
        if self._moves:
            return _FULL_PASS_AFTER
        await self._reconcile(sandbox_id)
        return None

    async def _reconcile(self, sandbox_id: str) -> None:
        async with self._lock(sandbox_id):
            record = self._records.living(sandbox_id)
            pod = self._knowledge.pod_of(record)
            sandbox = self._sandboxes.get(sandbox_id)
            attached = sandbox.attachment.configuration.name if sandbox else ""
            known = self._knowledge.pods.is_synced
            wanted = want(record, pod, known=known, attached=attached)
            if record is None or not wanted:
                await self._detach(sandbox_id)
                return
            namespace, name, uid = record.pod
            configuration, amiss = self._knowledge.for_running(
                sandbox.attachment if sandbox else None, namespace, wanted
            )
            if amiss:
                self._teller.not_ready(record.pod, f"{amiss}; the pod is held back")
            if sandbox is None:
                uid = uid or await self._knowledge.uid(namespace, name)
                if self._of_pod(record) or not self._records.is_first(record):
                    return
                sandbox = self._new(record, uid, configuration)
            await self._settle(sandbox, configuration)

    async def _settle(self, sandbox: Sandbox, configuration: PodConfiguration) -> None:
        """The step: choose the gateway, remember, converge, publish, see to the handshake."""
        before = sandbox.attachment
        after = await self._target(sandbox, configuration)
        moved = after.moved_since(before)
        joins = after.joining is not None and after.joining != before.joining
        settling, sandbox.settling = sandbox.settling, False
        begun = after.joining if joins else after.active if moved and not after.verified else None
        if begun is not None:
            await self._pacer.turn(before.id, begun.address)
        if moved:
            self._paths.forget(sandbox)
            self._queue.add_after(before.id, _FULL_PASS_AFTER)
        publishing = asyncio.create_task(self._endpoints.publish(after))
        try:
            done = await sandbox.become(after, moves=moved)
        except BaseException:
            publishing.cancel()
            raise
        finally:
            if after.configuration.gateways != before.configuration.gateways:
                self._watch_gateways()
        if after.active is not None and not sandbox.attachment.verified:
            self._verifier.start(sandbox)
        if after.joining is not None:
            self._joiner.start(sandbox)
        await publishing
        self._tell(before, after, done if not settling else [])

    async def _target(self, sandbox: Sandbox, configuration: PodConfiguration) -> Attachment:
        """What the sandbox should look like now."""
        before, now = sandbox.attachment, time.time()
        server = before.active.server if before.active else configuration.server
        after = retarget(
            before,
            configuration,
            usable=lambda address: (
                self._prober.usable(address)
                and (server is None or self._paths.usable(address, server.port))
            ),
            avoid=sandbox.avoided(asyncio.get_running_loop().time()),
            vetoes=self._knowledge.vetoes(before.namespace, configuration.name),
            free_port=self._kernel.free_port,
            now=now,
        )
        if after.joining and after.joining == before.joining and await sandbox.joined():
            grace = self._settings.drain_grace
            after = joined(after, until=now + grace)
            self._moves.add_after(before.id, grace + _LATER)
        return after

    def _tell(self, before: Attachment, after: Attachment, done: list[str]) -> None:
        if after.joining and after.joining != before.joining:
            self._teller.joining(after)
        if before.parting and not after.parting:
            self._teller.parted(before)
        if after.moved_since(before):
            if before.active is not None:
                metrics.MOVES.inc()
                self._teller.moved(before, after)
        elif done and before.verified and before == after:
            self._teller.repaired(after, done)

    async def _detach(self, sandbox_id: str) -> None:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            return
        self._paths.forget(sandbox)
        self._hearing.forget(sandbox_id)
        self._pacer.complete(sandbox_id)
        await sandbox.detach()
        del self._sandboxes[sandbox_id]
        self._watch_gateways()
        if not self._sandboxes:
            # The last one takes the node's own table along.
            await self._kernel.run(self._kernel.sources.sync)
        state = sandbox.attachment
        self._teller.detached(state)
        if any(other.attachment.uid == state.uid for other in self.sandboxes):
            return
        try:
            async with asyncio.timeout(_WITHDRAW_SECONDS):
                await self._endpoints.withdraw(state)
        except (ApiError, TimeoutError) as error:
            # The sweep deletes it later, and so does the end of the Pod.
            log.info("PodEndpoint is left for the sweep", extra={"error": str(error)})

    def _new(self, call: Call, uid: str, configuration: PodConfiguration) -> Sandbox:
        namespace, pod, _ = call.pod
        pair = keys.generate()
        attachment = Attachment(
            id=call.id,
            container_id=call.container_id,
            if_name=call.if_name,
            netns=call.netns,
            namespace=namespace,
            pod=pod,
            uid=uid,
            addresses=[str(address) for address in call.addresses],
            private_key=pair.private,
            public_key=pair.public,
            configuration=configuration,
            names={LINKS[0]: spare} if (spare := self._spares.take()) else {},
        )
        sandbox = self._sandboxes[call.id] = Sandbox(attachment, self._kernel)
        self._watch_gateways()
        return sandbox

    def _why_not(self, call: Call, name: str, error: Exception) -> str:
        if not isinstance(error, TimeoutError):
            return str(error)
        namespace, _, _ = call.pod
        try:
            configuration = self._knowledge.usable_now(namespace, name)
        except NotUsable as cause:
            return str(cause)
        port = configuration.server.port if configuration.server else "of its server"
        gateways = ", ".join(f"{g.name} ({g.address})" for g in configuration.gateways) or "none"
        return (
            f"no gateway of StaticGatewayConfiguration {namespace}/{name} completed a handshake "
            f"within {self._settings.attach_timeout:g} s (gateways: {gateways}); check the "
            f"gateway nodes and that UDP {port} reaches them"
        )

    def _watch_gateways(self) -> None:
        attached = (s.attachment.configuration for s in self._sandboxes.values())
        self._prober.watch({g.address for c in attached for g in c.gateways})

    def _lock(self, sandbox_id: str) -> asyncio.Lock:
        return self._locks.setdefault(sandbox_id, asyncio.Lock())

    # What happens.

    def _on_configuration(
        self,
        key: Key,
        old: StaticGatewayConfiguration | None,
        new: StaticGatewayConfiguration | None,
    ) -> None:
        for sandbox_id, sandbox in self._sandboxes.items():
            state = sandbox.attachment
            if (state.namespace, state.configuration.name) == key:
                self._queue.add(sandbox_id)

    def _on_pod(self, key: Key, old: Pod | None, new: Pod | None) -> None:
        if new and new.spec.host_network:
            if annotation(new) and not new.finished:
                self._teller.host_network(new)
            return
        for sandbox_id, sandbox in self._sandboxes.items():
            if (sandbox.attachment.namespace, sandbox.attachment.pod) == key:
                self._queue.add(sandbox_id)
        if old and new and _asks_anew(old, new):
            found = self._records.of(key)
            for sandbox_id in found:
                self._queue.add(sandbox_id)
            if not found:
                self._late.add(str(key))

    def _on_gateway(self, address: str, old: State, new: State) -> None:
        """Its pods leave a gateway that is lost. One that is back takes only pods that had to go
        to the load balancer: all others would lose connections for nothing."""
        for sandbox_id, sandbox in self._sandboxes.items():
            state = sandbox.attachment
            listed = address in {g.address for g in state.configuration.gateways}
            to = state.active.to if state.active else None
            returns = new == "alive" and listed and isinstance(to, Balancer)
            if returns or (new == "lost" and to is not None and to.address == address):
                self._moves.add(sandbox_id)

    def _on_status(self, key: Key, old: GatewayStatus | None, new: GatewayStatus | None) -> None:
        """A gateway asks its pods to leave, or does so no more."""
        if (old.spec.vetoes if old else []) == (new.spec.vetoes if new else []):
            return
        for sandbox_id, sandbox in self._sandboxes.items():
            if key.name in {g.name for g in sandbox.attachment.configuration.gateways}:
                self._moves.add(sandbox_id)

    def _on_joined(self, sandbox: Sandbox) -> None:
        self._moves.add(sandbox.attachment.id)

    def _on_join_silence(self, sandbox: Sandbox) -> None:
        state = sandbox.attachment
        joining, active = state.joining, state.active
        if joining and active and same_place(joining.to, active.to):
            # The gateway works, but not yet with its next key pair: the pod stays, and asks again.
            self._moves.add_after(state.id, _ASK_AGAIN_SECONDS)
        elif joining is not None:
            now = asyncio.get_running_loop().time()
            sandbox.avoid(joining.address, now + _AVOID_SECONDS)
            self._moves.add(state.id)

    def _on_way_lost(self, path: TunnelPath) -> None:
        self._teller.way_lost(path.address, path.port)
        for sandbox_id, sandbox in self._sandboxes.items():
            active = sandbox.attachment.active
            if active is not None and path_of(active) == path:
                self._moves.add(sandbox_id)

    def _on_silence(self, sandbox: Sandbox) -> None:
        state, now = sandbox.attachment, asyncio.get_running_loop().time()
        if state.active is None or self._hearing.bears(state.id, path_of(state.active), now):
            return
        sandbox.avoid(state.active.address, now + _AVOID_SECONDS)
        self._moves.add(state.id)

    def _on_verified(self, sandbox: Sandbox) -> None:
        state, now = sandbox.attachment, asyncio.get_running_loop().time()
        if state.active is not None:
            self._hearing.complete(state.id, path_of(state.active), now)
        # The next pass clears the keepalive that made the tunnel speak.
        self._queue.add_after(state.id, _FULL_PASS_AFTER)


def _asks_anew(old: Pod, new: Pod) -> bool:
    """A pod that has just begun to run without our knowing came to the node while somebody had
    rewritten the CNI chain."""
    runs = old.status.phase != new.status.phase and bool(annotation(new))
    return runs or annotation(old) != annotation(new)
