"""Finds which configuration a refusal is about, and when to try again. Sans-IO; the clock is passed
in.

A gathered write fails for all configurations although one is the cause. If the refusal names a
prefix or an ipConfig, its owners are the cause. If it names none, the suspects are halved until one
remains, so that the others are served after log2(n) writes.

Azure may also refuse a write for what a neighbour has, and name nobody. If a newcomer is refused
alone, again, by the pool's model, the model is tried with it alone (``_Trial``): that moves no
traffic, for machines are written from it only when they are born.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from egress_gateway.api.conditions import Reason
from egress_gateway.cloud import errors
from egress_gateway.cloud.protocol import WriteInstance, WriteModel
from egress_gateway.controller.apply import TRANSIENT, FailedStep
from egress_gateway.controller.planning.problem import Problem
from egress_gateway.controller.planning.verdict import Verdict
from egress_gateway.controller.planning.wanted import Wanted
from egress_gateway.service.backoff import doubled

log = logging.getLogger(__name__)

FIRST_RETRY: Final = 2.0
PATIENT_REFUSALS: Final = 2
"""So many writes for others may be refused because of what a configuration has, until it gives
way to them."""
QUIET_CONFLICTS: Final = 2
"""So many lost races in a row are nobody's news."""


@dataclass(frozen=True, slots=True)
class Setback:
    """The pool waits ``seconds``; ``problems`` is what those concerned hear of it."""

    seconds: float
    problems: Mapping[str, Problem]


@dataclass(slots=True)
class _Entry:
    attempts: int = 0
    until: float = 0.0
    problem: Problem | None = None
    last: Problem | None = None


@dataclass(slots=True)
class _Trial:
    """Which neighbours of ``newcomer`` the model is refused for. ``inside`` are in it by the next
    write, ``trying`` among them for the first time; ``groups`` are those who come next.

    Whoever is refused alone is so a second time only after the model has been taken without the
    newcomer, and with him again: what Azure refuses for a while, whatever it says, is nobody's."""

    newcomer: str
    groups: list[list[str]]
    inside: set[str]
    trying: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    """Alone, once."""

    def go_on(self) -> bool:
        """Lets the next group in; False when there is none left."""
        if not self.groups:
            return False
        self.trying = self.groups.pop()
        self.inside |= {*self.trying}
        return True


class RefusalBackoff:
    """Refusals and their backoff, by configuration; pauses by pool."""

    def __init__(
        self,
        *,
        limit: float,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._limit = limit
        self._clock = clock
        self._jitter = jitter
        self._entries: dict[str, _Entry] = {}
        self._pauses: dict[str, int] = {}
        self._suspects: set[str] = set()
        self._bystanders: dict[str, int] = {}
        self._trials: dict[str, _Trial] = {}
        self._tried: set[str] = set()

    def forget(self, uid: str) -> None:
        """A new spec, or the end of the object: a clean slate."""
        self._entries.pop(uid, None)
        self._entries.pop(_six(uid), None)
        self._suspects.discard(uid)
        self._bystanders.pop(uid, None)
        self._tried.discard(uid)
        self._trials = {k: t for k, t in self._trials.items() if t.newcomer != uid}

    def gives_way(self, uid: str) -> bool:
        """Whether writes for others were refused again and again because they carry what ``uid``
        has."""
        return self._bystanders.get(uid, 0) >= PATIENT_REFUSALS

    def release_suspects(self, uids: Iterable[str]) -> bool:
        """The writes without the suspects went through: they are let in again, to be accused
        alone. False: none of ``uids`` was a suspect."""
        held = self._suspects & set(uids)
        self._suspects -= held
        return bool(held)

    def left_out(self, key: str, uid: str) -> bool:
        """Whether ``uid`` stays out of the model of the pool ``key`` while a newcomer is tried."""
        trial = self._trials.get(key)
        return trial is not None and uid not in trial.inside

    def tried(self, key: str) -> bool:
        """The model of the pool ``key`` is as it was to be. Returns whether that was a trial."""
        trial = self._trials.get(key)
        if trial is not None and not trial.go_on():
            del self._trials[key]
        return trial is not None

    def blocked(self, uid: str) -> Problem | None:
        """The problem for which ``uid`` must hold still for now."""
        if uid in self._suspects:
            return _SUSPECTED
        entry = self._entries.get(uid)
        if entry is None or entry.problem is None or self._clock() >= entry.until:
            return None
        return entry.problem

    def blocked6(self, uid: str) -> Problem | None:
        """The problem for which ``uid`` must do without (more) IPv6 for now."""
        return self.blocked(_six(uid))

    def note(self, uid: str, verdict: Verdict, *, final: bool) -> None:
        """Sets when to look again; a settled configuration starts afresh. ``final``: nothing
        more is being done for it now."""
        self._note6(uid, verdict)
        if verdict.settled:
            self._entries.pop(uid, None)
            self._bystanders.pop(uid, None)
            return
        if uid in self._suspects:
            return
        entry = self._entries.setdefault(uid, _Entry())
        if self._clock() < entry.until:
            return
        entry.problem = None
        entry.last = verdict.problem or entry.last
        if verdict.problem and verdict.problem.reason == Reason.INVALID_SPEC:
            entry.until = 0.0  # only an edit mends it
        elif final or verdict.problem:
            self._later(entry)

    def _note6(self, uid: str, verdict: Verdict) -> None:
        if verdict.settled and verdict.problem6 is None:
            self._entries.pop(_six(uid), None)
        elif verdict.problem6 is not None:
            entry = self._entries.setdefault(_six(uid), _Entry())
            if self._clock() >= entry.until:
                entry.problem, entry.last = None, verdict.problem6
                self._later(entry)

    def due(self, uids: Iterable[str]) -> float | None:
        """Seconds until the first of ``uids`` is to be tried again."""
        now = self._clock()
        keys = [key for uid in uids for key in (uid, _six(uid))]
        waiting = [e.until - now for k in keys if (e := self._entries.get(k)) and e.until > 0]
        return max(0.2, min(waiting)) if waiting else None

    def pause(self, key: str, error: errors.CloudError) -> float:
        """How long to leave a pool (or the survey) alone after ``error``."""
        attempts = self._pauses.get(key, 0)
        self._pauses[key] = attempts + 1
        return max(error.retry_after or 0.0, self._delay(attempts))

    def reset_backoff(self, key: str) -> None:
        """The pool (or survey) went through."""
        self._pauses.pop(key, None)

    def lasting(self, uid: str, verdict: Verdict) -> Verdict:
        """While a refused configuration is tried again, its refusal goes on being said."""
        six = self._entries.get(_six(uid))
        if six is not None and verdict.ipv6 and not verdict.problem6 and not verdict.settled:
            verdict = replace(verdict, problem6=six.last)
        entry = self._entries.get(uid)
        if entry is None or verdict.problem or verdict.serving:
            return verdict
        return replace(verdict, problem=entry.last)

    def judge(
        self,
        key: str,
        refusals: Iterable[FailedStep],
        wanted: Sequence[Wanted],
        *,
        placed: Collection[str] = (),
    ) -> Setback | None:
        """Blocks the culprits of ``refusals``; a Setback for what is no configuration's fault,
        and for removals, which nothing replaces. ``placed``: UIDs that some machine has taken, so
        a machine that refuses them does so for reasons of its own."""
        seconds: list[float] = []
        problems: dict[str, Problem] = {}
        leaving = {w.uid for w in wanted if w.leaving}
        for refusal in refusals:
            error, uids = refusal.error, refusal.step.uids
            log.warning("%s", error, extra={"code": error.code})
            if isinstance(error, errors.Overdue):
                continue  # it may still end; meanwhile the cloud says that the document is busy
            if not isinstance(error, TRANSIENT) and (others := _carried(refusal, wanted, placed)):
                if first := self._stand_aside(others, error):
                    seconds.append(first)
                continue
            blameless = isinstance(error, TRANSIENT) or not uids
            if blameless or _machine_fault(refusal, wanted, placed) or uids & leaving:
                attempts = self._pauses.get(key, 0)
                delay = self.pause(key, error)
                if isinstance(error, errors.Conflict) and attempts < QUIET_CONFLICTS:
                    seconds.append(max(error.retry_after or 0.0, 0.2 * (attempts + 1)))
                    continue
                seconds.append(delay)
                problems |= dict.fromkeys(uids, _problem(refusal))
            elif not self._on_trial(key, refusal, wanted):
                self._suspect(refusal, wanted, placed)
        return Setback(max(seconds), problems) if seconds else None

    def _on_trial(self, key: str, refusal: FailedStep, wanted: Sequence[Wanted]) -> bool:
        """Whether a trial explains the refusal, or begins with it."""
        action, uids = refusal.step.action, refusal.step.uids
        if not isinstance(action, WriteModel) or _named(refusal.error, wanted):
            return False
        if trial := self._trials.get(key):
            self._refused_trial(key, trial, Problem.of(refusal.error))
            return True
        newcomer = min(uids)
        others = [w.uid for w in wanted if not w.leaving and w.uid != newcomer]
        again = newcomer in self._entries and newcomer not in self._tried
        if len(uids) > 1 or not others or not again or self.gives_way(newcomer):
            return False
        if action.pool.rolling:
            return False  # its machines would follow the model
        self._tried.add(newcomer)
        self._entries[newcomer].problem = None
        self._trials[key] = _Trial(newcomer, [others], {newcomer})
        return True

    def _refused_trial(self, key: str, trial: _Trial, problem: Problem) -> None:
        if {*trial.trying} <= {trial.newcomer}:
            self._block(trial.newcomer, problem)
            del self._trials[key]
            return
        trial.inside -= {*trial.trying}
        if len(trial.trying) == 1:
            (uid,) = trial.trying
            if uid in trial.refused:
                self._bystanders[uid] = PATIENT_REFUSALS
                self._block(uid, problem)
            else:
                trial.refused.add(uid)
                trial.inside.discard(trial.newcomer)
                trial.groups += [[uid], [trial.newcomer], []]
        else:
            half = len(trial.trying) // 2
            trial.groups += [trial.trying[:half], trial.trying[half:]]
        if not trial.go_on():
            del self._trials[key]

    def _stand_aside(self, uids: Iterable[str], error: errors.CloudError) -> float:
        """Others' writes fail because of what these have. Once may be a change of roles on its
        way; after that they give way. How long the pool waits; 0: it goes on at once."""
        seconds = 0.0
        for uid in uids:
            self._bystanders[uid] = self._bystanders.get(uid, 0) + 1
            self._block(uid, Problem.of(error))
            if not self.gives_way(uid):
                seconds = FIRST_RETRY
        return seconds

    def _suspect(
        self, refusal: FailedStep, wanted: Sequence[Wanted], placed: Collection[str]
    ) -> None:
        error, uids = refusal.error, refusal.step.uids
        meant = [w for w in wanted if w.uid in uids]
        if sixes := _named6(error, meant):
            for uid in sixes:
                self._block(_six(uid), Problem.of(error))
            return
        named = _named(error, meant)
        if not named and isinstance(refusal.step.action, WriteInstance):
            uids = uids - set(placed) or uids
        if named or len(uids) == 1:
            for uid in named or uids:
                self._block(uid, _problem(refusal) if not named else Problem.of(error))
            return
        ordered = sorted(uids)
        self._suspects.update(ordered[(len(ordered) + 1) // 2 :])

    def _block(self, uid: str, problem: Problem) -> None:
        entry = self._entries.setdefault(uid, _Entry())
        entry.problem = entry.last = problem
        self._later(entry)

    def _later(self, entry: _Entry) -> None:
        entry.until = self._clock() + self._delay(entry.attempts)
        entry.attempts += 1

    def _delay(self, attempts: int) -> float:
        return doubled(attempts + 1, FIRST_RETRY, self._limit) * (0.85 + 0.15 * self._jitter())


_SUSPECTED: Final = Problem(
    reason=Reason.PROVISIONING,
    message="Azure refused a write for several configurations; the controller tries them in "
    "smaller groups",
)


def _machine_fault(refusal: FailedStep, wanted: Iterable[Wanted], placed: Collection[str]) -> bool:
    """An instance refused for reasons of its own, or is gone: nobody is named, and another machine
    has taken all of those for whose sake it was written."""
    if not isinstance(refusal.step.action, WriteInstance):
        return False
    if isinstance(refusal.error, errors.NotFound):
        return not _named(refusal.error, wanted)
    return (
        isinstance(refusal.error, errors.Failed)
        and not _named(refusal.error, wanted)
        and refusal.step.uids <= set(placed)
    )


def _carried(
    refusal: FailedStep, wanted: Iterable[Wanted], placed: Collection[str] = ()
) -> set[str]:
    """Configurations that the refusal names, none of which was to be changed by the write: they
    are in it with what they have. Of a prefix that is full, those who got nothing of it."""
    if not isinstance(refusal.step.action, WriteModel | WriteInstance):
        return set()
    carried = refusal.step.action.configs
    named = _named(refusal.error, wanted)
    if named & refusal.step.uids:
        return set()
    there = {w.uid for w in wanted if w.uid in named and w.names.ip_config in carried}
    return there - set(placed) if isinstance(refusal.error, errors.Exhausted) else there


def _problem(refusal: FailedStep) -> Problem:
    if isinstance(refusal.step.action, WriteInstance) and isinstance(
        refusal.error, errors.Failed | errors.NotFound
    ):
        return Problem(reason=Reason.INSTANCE_FAILED, message=str(refusal.error))
    return Problem.of(refusal.error)


def _six(uid: str) -> str:
    """The backoff's key of a configuration's IPv6, which is refused on its own."""
    return f"{uid}/6"


def _named6(error: errors.CloudError, wanted: Iterable[Wanted]) -> set[str]:
    """Configurations whose IPv6 is to blame: it is named, or nobody is. Without it the rest is
    tried again, and then that is to blame."""
    asking = [w for w in wanted if w.prefix_id6 and not w.private and not w.problem6]
    related = {resource.lower() for resource in error.related}
    message = error.message.lower()
    named = {
        w.uid
        for w in asking
        if w.prefix_id6.lower() in related
        or w.names.ip_config6.lower() in message
        or f"{w.prefix_id6.lower()}'" in message
    }
    return named or ({w.uid for w in asking} if not _named(error, wanted) else set())


def _named(error: errors.CloudError, wanted: Iterable[Wanted]) -> set[str]:
    """Configurations whose prefix or ipConfig the refusal names."""
    related = {resource.lower() for resource in error.related}
    message = error.message.lower()
    return {
        w.uid
        for w in wanted
        if (w.prefix_id and w.prefix_id.lower() in related)
        or w.names.ip_config.lower() in message
        or (w.prefix_id and f"{w.prefix_id.lower()}'" in message)
    }
