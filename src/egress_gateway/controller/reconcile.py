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
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

from egress_gateway.api import names
from egress_gateway.api.conditions import Reason
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.cloud.errors import CloudError
from egress_gateway.cloud.protocol import Balancer, Cloud, DeletePrefix, PoolRef, PoolState
from egress_gateway.controller.apply import apply
from egress_gateway.controller.blame import Ledger, Setback
from egress_gateway.controller.cluster import Cluster
from egress_gateway.controller.handover import Handover
from egress_gateway.controller.plan import Names, Plan, Wanted, plan
from egress_gateway.controller.pools import Target, resolve
from egress_gateway.controller.recognise import recognise_all
from egress_gateway.controller.takeover import Takeover
from egress_gateway.controller.verdict import Problem, Verdict
from egress_gateway.kube.queue import WorkQueue

log = logging.getLogger(__name__)

SURVEY: Final = "survey"
ROLE: Final = "role"
GATHER_SECONDS: Final = 0.1
"""Changes of this long are written together."""
NODE_SECONDS: Final = 0.5
MAX_ROUNDS: Final = 12
"""A pass that is not done after so many looks lets the other pools have their turn."""
AGAIN_SECONDS: Final = 0.2
LOOK_SECONDS: Final = 2.0
"""How often to see whether a gateway has let go, if nobody says so."""
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cloud = cloud
        self._cluster = cluster
        self._takeover = takeover
        self._blocked = ""
        self._strange: Mapping[str, Problem] = {}
        """Why it cannot be told under which names a configuration's resources live."""
        self._drift = drift_interval
        self._ledger = Ledger(limit=retry_limit)
        self.work: WorkQueue[str] = WorkQueue("pools", backoff=0.5, backoff_limit=retry_limit)
        self.reports: WorkQueue[str] = WorkQueue("reports", backoff=0.1, backoff_limit=retry_limit)
        self._pools: dict[str, PoolRef] = {}
        self._traces: dict[str, set[str]] = {}
        """UIDs (live or not) of which a pool holds something, by the pool's key."""
        self._verdicts: dict[str, Verdict] = {}
        self._home: dict[str, str] = {}
        """Where a configuration was last seen in service."""
        self._handover = Handover(cluster, clock=clock)
        self.surveyed = False
        cluster.on_configuration(self._changed)
        cluster.on_agents(self._agents_changed)
        cluster.on_machines(self._nodes_changed)

    @property
    def pools(self) -> Collection[str]:
        """Keys of the pools that the last survey found."""
        return self._pools.keys()

    async def handle(self, key: str) -> float | None:
        """One unit of work; seconds until it is due again, None when it waits for a change."""
        try:
            if key == ROLE:
                await self._cluster.grant_keys()
                return None
            return await (self.survey() if key == SURVEY else self.pool_pass(key))
        except CloudError as error:
            return self._cloud_down(key, error)

    # --- the pool ------------------------------------------------------------------------

    async def pool_pass(self, key: str) -> float | None:
        pool = self._pools.get(key)
        if pool is None or self._blocked:
            return None
        setback: Setback | None = None
        for _ in range(MAX_ROUNDS):
            wanted = self._wanted(pool)
            if not wanted:
                return None
            await self._prepare(wanted)
            state = await self._observe(pool, wanted)
            decided = self._decide(state, wanted)
            gone = self._conclude(state, wanted, decided)
            await self._let_go(gone)
            if setback:  # this last look was for those who succeeded meanwhile
                return self._tell(setback)
            if decided.empty and not self._ledger.acquit(w.uid for w in wanted):
                self._ledger.calm(key)
                return self._due(wanted, gone)
            refusals = await apply(self._cloud, decided)
            setback = self._ledger.judge(key, refusals, wanted)
            if setback and len(refusals) == decided.size:
                return self._tell(setback)
            if not refusals:
                self._ledger.acquit(w.uid for w in wanted)
        return AGAIN_SECONDS

    def _due(self, wanted: Iterable[Wanted], gone: set[str]) -> float | None:
        """When to look again although nothing is left to do."""
        due = self._ledger.due(w.uid for w in wanted if not w.leaving)
        waits = any(
            self._handover.waits(w.uid) or (w.leaving and w.uid not in gone) for w in wanted
        )
        return min(due or LOOK_SECONDS, LOOK_SECONDS) if waits else due

    async def _observe(self, pool: PoolRef, wanted: Iterable[Wanted]) -> PoolState:
        brought = {w.prefix_id for w in wanted if w.prefix_id and not w.leaving}
        return await self._cloud.observe(pool, brought)

    def _decide(self, state: PoolState, wanted: list[Wanted]) -> Plan:
        ids = {w.names.ip_config: self._cloud.managed_prefix_id(w.names.ip_config) for w in wanted}
        return plan(state, wanted, subscription=self._cloud.subscription, managed_ids=ids)

    def _wanted(self, pool: PoolRef) -> list[Wanted]:
        """What this pool should hold, and what it should hold no more."""
        clinging = self._traces.get(pool.key, set())
        live = self._cluster.configurations()
        found = [w for sgc in live.values() if (w := self._want(sgc, pool, clinging))]
        lost = (clinging & self._cluster.recorded()) - live.keys()
        return found + [
            Wanted(uid=uid, names=self._cluster.names(uid), leaving=True) for uid in sorted(lost)
        ]

    def _want(
        self, sgc: StaticGatewayConfiguration, pool: PoolRef, clinging: set[str]
    ) -> Wanted | None:
        uid = sgc.metadata.uid
        target = self._resolve(sgc)
        here = isinstance(target, Target) and target.pool.key == pool.key
        if not here and uid not in clinging:
            return None
        known = self._cluster.names(uid)
        if sgc.metadata.deletion_timestamp:
            return Wanted(uid=uid, names=known, leaving=True)
        if isinstance(target, Problem):
            return Wanted(uid=uid, names=known, problem=target)
        if not here and (self._moved(sgc, target) or self._crowded(uid)):
            return Wanted(uid=uid, names=known, leaving=True, elsewhere=True)
        if not here:
            waiting = Problem(reason=Reason.PROVISIONING, message="moving to another gateway pool")
            return Wanted(uid=uid, names=known, problem=waiting, elsewhere=True)
        return Wanted(
            uid=uid,
            names=known,
            private=not sgc.spec.provision_public_ips,
            prefix_id=sgc.spec.public_ip_prefix_id,
            prefix_size=target.prefix_size,
            problem=self._strange.get(uid) or self._ledger.blocked(uid),
            in_use=self._handover.in_use(sgc),
        )

    def _moved(self, sgc: StaticGatewayConfiguration, target: Target) -> bool:
        """Whether the pool ``target`` serves, and nobody uses the gateways of another any more."""
        uid = sgc.metadata.uid
        verdict = self._verdicts.get(uid)
        serves = self._home.get(uid) == target.pool.key and verdict and verdict.serving
        return bool(verdict and serves and self._handover.left(sgc, verdict))

    def _crowded(self, uid: str) -> bool:
        """The pool that it moves to cannot have addresses before this one gives them back."""
        verdict = self._verdicts.get(uid)
        problem = verdict.problem if verdict else None
        return problem is not None and problem.reason == Reason.PREFIX_EXHAUSTED

    async def _prepare(self, wanted: Iterable[Wanted]) -> None:
        """Finalizer and key pair come before anything in the cloud."""
        live = self._cluster.configurations()
        staying = [live[w.uid] for w in wanted if not w.leaving and w.uid in live]
        await asyncio.gather(
            *(self._cluster.hold(sgc) for sgc in staying),
            *(self._cluster.ensure_keys(sgc) for sgc in staying),
        )
        self.work.add(ROLE)

    def _conclude(self, state: PoolState, wanted: Iterable[Wanted], decided: Plan) -> set[str]:
        """Remembers and reports what this look at the pool means for each configuration;
        answers those that have left it."""
        clinging = self._traces.setdefault(state.ref.key, set())
        gone: set[str] = set()
        for w in wanted:
            verdict = decided.verdicts[w.uid]
            if w.leaving and verdict.gone:
                clinging.discard(w.uid)
                gone.add(w.uid)
            else:
                clinging.add(w.uid)
            if w.elsewhere:
                continue
            self._handover.wait(w.uid, w.uid in decided.waiting)
            if not w.leaving:
                self._ledger.note(w.uid, verdict, final=decided.empty)
            if verdict.settled:
                self._move_home(w.uid, state.ref.key)
            self._say(w.uid, _deleting() if w.leaving else self._ledger.lasting(w.uid, verdict))
        return gone

    def _move_home(self, uid: str, key: str) -> None:
        if self._home.get(uid) != key:
            self._home[uid] = key
            for other in self._holding(uid) - {key}:
                self.work.add(other)

    def _tell(self, setback: Setback) -> float:
        for uid, problem in setback.problems.items():
            self._trouble(uid, problem)
        return setback.seconds

    # --- the survey ----------------------------------------------------------------------

    async def survey(self) -> float:
        if await self._must_wait():
            return min(RIVAL_SECONDS, self._drift)
        live = self._cluster.configurations()
        groups = {s.spec.gateway_vmss_profile.vmss_resource_group for s in live.values()} - {""}
        pools = await self._cloud.pools(sorted(groups))
        balancer = await self._cloud.balancer()
        known = live.keys() | self._cluster.recorded()
        self._ledger.calm(SURVEY)
        await self._recognise(pools, balancer)
        self._learn(pools, balancer, known)
        homeless = [sgc for sgc in live.values() if not self._enqueue(sgc)]
        for key, uids in self._traces.items():
            if uids:
                self.work.add(key)
        await self._let_go(known, prefixes=True)
        self._cluster.distrust()
        self.work.add(ROLE)
        return self._ledger.due(sgc.metadata.uid for sgc in homeless) or self._drift

    async def _must_wait(self) -> bool:
        """Takes over what the Go project left. True: it still runs, and nothing may be done."""
        if self._takeover is None:
            return False
        live = self._cluster.configurations()
        outcome = await self._takeover.run(list(live.values()))
        self._cluster.adopted(outcome.taken)
        if outcome.blocked and outcome.blocked != self._blocked:
            log.error("%s", outcome.blocked)
        self._blocked = outcome.blocked
        for uid in live if self._blocked else ():
            self._trouble(uid, Problem(reason=Reason.OTHER_CONTROLLER, message=self._blocked))
        return bool(self._blocked)

    async def _recognise(self, pools: list[PoolRef], balancer: Balancer) -> None:
        """Finds names that nobody recorded; who cannot be told holds still."""
        if self._takeover is None:
            return
        live = self._cluster.configurations()
        found = await recognise_all(
            self._cloud,
            live,
            {uid: self._cluster.names(uid) for uid in live},
            pools,
            balancer=balancer,
            system_namespace=self._takeover.system_namespace,
        )
        for uid, known in found.told.items():
            self._cluster.adopted(await self._takeover.remember(live[uid], known))
        self._strange = found.untold  # NB: at once: pools are worked on meanwhile
        for uid, problem in found.untold.items():
            self._trouble(uid, problem)

    def _learn(self, pools: list[PoolRef], balancer: Balancer, known: set[str]) -> None:
        """Pools that exist, and those of which only the load balancer is left."""
        self._pools = {pool.key: pool for pool in pools}
        owned = {self._cluster.names(uid): uid for uid in known}
        rules = {name.rule for name in owned}
        ours = {rule.pool for rule in balancer.rules.values() if rule.name in rules}
        ours |= {key for key, uids in self._traces.items() if uids & known}
        for key in (ours & balancer.backends) - self._pools.keys():
            self._pools[key] = PoolRef(key=key, kind="vanished")
        self._traces = {
            key: (self._traces.get(key, set()) & known) | _traced(pool, balancer, owned)
            for key, pool in self._pools.items()
        }
        self.surveyed = True

    def _enqueue(self, sgc: StaticGatewayConfiguration) -> bool:
        """Queues the pools that have to do with ``sgc``. False: its pool is not known."""
        uid = sgc.metadata.uid
        for key in self._holding(uid):
            self.work.add_after(key, GATHER_SECONDS)
        target = self._resolve(sgc)
        if isinstance(target, Target):
            if not sgc.metadata.deletion_timestamp:
                self.work.add_after(target.pool.key, GATHER_SECONDS)
            return True
        if not sgc.metadata.deletion_timestamp and not self._holding(uid):
            verdict = Verdict(problem=target)
            if target.reason == Reason.POOL_NOT_FOUND:
                self._ledger.note(uid, verdict, final=True)
            self._say(uid, verdict)
        return target.reason != Reason.POOL_NOT_FOUND

    async def _let_go(self, uids: Iterable[str], *, prefixes: bool = False) -> None:
        """Ends those of ``uids`` that are leaving and have left no trace in any pool.
        ``prefixes``: no pool was looked at for them, so their managed prefix may still exist."""
        live = self._cluster.configurations()
        for uid in uids:
            sgc = live.get(uid)
            leaving = sgc is None or sgc.metadata.deletion_timestamp is not None
            if not leaving or self._holding(uid) or uid in self._strange:
                continue
            if prefixes and not await self._drop_prefix(uid):
                continue
            await self._cluster.forget_keys(uid)
            if sgc is not None:
                await self._cluster.release(sgc)
            self._ledger.forget(uid)
            self._verdicts.pop(uid, None)
            self._home.pop(uid, None)
            self._handover.forget(uid)
            self.work.add(ROLE)

    async def _drop_prefix(self, uid: str) -> bool:
        try:
            await self._cloud.apply(DeletePrefix(name=self._cluster.names(uid).ip_config))
        except CloudError as error:
            log.warning("%s", error, extra={"code": error.code})
            self._say(uid, Verdict(problem=Problem.of(error)))
            return False
        return True

    # --- changes -------------------------------------------------------------------------

    def _changed(
        self, old: StaticGatewayConfiguration | None, new: StaticGatewayConfiguration | None
    ) -> None:
        """A configuration appeared, changed or went. Its status is ours: no news."""
        if not self.surveyed:
            self.work.add(SURVEY)  # one may be under way that does not know of it
            return
        if new is None:
            if old is not None and old.metadata.uid in self._cluster.recorded():
                self.work.add_after(SURVEY, GATHER_SECONDS)
            return
        if old is not None and _same_wish(old, new):
            self._let_gos({new.metadata.uid})
            return
        uid = new.metadata.uid
        self._ledger.forget(uid)
        lost = new.metadata.deletion_timestamp and not self._holding(uid)
        if lost or not self._enqueue(new):
            self.work.add_after(SURVEY, GATHER_SECONDS)

    def _nodes_changed(self) -> None:
        """A machine joined or left: its pool is to be looked at before the next drift check."""
        if self.surveyed:
            for key, uids in self._traces.items():
                if uids:
                    self.work.add_after(key, NODE_SECONDS)

    def _agents_changed(self, uids: Iterable[str]) -> None:
        told = set(uids)
        for uid in told & self._verdicts.keys():
            self.reports.add(uid)
        self._let_gos(told)

    def _let_gos(self, uids: set[str]) -> None:
        """A status was written or an agent spoke: somebody may have waited for it."""
        for uid in filter(self._handover.waits, uids):
            for key in self._holding(uid):
                self.work.add(key)

    async def report(self, uid: str) -> float | None:
        """Writes one configuration's status."""
        verdict = self._verdicts.get(uid)
        if verdict is not None:
            with self._handover.writing(uid, verdict):
                await self._cluster.report(uid, verdict)
        return None

    # --- small things --------------------------------------------------------------------

    def _resolve(self, sgc: StaticGatewayConfiguration) -> Target | Problem:
        pools = [pool for pool in self._pools.values() if pool.kind != "vanished"]
        return resolve(sgc.spec, pools, resource_group=self._cloud.resource_group)

    def _holding(self, uid: str) -> set[str]:
        return {key for key, uids in self._traces.items() if uid in uids}

    def _say(self, uid: str, verdict: Verdict) -> None:
        self._verdicts[uid] = verdict
        self.reports.add(uid)
        holding = self._holding(uid)
        if len(holding) > 1 and self._crowded(uid):
            for key in holding:
                self.work.add_after(key, LOOK_SECONDS)

    def _trouble(self, uid: str, problem: Problem | None) -> None:
        """Says ``problem``; whoever is in service all the same hears of it only if a person must
        mend it."""
        before = self._verdicts.get(uid)
        if before is None or before.serving is None or before.problem is not None:
            self._say(uid, Verdict(problem=problem, serving=before.serving if before else None))
        elif problem and problem.reason in _FOR_A_PERSON:
            note = f"what is in place serves, but is not looked after: {problem.message}"
            self._say(uid, replace(before, note=note))

    def _cloud_down(self, key: str, error: CloudError) -> float:
        """The cloud refused to be looked at: whoever is not in service hears why."""
        problem = Problem.of(error)
        log.warning("%s", error, extra={"key": key, "code": error.code})
        pool = self._pools.get(key)
        uids = [w.uid for w in self._wanted(pool)] if pool else self._cluster.configurations()
        for uid in uids:
            self._trouble(uid, problem)
        return self._ledger.pause(key, error)


_FOR_A_PERSON: Final = frozenset({Reason.AUTHORIZATION_FAILED, Reason.CREDENTIAL_REJECTED})


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


def _traced(pool: PoolRef, balancer: Balancer, owned: Mapping[Names, str]) -> set[str]:
    """UIDs of ours of which the pool's model or the load balancer holds something."""
    rules = {rule.name for rule in balancer.rules.values() if rule.pool == pool.key}
    return {
        uid for known, uid in owned.items() if known.rule in rules or known.ip_config in pool.traces
    }


def _deleting() -> Verdict:
    return Verdict(
        problem=Problem(reason=Reason.DELETING, message="its Azure resources are being removed")
    )
