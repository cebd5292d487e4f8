"""Carries out a plan: stage after stage, and the steps of a stage at the same time.

What follows a refusal for the sake of the same configurations is skipped: it depends on what
failed, and the next look at the world plans anew. Nothing in a pass depends on addresses that are
made ahead.

- **Nobody waits for one slow write.** A write that is not over after ``PATIENCE`` seconds goes on
  by itself; the pass goes on without it, and what depends on it waits for the next one. The cloud
  limits how long a write may take at all.
- **A write that the cloud does not keep is not repeated without end.** A write that succeeded and
  is planned again, unchanged, waits 2, 4, 8 … 300 s; ``unkept`` says of which field that is.

What is remembered here is about writes of this process alone; being cut off anywhere is an ordinary
state to observe.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from egress_gateway.api.conditions import Reason
from egress_gateway.cloud import errors
from egress_gateway.cloud.errors import CloudError
from egress_gateway.cloud.protocol import (
    Action,
    Cloud,
    CreatePrefix,
    DeleteAddress,
    DeletePrefix,
    MakeAddresses,
    PoolState,
    WriteBalancer,
    WriteInstance,
    WriteModel,
)
from egress_gateway.controller.planning.plan import Plan
from egress_gateway.controller.planning.problem import Note
from egress_gateway.controller.planning.unkept import difference
from egress_gateway.controller.planning.wanted import Step
from egress_gateway.service.backoff import doubled

AT_ONCE: Final = 32
"""Writes of a stage in flight: enough to hide Azure's latency, few enough for its write quota."""
PATIENCE: Final = 6.0
"""Seconds that a pass waits for the writes of one stage."""
TRANSIENT: Final = (errors.Throttled, errors.Conflict, errors.Unavailable, errors.InUse)
FIRST_REPEAT: Final = 2.0
LAST_REPEAT: Final = 300.0

Document = tuple[str, str]
"""Kind and name of what an action writes, inside a pool."""


@dataclass(frozen=True, slots=True)
class FailedStep:
    """A step that failed, and why."""

    step: Step
    error: CloudError


@dataclass(slots=True)
class Outcome:
    """``done``: UIDs for whose sake a machine was written. ``tried``: how many steps were. ``due``:
    seconds until the first step may be tried again that was put off; ``waiting``: steps were put
    off, or are under way. ``hurt``: UIDs for whose sake nothing more is to be done in this pass."""

    refusals: list[FailedStep] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    tried: int = 0
    due: float | None = None
    waiting: set[str] = field(default_factory=set)
    hurt: set[str] = field(default_factory=set)
    unremoved: set[str] = field(default_factory=set)
    """UIDs of which an address could not be removed. The load balancer refers to none: it lets go
    of them all the same."""

    def refuse(self, step: Step, error: CloudError) -> None:
        """The cloud refused ``step``: what depends on it does not run."""
        self.refusals.append(FailedStep(step, error))
        self._hurt(step)

    def _hurt(self, step: Step) -> None:
        if isinstance(step.action, DeleteAddress):
            self.unremoved |= step.uids
        elif not isinstance(step.action, MakeAddresses):
            self.hurt |= step.uids

    def skips(self, step: Step) -> bool:
        """Whether ``step`` depends on one that failed or is not over."""
        hurt = self.hurt if isinstance(step.action, WriteBalancer) else self.hurt | self.unremoved
        return bool(hurt & step.uids)

    def put_off(self, step: Step, seconds: float | None = None) -> None:
        """``step`` waits, and what depends on it; for ``seconds``, if known."""
        self.waiting |= step.uids
        self._hurt(step)
        if seconds is not None:
            self.due = seconds if self.due is None else min(self.due, seconds)


@dataclass(slots=True)
class _Repeat:
    content: object
    times: int
    until: float


class Writer:
    """``finished`` hears of the pool of a write that ended after its pass had gone on. ``leads``:
    whether this process may write; one that was stopped for a while may wake as a former leader."""

    def __init__(
        self,
        cloud: Cloud,
        *,
        clock: Callable[[], float] = time.monotonic,
        finished: Callable[[str], None] = lambda pool: None,
        leads: Callable[[], bool] = lambda: True,
        patience: float = PATIENCE,
    ) -> None:
        self._cloud = cloud
        self._clock = clock
        self._finished = finished
        self._leads = leads
        self._patience = patience
        self._under_way: dict[
            tuple[str, Document], tuple[Step, asyncio.Task[CloudError | None]]
        ] = {}
        self._late: dict[str, list[FailedStep]] = {}
        self._repeats: dict[str, dict[Document, _Repeat]] = {}
        self._refused: dict[str, dict[str, CloudError]] = {}

    async def apply(self, pool: str, plan: Plan) -> Outcome:
        """Carries out ``plan`` for the pool with this key."""
        self._kept(pool, {_document(s.action) for stage in plan.stages for s in stage})
        outcome = Outcome()
        for stage in plan.stages:
            steps = [step for step in stage if not outcome.skips(step)]
            await self._stage(pool, steps, outcome)
        return outcome

    async def _stage(self, pool: str, steps: Collection[Step], outcome: Outcome) -> None:
        tasks: dict[asyncio.Task[CloudError | None], Step] = {}
        gate = asyncio.Semaphore(AT_ONCE)  # NB: of this stage alone: writes that hang keep it
        for step in steps:
            wait = self._wait(pool, step.action)
            if self._blocked(pool, step.action) or wait > 0:
                outcome.put_off(step, wait or None)
                continue
            tasks[asyncio.create_task(self._try(step.action, gate))] = step
        outcome.tried += len(tasks)
        if not tasks:
            return
        try:
            done, pending = await asyncio.wait(tasks, timeout=self._patience)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise
        for task in pending:
            outcome.put_off(tasks[task])
            self._leave(pool, tasks[task], task)
        unexpected = [error for task in done if (error := task.exception())]
        for task in done:
            if not task.exception():
                self._ended(pool, tasks[task], task.result(), outcome)
        if unexpected:
            raise unexpected[0]

    async def _try(self, action: Action, gate: asyncio.Semaphore) -> CloudError | None:
        async with gate:
            try:
                await self.write(action)
            except CloudError as error:
                return error
        return None

    async def write(self, action: Action) -> None:
        """One action. Raises ``CloudError``."""
        if not self._leads():
            raise errors.Unavailable("this process does not lead any longer")
        await self._cloud.apply(action)

    def _ended(self, pool: str, step: Step, error: CloudError | None, outcome: Outcome) -> None:
        if error is not None:
            self._remember(pool, step.action, error)
            outcome.refuse(step, error)
            return
        if isinstance(step.action, WriteInstance):
            outcome.done |= step.uids
        self._succeeded(pool, step.action)

    # --- writes that outlive their pass --------------------------------------------------

    def _leave(self, pool: str, step: Step, task: asyncio.Task[CloudError | None]) -> None:
        key = (pool, _document(step.action))
        self._under_way[key] = (step, task)

        def over(ended: asyncio.Task[CloudError | None]) -> None:
            self._under_way.pop(key, None)
            if ended.cancelled():
                return
            try:
                error = ended.result()
                if error is not None:
                    self._remember(pool, step.action, error)
                    self._late.setdefault(pool, []).append(FailedStep(step, error))
                else:
                    self._succeeded(pool, step.action)
            finally:
                self._finished(pool)

        task.add_done_callback(over)

    def late(self, pool: str) -> list[FailedStep]:
        """Refusals of writes that ended since a pass had gone on without them."""
        return self._late.pop(pool, [])

    def marked(self, pool: str, state: PoolState) -> PoolState:
        """``state`` in which what is being written is busy, whatever the cloud's document says
        of it."""
        instances = tuple(
            replace(i, state="Updating") if (pool, ("instance", i.id)) in self._under_way else i
            for i in state.instances
        )
        balancer = replace(state.balancer, busy=(pool, ("balancer", "")) in self._under_way)
        busy = state.busy or (pool, ("model", "")) in self._under_way
        return replace(state, instances=instances, balancer=balancer, busy=busy)

    def held_up(self, pool: str) -> frozenset[str]:
        """UIDs that cannot go on before a write that is under way has ended: what comes next of
        theirs refers to it. The others' writes are gathered without them."""
        first = (CreatePrefix, WriteBalancer, MakeAddresses)
        steps = (step for (of, _), (step, _) in self._under_way.items() if of == pool)
        return frozenset(uid for s in steps if isinstance(s.action, first) for uid in s.uids)

    def _blocked(self, pool: str, action: Action) -> bool:
        """Whether a write of the same document, or of the model that it follows, is under way."""
        before = [_document(action)]
        if isinstance(action, WriteInstance):
            before.append(("model", ""))
        return any((pool, document) in self._under_way for document in before)

    async def close(self) -> None:
        """Stops waiting for what is under way."""
        tasks = [task for _, task in self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- writes that are not kept --------------------------------------------------------

    def unkept(self, pool: str, plan: Plan, state: PoolState) -> Mapping[str, Note]:
        """By UID: what the cloud said that it wrote, at least twice, and does not show."""
        notes: dict[str, Note] = {}
        for step in (step for stage in plan.stages for step in stage):
            known = self._repeats.get(pool, {}).get(_document(step.action))
            if known is None or known.times < 2 or known.content != _content(step.action):
                continue
            what = difference(step.action, state)
            message = (
                f"Azure accepted a write and does not show it: {what} (written {known.times} times)"
            )
            notes |= dict.fromkeys(step.uids, Note(Reason.NOT_KEPT, message))
        return notes

    def refused(self, pool: str, plan: Plan, state: PoolState) -> Mapping[str, str]:
        """By UID: why a machine that is to be written for its sake does not take it."""
        there = {i.id for i in state.instances}
        known = {i: e for i, e in self._refused.get(pool, {}).items() if i in there}
        self._refused[pool] = known
        return {
            uid: str(known[step.action.instance])
            for step in (step for stage in plan.stages for step in stage)
            if isinstance(step.action, WriteInstance) and step.action.instance in known
            for uid in step.uids
        }

    def _remember(self, pool: str, action: Action, error: CloudError) -> None:
        """What passes by itself is no news."""
        if isinstance(action, WriteInstance) and not isinstance(error, TRANSIENT):
            self._refused.setdefault(pool, {})[action.instance] = error

    def settled(self, pool: str) -> None:
        """Everything is as it was written."""
        self._repeats.pop(pool, None)

    def _kept(self, pool: str, planned: Collection[Document]) -> None:
        known = self._repeats.get(pool, {})
        self._repeats[pool] = {doc: r for doc, r in known.items() if doc in planned}

    def _wait(self, pool: str, action: Action) -> float:
        """Seconds until ``action`` may be tried; 0: now."""
        known = self._repeats.get(pool, {}).get(_document(action))
        if known is None or known.content != _content(action):
            return 0.0
        return max(0.0, known.until - self._clock())

    def _succeeded(self, pool: str, action: Action) -> None:
        if isinstance(action, WriteInstance):
            self._refused.get(pool, {}).pop(action.instance, None)
        known = self._repeats.setdefault(pool, {})
        document, content = _document(action), _content(action)
        before = known.get(document)
        times = before.times + 1 if before and before.content == content else 1
        pause = doubled(times, FIRST_REPEAT, LAST_REPEAT)
        known[document] = _Repeat(content, times, self._clock() + pause)


def _document(action: Action) -> Document:
    match action:
        case CreatePrefix() | DeletePrefix():
            return "prefix", action.name
        case DeleteAddress():
            return "address", action.name
        case MakeAddresses():
            return "addresses", " ".join((action.instance, *(name for name, _ in action.configs)))
        case WriteBalancer():
            return "balancer", ""
        case WriteModel():
            return "model", ""
        case WriteInstance():
            return "instance", action.instance


def _content(action: Action) -> object:
    """What a write asks for: two of one document are equal if this is."""
    match action:
        case WriteBalancer():
            return action.rules, action.present
        case WriteModel() | WriteInstance():
            return dict(action.configs), action.joined
        case MakeAddresses():
            return action.configs
        case _:
            return action
