"""Configurations to cloud: the whole decision on one page.

Two kinds of work, each level-triggered and safe to be cut off anywhere:

- ``survey`` lists pools and the load balancer, finds out which configuration belongs (or still
  clings) to which pool, and lets go of what has left no trace. It runs at start, when a
  configuration names a pool that is not known yet, and about once a minute.
- ``pool_pass`` brings one pool to what all its configurations together want:
  observe -> plan (pure) -> apply -> verdict per configuration, until nothing is left to do.

A refusal is pinned on the configurations it is about; they hold what they have and are tried
again later (2, 4, 8 … 30 s), the others go on at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Final

import msgspec

from egress_gateway.api import names
from egress_gateway.api.conditions import Reason
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.cloud.errors import CloudError
from egress_gateway.cloud.protocol import Cloud, DeletePrefix, PoolRef, PoolState
from egress_gateway.controller.apply import AT_ONCE, Writer
from egress_gateway.controller.board import StatusBoard
from egress_gateway.controller.desired import STILL_SERVED, DesiredPool
from egress_gateway.controller.migration.predecessor import Predecessor
from egress_gateway.controller.migration.takeover import Takeover
from egress_gateway.controller.observed.cluster import Cluster
from egress_gateway.controller.observed.groups import find_pools
from egress_gateway.controller.observed.inuse import GatewaysInUse
from egress_gateway.controller.observed.inventory import Inventory
from egress_gateway.controller.planning.plan import Plan, plan
from egress_gateway.controller.planning.pools import Target
from egress_gateway.controller.planning.problem import Note, Problem
from egress_gateway.controller.planning.spared import has
from egress_gateway.controller.planning.verdict import Verdict
from egress_gateway.controller.planning.wanted import Wanted
from egress_gateway.controller.refusals import RefusalBackoff, Setback
from egress_gateway.kube.workqueue.queue import WorkQueue
from egress_gateway.service.backoff import doubled

log = logging.getLogger(__name__)

SURVEY: Final = "survey"
ROLE: Final = "role"
GATHER_SECONDS: Final = 0.1
"""Changes of this long are written together."""
GATHER_PODS_SECONDS: Final = 2.0
"""News of a configuration's pods of this long are written together."""
NODE_SECONDS: Final = 0.5
MAX_ROUNDS: Final = 12
"""After this many looks a pass that is not done lets the other pools have their turn."""
AGAIN_SECONDS: Final = 0.2
LOOK_SECONDS: Final = 2.0
LAST_LOOK: Final = 15.0
"""How often to see whether a gateway has let go or a machine is no longer busy, if nobody says so:
first and at last. Compute lets a scale set be read 12 times a minute, by everybody together
(https://learn.microsoft.com/azure/virtual-machines/compute-throttling-limits)."""
LINGER_SECONDS: Final = 15.0
"""How long a deletion waits for machines that are busy before it ends without them."""
RIVAL_SECONDS: Final = 5.0
"""How often to see whether the Go project's controller has been stopped."""


class Reconciler:
    """``handle`` works off the keys of ``work`` (a pool's key, ``SURVEY``, ``ROLE``), ``report``
    those of ``reports`` (UIDs whose status is to be written)."""

    def __init__(
        self,
        cloud: Cloud,
        cluster: Cluster,
        *,
        drift_interval: float,
        retry_limit: float,
        takeover: Takeover | None = None,
        leads: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cloud = cloud
        self._cluster = cluster
        self._drift = drift_interval
        self.work: WorkQueue[str] = WorkQueue("pools", backoff=0.5, backoff_limit=retry_limit)
        self.reports: WorkQueue[str] = WorkQueue("reports", backoff=0.1, backoff_limit=retry_limit)
        self._backoff = RefusalBackoff(limit=retry_limit, clock=clock)
        self._in_use = GatewaysInUse(cluster, clock=clock)
        self._writer = Writer(cloud, clock=clock, finished=self.work.add, leads=leads)
        self._looks: dict[str, int] = {}
        self._clock = clock
        self._lingering: dict[str, float] = {}
        self._inventory = Inventory(cloud.resource_group, cloud.advice)
        self._board = StatusBoard(cluster, self._in_use, told=self._told, clock=clock)
        self.report = self._board.report
        self._desired = DesiredPool(
            cluster,
            inventory=self._inventory,
            board=self._board,
            in_use=self._in_use,
            backoff=self._backoff,
            managed=cloud.managed_prefix_id,
            advice=cloud.advice,
        )
        self._predecessor = Predecessor(cloud, cluster, self._board.trouble, takeover)
        cluster.on_configuration(self._changed)
        cluster.on_agents(self._agents_changed)
        cluster.on_machines(self._nodes_changed)
        cluster.on_pods(self._pods_changed)
        cluster.on_grants(lambda: self.work.add(SURVEY))

    @property
    def pools(self) -> Collection[str]:
        """Keys of the pools that the last survey found."""
        return self._inventory.keys

    async def close(self) -> None:
        """Ends writes that are waited for beside the passes."""
        await self._writer.close()

    async def handle(self, key: str) -> float | None:
        """One unit of work; seconds until it is due again, None when it waits for a change."""
        try:
            if key == ROLE:
                await self._cluster.keypairs.grant(self._cluster.configurations().values())
                return None
            return await (self.survey() if key == SURVEY else self.pool_pass(key))
        except CloudError as error:
            return self._cloud_down(key, error)

    # --- the pool ------------------------------------------------------------------------

    async def pool_pass(self, key: str) -> float | None:
        """One pass for the pool ``key``. Returns seconds until the next; None: on a change."""
        pool = self._inventory.pool(key)
        if pool is None or self._predecessor.rules:
            return None
        setback: Setback | None = None
        for _ in range(MAX_ROUNDS):
            wanted = self._wanted(pool)
            if not wanted:
                return None
            await self._prepare(wanted)
            state = await self._observe(pool, wanted)
            decided = self._decide(state, wanted)
            if not (state.busy or decided.writes_model) and self._backoff.tried(key):
                continue
            gone = self._conclude(state, wanted, decided)
            await self._let_go(gone)
            await self._release_lingering()
            if setback:  # this last look was for those who succeeded meanwhile
                return self._tell(setback)
            if decided.empty and not self._backoff.release_suspects(w.uid for w in wanted):
                self._backoff.reset_backoff(key)
                self._writer.settled(key)
                return self._due(key, wanted, gone)
            outcome = await self._writer.apply(key, decided)
            placed = outcome.done | _placed(state, wanted)
            refusals = [*self._writer.late(key), *outcome.refusals]
            setback = self._backoff.judge(key, refusals, wanted, placed=placed)
            if setback and len(outcome.refusals) == decided.size:
                return self._tell(setback)
            if not refusals and not outcome.waiting:
                self._backoff.release_suspects(w.uid for w in wanted)
            if not setback and not refusals and outcome.tried == 0:
                return max(AGAIN_SECONDS, min(outcome.due or LAST_LOOK, self._look(key)))
        return AGAIN_SECONDS

    def _wanted(self, pool: PoolRef) -> list[Wanted]:
        """What the pool should hold; those who wait for a write that is under way hold still."""
        held_up = self._writer.held_up(pool.key)
        return [
            replace(w, problem=w.problem or _UNDER_WAY) if w.uid in held_up and not w.leaving else w
            for w in self._desired.of(pool)
        ]

    def _look(self, key: str) -> float:
        """How long until the next look at a pool that waits for something: 2, 4, 8, 15 s."""
        self._looks[key] = looks = self._looks.get(key, 0) + 1
        return doubled(looks, LOOK_SECONDS, LAST_LOOK)

    def _due(self, key: str, wanted: Iterable[Wanted], gone: set[str]) -> float | None:
        """When to look again although nothing is left to do."""
        due = self._backoff.due(w.uid for w in wanted if not w.leaving)
        waits = any(self._in_use.waits(w.uid) or (w.leaving and w.uid not in gone) for w in wanted)
        if not waits:
            self._looks.pop(key, None)
            return due
        look = self._look(key)
        return min(due or look, look)

    async def _observe(self, pool: PoolRef, wanted: Iterable[Wanted]) -> PoolState:
        staying = [w for w in wanted if not w.leaving]
        brought = {p for w in staying for p in (w.prefix_id, w.prefix_id6) if p}
        state = await self._cloud.observe(pool, brought)
        if any(w.prefix_id6 for w in staying):
            state = replace(state, ipv6=await self._cloud.has_ipv6(state.ref.subnet))
        return self._writer.marked(pool.key, state)

    def _decide(self, state: PoolState, wanted: list[Wanted]) -> Plan:
        ids = {w.names.ip_config: self._cloud.managed_prefix_id(w.names.ip_config) for w in wanted}
        return plan(state, wanted, advice=self._cloud.advice, managed_ids=ids)

    async def _prepare(self, wanted: Iterable[Wanted]) -> None:
        """Finalizer and key pair come before anything in the cloud."""
        live = self._cluster.configurations()
        named = (live[w.uid] for w in wanted if not w.leaving and w.uid in live)
        staying = [sgc for sgc in named if not sgc.metadata.deletion_timestamp]
        await asyncio.gather(
            *(self._cluster.hold(sgc) for sgc in staying),
            *(self._cluster.keypairs.ensure(sgc) for sgc in staying),
        )
        self.work.add(ROLE)

    def _conclude(self, state: PoolState, wanted: Iterable[Wanted], decided: Plan) -> set[str]:
        """Remembers and reports what this look at the pool means for each configuration;
        answers those that have left it."""
        gone: set[str] = set()
        unkept = self._writer.unkept(state.ref.key, decided, state)
        refused = self._writer.refused(state.ref.key, decided, state)
        for w in wanted:
            verdict = decided.verdicts[w.uid]
            if note := unkept.get(w.uid):
                verdict = replace(verdict, note=note)
            elif verdict.note and (why := refused.get(w.uid)):
                told = Note(Reason.INSTANCE_FAILED, f"{verdict.note.message}: {why}")
                verdict = replace(verdict, note=told)
            left = w.leaving and verdict.gone
            if w.leaving and not w.elsewhere:
                self._linger(w.uid, verdict.lingering)
            self._inventory.note(state.ref.key, w.uid, gone=left)
            if left:
                gone.add(w.uid)
            if w.elsewhere:
                if left:
                    self._board.left(w.uid, state.ref.key)
                continue
            if w.problem is STILL_SERVED:
                said = Verdict(problem=w.problem, generation=w.generation)
                self._board.set_verdict(w.uid, said, pool=state.ref.key)
                continue
            self._in_use.wait(w.uid, w.uid in decided.waiting)
            if not w.leaving and w.problem is not _UNDER_WAY:
                self._backoff.note(w.uid, verdict, final=decided.empty)
            if verdict.settled:
                self._settle(w.uid, state.ref.key)
            said = self._backoff.lasting(w.uid, verdict)
            if w.leaving:
                said = Verdict(problem=_DELETING, generation=w.generation)
            self._board.set_verdict(w.uid, said, pool=state.ref.key)
        return gone

    def _linger(self, uid: str, lingers: bool) -> None:
        if lingers:
            self._lingering.setdefault(uid, self._clock())
        else:
            self._lingering.pop(uid, None)

    async def _release_lingering(self) -> None:
        """A deletion does not wait for a machine that does not answer: the object goes; its key
        Secret stays as the record by which the rest is removed when the machine can be written."""
        live = self._cluster.configurations()
        for uid, since in list(self._lingering.items()):
            sgc = live.get(uid)
            if sgc is not None and self._clock() >= since + LINGER_SECONDS:
                log.warning(
                    "deleted a configuration while a busy machine still holds one of its addresses",
                    extra={"uid": uid, "configuration": sgc.metadata.name},
                )
                await self._cluster.release(sgc)
                self._board.forget(uid)
                del self._lingering[uid]

    def _settle(self, uid: str, key: str) -> None:
        if self._board.record_pool(uid, key):
            for other in self._inventory.holding(uid) - {key}:
                self.work.add(other)

    def _tell(self, setback: Setback) -> float:
        for uid, problem in setback.problems.items():
            self._board.trouble(uid, problem)
        return setback.seconds

    # --- the survey ----------------------------------------------------------------------

    async def survey(self) -> float:
        """Looks which pools there are. Returns seconds until the next look."""
        await self._predecessor.take_over()
        if self._predecessor.rules:
            return min(RIVAL_SECONDS, self._drift)
        live = self._cluster.configurations()
        sought = self._inventory.sought()
        found = await find_pools(self._cloud, live.values())
        balancer = await self._cloud.balancer()
        known = live.keys() | self._cluster.keypairs.recorded()
        self._backoff.reset_backoff(SURVEY)
        unidentified = await self._predecessor.recognise(found.pools, balancer)
        self._desired.unidentified = unidentified  # NB: at once: pools are worked on meanwhile
        for uid, problem in unidentified.items():
            self._board.trouble(uid, problem)
        names_of = {uid: self._cluster.keypairs.names(uid) for uid in known}
        self._inventory.learn(found, balancer, names_of, sought=sought)
        homeless = [sgc for sgc in live.values() if not self._enqueue(sgc)]
        for key in self._inventory.occupied():
            self.work.add(key)
        await self._let_go(known, prefixes=True)
        self._cluster.keypairs.invalidate_roles()
        self.work.add(ROLE)
        due = self._backoff.due(sgc.metadata.uid for sgc in homeless) or self._drift
        return min(due, LAST_LOOK) if any(pool.unread for pool in found.pools) else due

    def _enqueue(self, sgc: StaticGatewayConfiguration) -> bool:
        """Queues the pools that have to do with ``sgc``. False: its pool is not known."""
        uid = sgc.metadata.uid
        for key in self._inventory.holding(uid):
            self.work.add_after(key, GATHER_SECONDS)
        target = self._inventory.resolve(sgc)
        if isinstance(target, Target):
            if not sgc.metadata.deletion_timestamp:
                self.work.add_after(target.pool.key, GATHER_SECONDS)
            return True
        verdict = Verdict(problem=target, generation=sgc.metadata.generation)
        if target.reason not in _OWN_FAULT:
            self._backoff.note(uid, verdict, final=True)
        if not sgc.metadata.deletion_timestamp and not self._inventory.holding(uid):
            self._board.set_verdict(uid, verdict)
        return target.reason in _OWN_FAULT

    async def _let_go(self, uids: Iterable[str], *, prefixes: bool = False) -> None:
        """Ends those of ``uids`` that are leaving and have left no trace in any pool.
        ``prefixes``: no pool was looked at for them, so their managed prefix may still exist."""
        live, ending = self._cluster.configurations(), []
        gate = asyncio.Semaphore(AT_ONCE)
        for uid in uids:
            sgc = live.get(uid)
            leaving = sgc is None or sgc.metadata.deletion_timestamp is not None
            if not leaving or self._inventory.holding(uid) or uid in self._desired.unidentified:
                continue
            if sgc is not None and (refused := self._inventory.refused(sgc)):
                self._board.trouble(uid, refused)
                continue
            ending.append(self._end(uid, sgc, gate, prefix=prefixes))
        await asyncio.gather(*ending)

    async def _end(
        self,
        uid: str,
        sgc: StaticGatewayConfiguration | None,
        gate: asyncio.Semaphore,
        *,
        prefix: bool,
    ) -> None:
        async with gate:
            if prefix and not await self._drop_prefix(uid):
                return
        await self._cluster.keypairs.forget(uid)
        if sgc is not None:
            await self._cluster.release(sgc)
        self._backoff.forget(uid)
        self._board.forget(uid)
        self._in_use.forget(uid)
        self.work.add(ROLE)

    async def _drop_prefix(self, uid: str) -> bool:
        try:
            await self._writer.write(DeletePrefix(name=self._cluster.keypairs.names(uid).ip_config))
        except CloudError as error:
            log.warning("%s", error, extra={"code": error.code})
            self._board.set_verdict(uid, Verdict(problem=Problem.of(error)))
            return False
        return True

    # --- changes -------------------------------------------------------------------------

    def _changed(
        self, old: StaticGatewayConfiguration | None, new: StaticGatewayConfiguration | None
    ) -> None:
        """A configuration appeared, changed or went. Its status is ours: what somebody else makes
        of it is put right. After a write of our own there is nothing to put right."""
        if not self._inventory.surveyed:
            self.work.add(SURVEY)  # one may be under way that does not know of it
            return
        if new is None:
            if old is not None and old.metadata.uid in self._cluster.keypairs.recorded():
                self.work.add_after(SURVEY, GATHER_SECONDS)
            return
        uid = new.metadata.uid
        if old is not None and _same_wish(old, new):
            if old.status != new.status and self._board.verdict(uid):
                self.reports.add_after(uid, GATHER_SECONDS)
            self._let_gos({uid})
            return
        self._backoff.forget(uid)
        self._edited(old, new)
        lost = new.metadata.deletion_timestamp and not self._inventory.holding(uid)
        if self._inventory.seek(new) or lost:
            self.work.add_after(SURVEY, GATHER_SECONDS)
        self._enqueue(new)

    def _edited(
        self, old: StaticGatewayConfiguration | None, new: StaticGatewayConfiguration
    ) -> None:
        """What can be said of an edit without a look at the cloud, which may be away."""
        target, uid = self._inventory.resolve(new), new.metadata.uid
        if isinstance(target, Problem):
            if target.reason == Reason.INVALID_SPEC and self._board.verdict(uid):
                self._board.trouble(uid, target)
        elif old is not None and _same_for_cloud(old, new):
            self._board.stands(uid, old.metadata.generation, new.metadata.generation)

    def _nodes_changed(self) -> None:
        """A machine joined or left, or became a gateway: its pool is to be looked at before the
        next drift check."""
        if self._inventory.surveyed:
            for key in self._inventory.keys:
                self.work.add_after(key, NODE_SECONDS)

    def _pods_changed(self, uid: str) -> None:
        waited_for = self._board.pods_are_leaving(uid)
        self.reports.add_after(uid, GATHER_SECONDS if waited_for else GATHER_PODS_SECONDS)

    def _agents_changed(self, uids: Iterable[str]) -> None:
        told = set(uids)
        for uid in filter(self._board.verdict, told):
            self.reports.add(uid)
        self._let_gos(told)

    def _let_gos(self, uids: set[str]) -> None:
        """A status was written or an agent spoke: somebody may have waited for it."""
        for uid in filter(self._in_use.waits, uids):
            for key in self._inventory.holding(uid):
                self.work.add(key)

    def rekeyed(self, uid: str) -> None:
        """The key pairs of a configuration are others, or how far their change is. One that is lost
        is told when there is another: the status lists what gateways still serve with."""
        if self._cluster.keypairs.public_key(uid):
            self.reports.add(uid)
        for key in self._inventory.holding(uid):
            self.work.add(key)

    @property
    def board(self) -> StatusBoard:
        """The last verdicts, for statuses, metrics and the live map, which only read them."""
        return self._board

    def _told(self, uid: str) -> None:
        """A configuration has something new to hear."""
        self.reports.add(uid)
        holding = self._inventory.holding(uid)
        if len(holding) > 1 and self._board.waiting_for_addresses(uid):
            for key in holding:
                self.work.add_after(key, LOOK_SECONDS)

    def _cloud_down(self, key: str, error: CloudError) -> float:
        """The cloud refused to be observed: configurations that are not in service get the
        reason."""
        problem = Problem.of(error)
        log.warning("%s", error, extra={"key": key, "code": error.code})
        pool = self._inventory.pool(key)
        uids = [w.uid for w in self._desired.of(pool)] if pool else self._cluster.configurations()
        for uid in uids:
            self._board.trouble(uid, problem, seen=False)
        return self._backoff.pause(key, error)


_DELETING: Final = Problem(
    reason=Reason.DELETING, message="the controller is removing its Azure resources"
)
_UNDER_WAY: Final = Problem(
    reason=Reason.PROVISIONING,
    message="waiting for a write of its load balancer rule or prefix, which Azure has not finished",
)
_OWN_FAULT: Final = frozenset({Reason.INVALID_SPEC, Reason.PROVISIONING})
"""Why a pool is not known that looking again does not change."""


def _same_wish(old: StaticGatewayConfiguration, new: StaticGatewayConfiguration) -> bool:
    robbed = names.FINALIZER in old.metadata.finalizers and not (
        names.FINALIZER in new.metadata.finalizers or new.metadata.deletion_timestamp
    )
    return (
        not robbed
        and old.metadata.uid == new.metadata.uid
        and old.spec == new.spec
        and old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
    )


def _same_for_cloud(old: StaticGatewayConfiguration, new: StaticGatewayConfiguration) -> bool:
    """Whether only what nodes do was edited."""
    was = msgspec.structs.replace(
        old.spec, exclude_cidrs=new.spec.exclude_cidrs, default_route=new.spec.default_route
    )
    return was == new.spec and old.metadata.deletion_timestamp == new.metadata.deletion_timestamp


def _placed(state: PoolState, wanted: Iterable[Wanted]) -> set[str]:
    """UIDs of which some machine has its addresses."""
    there = {name for i in state.instances for name in i.addresses if has(i, name)}
    return {w.uid for w in wanted if w.names.ip_config in there}
