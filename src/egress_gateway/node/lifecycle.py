"""A pod's life on the node: attached, converged again and again, detached.

Everything is one level-triggered step, ``converge_pod``: what should this sandbox look like now,
and make it so. CNI ADD runs it and waits for the handshake; changes of configurations and pods,
gateways that are lost, and a timer run it too. So an ADD that was interrupted, a kernel state that
somebody damaged and an agent that was killed all end in the same state.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from egress_gateway.api import keys
from egress_gateway.cni.protocol import Call
from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.pod.ruleset import LINKS
from egress_gateway.kube.errors import ApiError
from egress_gateway.node import metrics
from egress_gateway.node.attachment.choose import same_place
from egress_gateway.node.attachment.model import (
    Attachment,
    NotUsable,
    PodConfiguration,
    TunnelRecord,
    held_back,
    want,
)
from egress_gateway.node.attachment.moves import joined, rekeyed, retarget
from egress_gateway.node.liveness.pace import Pacer
from egress_gateway.node.liveness.paths import Paths
from egress_gateway.node.liveness.probe import Prober
from egress_gateway.node.liveness.schedule import Hearing
from egress_gateway.node.liveness.verify import Joiner, Verifier
from egress_gateway.node.parts import Parts, UsesParts
from egress_gateway.node.sandboxes.sandbox import Sandbox, belongs, clear_forgotten
from egress_gateway.node.sandboxes.spares import Spares

log = logging.getLogger(__name__)

FULL_PASS_AFTER: Final = 1.0
"""Seconds until a whole pass follows a tunnel's start or move: others may be waiting for theirs."""
AVOID_SECONDS: Final = 30.0
"""For which a pod does not choose an address that did not answer its handshake."""
_WITHDRAW_SECONDS: Final = 1.0
_LATER: Final = 0.05
SET_BACK: Final = 5.0
"""Seconds that a clock may be set back: so long a pod waits for its next handshake at most."""
_HOLD_SECONDS: Final = 3.0
"""For putting the hold in place after the wait; less than the plugin waits longer than we do."""


class Refused(Exception):
    """CNI ADD cannot succeed now; the text is for the pod's owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Liveness:
    """What knows of gateways and tunnels whether they work."""

    prober: Prober
    paths: Paths
    hearing: Hearing
    pacer: Pacer
    verifier: Verifier
    joiner: Joiner


class Lifecycle(UsesParts):
    """Its verbs may be called at the same time; those for one sandbox take turns."""

    def __init__(self, parts: Parts, liveness: Liveness, spares: Spares) -> None:
        super().__init__(parts)
        self._liveness = liveness
        self._spares = spares
        self._inherited: set[str] = set()
        """Sandboxes from before this agent in which a hold may be that nobody remembers."""

    async def attach_pod(self, call: Call) -> None:
        """Attaches the call's pod; returns when its tunnel is verified. Raises ``Refused``."""
        name = call.configuration
        if not name:
            return
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(self._settings.attach_timeout):
                sandbox = await self._make_attached(call, name)
                await sandbox.verified.wait()
        except (TimeoutError, ApiError, DatapathError, NotUsable) as error:
            reason = self._explain(call, name, error)
            if await self._start_held(call, name):
                self._teller.started_held(call.pod, reason)
                return
            metrics.ATTACH_FAILURES.inc()
            self._teller.not_ready(call.pod, reason)
            raise Refused(reason) from error
        seconds = loop.time() - started
        metrics.ATTACH_SECONDS.observe(seconds)
        self._teller.attached(sandbox.attachment, seconds)

    async def _start_held(self, call: Call, name: str) -> bool:
        """Lets the pod start without a tunnel if its configuration wants that: with the hold in
        place, and work on the tunnel going on."""
        namespace, pod, uid = call.pod
        if not self._knowledge.may_start_held(namespace, name):
            return False
        try:
            async with asyncio.timeout(_HOLD_SECONDS), self._sandboxes.lock(call.id):
                uid = uid or await self._knowledge.uid(namespace, pod)
                configuration, _ = self._knowledge.for_running(None, namespace, name)
                sandbox = self._sandboxes.of_call(call) or self._add_sandbox(
                    call, uid, configuration
                )
                await sandbox.become(sandbox.attachment)
        except (TimeoutError, DatapathError) as error:
            log.warning("cannot hold pod back", extra={"pod": pod, "error": str(error)})
            return False
        self._queues.moves.add(call.id)
        return True

    async def detach_pod(self, call: Call) -> None:
        """Detaches the call's sandbox, if it is attached. Nothing of it is remembered."""
        async with self._sandboxes.lock(call.id):
            self._records.forget(call.id)
            await self._take_down(call.id, over=True)
            self._store.forget(call.id)

    def check_pod(self, call: Call) -> str | None:
        """None if the sandbox is attached and verified, else what is wrong."""
        sandbox = self._sandboxes.get(call.id)
        if sandbox is None:
            return "the sandbox is not attached"
        self._queues.routine.add(call.id)
        return None if sandbox.verified.is_set() else "the tunnel has no handshake yet"

    def collect_pods(self, call: Call) -> None:
        """CNI GC: sandboxes of this network that the runtime no longer knows."""
        attached = [sandbox.attachment for sandbox in self._sandboxes]
        for sandbox_id in self._records.collect(call, attached):
            self._queues.routine.add(sandbox_id)

    def adopt_pods(self) -> None:
        """Takes over pods from an earlier agent and moves none. Blocks; call it before ``run``."""
        self._inherited = self._store.record_ids()
        for attachment in filter(self._is_sound, self._store.attachments()):
            sandbox = Sandbox(attachment, self._kernel, kept=True)
            sandbox.outdated = self._store.written_after(attachment.id, time.time() + SET_BACK)
            self._sandboxes.add(sandbox)
        for sandbox in sorted(self._sandboxes, key=self._age_order):
            self._supersede_others(sandbox)
        attachments = [sandbox.attachment for sandbox in self._sandboxes]
        self._spares.adopt({name for a in attachments for name in a.names.values()})
        self._kernel.sync_sources(attachments)
        log.info("adopted attachments", extra={"count": len(self._sandboxes)})

    def _is_sound(self, attachment: Attachment) -> bool:
        """Whether the file is of the pod whose namespace it names."""
        path = Path(attachment.netns)
        if belongs(path, attachment.if_name, attachment.addresses):
            return True
        log.warning(
            "found damaged attachment", extra={"pod": attachment.id, "error": "wrong addresses"}
        )
        self._store.forget(attachment.id)
        return False

    def _age_order(self, sandbox: Sandbox) -> int:
        return self._store.age_order(sandbox.attachment.id)

    async def converge_pod(self, sandbox_id: str) -> None:
        """Attaches, repairs, moves or takes down one sandbox, whatever it needs. May be
        repeated."""
        async with self._sandboxes.lock(sandbox_id):
            sandbox = self._sandboxes.get(sandbox_id)
            if self._records.is_over(sandbox_id):
                await self._take_down(sandbox_id, over=True)
                return
            record = self._records.living(sandbox_id, sandbox.attachment if sandbox else None)
            pod = self._knowledge.pod_of(record)
            attached = sandbox.attachment.configuration.name if sandbox else ""
            known = self._knowledge.pods.is_synced
            wanted = want(record, pod, known=known, attached=attached)
            if record is None or not wanted:
                over = wanted is None or (pod is not None and pod.finished)
                await self._take_down(sandbox_id, over=over)
                if record is not None and sandbox is None and known and not over:
                    await self._clear_forgotten(record)
                return
            namespace, name, uid = record.pod
            configuration, amiss = self._knowledge.for_running(
                sandbox.attachment if sandbox else None, namespace, wanted
            )
            if sandbox is not None and sandbox.superseded:
                configuration, amiss = held_back(wanted), ""
            if amiss:
                self._teller.not_ready(record.pod, f"{amiss}; the pod is held back")
            if sandbox is None:
                uid = uid or await self._knowledge.uid(namespace, name)
                if self._sandboxes.of_call(record) or not self._records.is_first(record):
                    return
                if not await self._kernel.run(_names_its_own, record):
                    self._records.discard(record)
                    return
                sandbox = self._add_sandbox(record, uid, configuration)
                await sandbox.clear_tunnels()
            await self._converge(sandbox, configuration)

    async def _clear_forgotten(self, record: Call) -> None:
        """A pod that asks for nothing may be held all the same: its annotation was taken away, and
        its file lost, while no agent ran. Once for each sandbox from before."""
        if record.id in self._inherited:
            self._inherited.discard(record.id)
            if await self._kernel.run(clear_forgotten, self._kernel, record):
                log.warning("released forgotten pod", extra={"pod": "/".join(record.pod[:2])})

    async def _make_attached(self, call: Call, name: str) -> Sandbox:
        namespace, pod, uid = call.pod
        uid = uid or await self._knowledge.uid(namespace, pod)
        configuration = await self._knowledge.usable(namespace, name)
        async with self._sandboxes.lock(call.id):
            self._records.begin(call.id)
            sandbox = self._sandboxes.of_call(call) or self._add_sandbox(call, uid, configuration)
            if sandbox.attachment.id == call.id:
                await self._converge(sandbox, configuration, starts=True)
        return sandbox

    async def _converge(
        self, sandbox: Sandbox, configuration: PodConfiguration, *, starts: bool = False
    ) -> None:
        """The step: choose the gateway, remember, converge, see to the handshake, publish. Only who
        ``starts`` a pod waits for the API server."""
        before = sandbox.attachment
        rekeys = sandbox.outdated
        after = await self._in_turn(sandbox, configuration, rekeys=rekeys)
        moved = after.moved_since(before)
        settling, sandbox.settling = sandbox.settling, False
        if moved:
            self._liveness.paths.forget(sandbox)
            self._queues.after_moves.add_after(before.id, FULL_PASS_AFTER)
        publishing = asyncio.create_task(self._endpoints.publish(after)) if starts else None
        try:
            done = await sandbox.become(after, moves=moved)
            sandbox.outdated = sandbox.outdated and not rekeys
        except BaseException:
            if publishing:
                publishing.cancel()
            raise
        finally:
            if after.configuration.gateways != before.configuration.gateways:
                self.watch_gateways()
        if after.active is not None and not sandbox.attachment.verified:
            self._liveness.verifier.start(sandbox)
        if after.joining is not None:
            self._liveness.joiner.start(sandbox)
        if publishing:
            await publishing
        else:
            self._queues.endpoints.add(before.id)
        self._tell_change(before, after, done if not settling else [])

    async def _in_turn(
        self, sandbox: Sandbox, configuration: PodConfiguration, *, rekeys: bool
    ) -> Attachment:
        """What the sandbox should look like now, as soon as its handshake may begin. Who moves
        passes over a gateway that does not answer others, once; who has time waits for it."""
        before, passed = sandbox.attachment, False
        while True:
            after = await self._choose_target(sandbox, configuration)
            begun = _begun(before, after, rekeys=rekeys)
            if begun is None or await self._liveness.pacer.turn(before.id, begun.address) or passed:
                return rekeyed(after) if rekeys else after
            for port in after.ports.keys() - before.ports.keys():
                self._kernel.release_port(port)
            if passed := before.active is not None and begun is after.active:
                now = asyncio.get_running_loop().time()
                sandbox.avoid(begun.address, now + AVOID_SECONDS)
            else:
                await asyncio.sleep(FULL_PASS_AFTER)

    async def publish_pod(self, sandbox_id: str) -> None:
        """Tells gateways of the sandbox as it is now. May be repeated."""
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            return
        await self._endpoints.publish(sandbox.attachment)
        if sandbox.gone and sandbox.attachment.uid not in self._sandboxes.uids():
            await self._endpoints.withdraw(sandbox.attachment)
        elif sandbox.forgotten:
            await self._begin_session(sandbox)

    async def _begin_session(self, sandbox: Sandbox) -> None:
        """Its gateway has dropped the pod's session, with its endpoint (which is there again) or
        with all others."""
        sandbox.forgotten = False
        active = sandbox.attachment.active
        if active is None or not sandbox.attachment.verified:
            return
        if not await self._liveness.pacer.turn(sandbox.attachment.id, active.address):
            sandbox.forgotten = True
            self._queues.endpoints.add_after(sandbox.attachment.id, FULL_PASS_AFTER)
        elif await sandbox.question():
            self._liveness.verifier.start(sandbox)

    async def _choose_target(self, sandbox: Sandbox, configuration: PodConfiguration) -> Attachment:
        """What the sandbox should look like now."""
        before, now = sandbox.attachment, time.time()
        server = before.active.server if before.active else configuration.server
        after = retarget(
            before,
            configuration,
            doubt=lambda address: max(
                self._liveness.prober.doubt(address),
                self._liveness.paths.doubt(address, server.port) if server else 0.0,
            ),
            avoid=sandbox.avoided(asyncio.get_running_loop().time()),
            vetoes=self._knowledge.vetoes(before.namespace, configuration.name),
            free_port=self._kernel.free_port,
            now=now,
        )
        if after.joining and after.joining == before.joining and await sandbox.joined():
            grace = self._settings.drain_grace
            after = joined(after, until=now + grace)
            self._queues.moves.add_after(before.id, grace + _LATER)
        return after

    def _tell_change(self, before: Attachment, after: Attachment, done: list[str]) -> None:
        if after.joining and after.joining != before.joining:
            self._teller.joining(after)
        if before.parting and not after.parting:
            self._teller.parted(before)
        if after.moved_since(before):
            if before.active is not None:
                metrics.MOVES.labels(_why_moved(before, after)).inc()
                self._teller.moved(before, after)
        elif done and before.verified and before == after:
            self._teller.repaired(after, done)

    async def _take_down(self, sandbox_id: str, *, over: bool) -> None:
        """``over``: the pod ends; otherwise it goes on without us."""
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            return
        self._liveness.paths.forget(sandbox)
        self._liveness.hearing.forget(sandbox_id)
        self._liveness.pacer.complete(sandbox_id)
        await sandbox.detach(held=over)
        self._sandboxes.remove(sandbox)
        self.watch_gateways()
        if not self._sandboxes:
            # The last one takes the node's own tables along.
            await self._kernel.run(self._kernel.sources.sync)
            await self._kernel.run(self._kernel.sync_links, [])
        state = sandbox.attachment
        self._teller.detached(state)
        if state.uid in self._sandboxes.uids():
            return
        try:
            async with asyncio.timeout(_WITHDRAW_SECONDS):
                await self._endpoints.withdraw(state)
        except (ApiError, TimeoutError) as error:
            # The sweep deletes it later, and so does the end of the Pod.
            log.info("left PodEndpoint for the sweep", extra={"error": str(error)})

    def _add_sandbox(self, call: Call, uid: str, configuration: PodConfiguration) -> Sandbox:
        namespace, pod, _ = call.pod
        pair = keys.generate()
        attachment = Attachment(
            id=call.id,
            container_id=call.container_id,
            if_name=call.if_name,
            netns=call.netns,
            network=call.config.name,
            namespace=namespace,
            pod=pod,
            uid=uid,
            addresses=[str(address) for address in call.addresses],
            private_key=pair.private,
            public_key=pair.public,
            configuration=configuration,
            names={LINKS[0]: spare} if (spare := self._spares.take()) else {},
        )
        sandbox = Sandbox(attachment, self._kernel)
        self._sandboxes.add(sandbox)
        self._supersede_others(sandbox)
        self.watch_gateways()
        return sandbox

    def _supersede_others(self, latest: Sandbox) -> None:
        """A pod whose sandbox was made again keeps its UID. The earlier sandbox is held back until
        its runtime deletes it: gateways can know one key of a pod."""
        state = latest.attachment
        latest.superseded = False
        for sandbox in self._sandboxes:
            other = sandbox.attachment
            if other.uid == state.uid and other.container_id != state.container_id:
                sandbox.superseded = True
                self._queues.routine.add(sandbox.attachment.id)

    def _explain(self, call: Call, name: str, error: Exception) -> str:
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

    def watch_gateways(self) -> None:
        """Probes the gateways of attached pods, and no others."""
        attached = (s.attachment.configuration for s in self._sandboxes)
        self._liveness.prober.watch({g.address for c in attached for g in c.gateways})


def _begun(before: Attachment, after: Attachment, *, rekeys: bool) -> TunnelRecord | None:
    """The tunnel whose handshake is to begin."""
    if after.joining is not None and after.joining != before.joining:
        return after.joining
    verified = after.verified and not rekeys
    return after.active if (after.moved_since(before) or rekeys) and not verified else None


def _why_moved(before: Attachment, after: Attachment) -> str:
    """As ``metrics.MOVES`` has it."""
    old, new = before.active, after.active
    if old and new and same_place(old.to, new.to) and old.server != new.server:
        return "rotated"
    joined_it = before.joining and new and before.joining.listen_port == new.listen_port
    return "drained" if joined_it else "lost"


def _names_its_own(record: Call) -> bool:
    addresses = [str(address) for address in record.addresses]
    return belongs(Path(record.netns), record.if_name, addresses)
