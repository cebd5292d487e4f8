"""The last verdict on each configuration, and what its status should say.

A configuration in service stays in service when the cloud refuses. Its status reports the refusal
at once if a person must mend it, otherwise only if it lasts: the next failover or scale would need
the cloud.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from egress_gateway.api.conditions import Reason
from egress_gateway.controller.observed.arrivals import Arrivals
from egress_gateway.controller.observed.cluster import Cluster
from egress_gateway.controller.observed.departures import Departures
from egress_gateway.controller.observed.inuse import GatewaysInUse
from egress_gateway.controller.planning.problem import Note, Problem
from egress_gateway.controller.planning.verdict import Serving, ServingGateway, Verdict
from egress_gateway.controller.reporting.status import STAYS

_FOR_A_PERSON: Final = frozenset({Reason.AUTHORIZATION_FAILED, Reason.CREDENTIAL_REJECTED})
_PASSING: Final = frozenset({Reason.THROTTLED, Reason.CONFLICT})
"""A cloud that says so answers."""
LASTING: Final = 30.0
"""Seconds of refusals after which any other is told."""


class StatusBoard:
    """``told`` is called with the UID of a configuration whose status changes."""

    def __init__(
        self,
        cluster: Cluster,
        in_use: GatewaysInUse,
        *,
        told: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}
        """By UID, since when the cloud has been refusing."""
        self._cluster = cluster
        self._in_use = in_use
        self._told = told
        self._verdicts: dict[str, Verdict] = {}
        self._pools: dict[str, str] = {}
        self._places: dict[str, dict[str, tuple[ServingGateway, ...]]] = {}
        """By UID and pool, the gateways that were last seen there."""
        self._departures = Departures(clock=clock)
        self._arrivals = Arrivals(clock=clock)

    def verdict(self, uid: str) -> Verdict | None:
        """The last one of the configuration ``uid``; None before its first pass."""
        return self._verdicts.get(uid)

    def set_verdict(self, uid: str, verdict: Verdict, *, pool: str = "") -> None:
        """What a look at the cloud came to. ``pool``: the key of the pool that was looked at."""
        self._since.pop(uid, None)
        if pool and verdict.serving is not None:
            verdict = replace(verdict, serving=self._moved(uid, pool, verdict.serving))
        self._set(uid, verdict)

    def _moved(self, uid: str, pool: str, serving: Serving) -> Serving:
        """``serving`` with the gateways of pools that it moved from: nothing is taken from
        those until pods have left them."""
        places = self._places.setdefault(uid, {})
        places[pool] = serving.gateways
        former = (g for key, gateways in places.items() if key != pool for g in gateways)
        return replace(serving, going=(*serving.going, *former))

    def left(self, uid: str, pool: str) -> None:
        """Nothing of it is in ``pool`` any more: no packet leaves by an address of there."""
        gone = self._places.get(uid, {}).pop(pool, ())
        verdict = self._verdicts.get(uid)
        if gone and verdict is not None and (serving := verdict.serving) is not None:
            going = tuple(gateway for gateway in serving.going if gateway not in gone)
            self._set(uid, replace(verdict, serving=replace(serving, going=going)))

    def _set(self, uid: str, verdict: Verdict) -> None:
        self._verdicts[uid] = verdict
        self._told(uid)

    def trouble(self, uid: str, problem: Problem, *, seen: bool = True) -> None:
        """Records ``problem``. The status of a configuration in service reports it if a person must
        mend it, or if it lasts; at once if what was asked for last is not what serves. ``seen``
        False: the cloud does not let itself be looked at."""
        before, generation = self._verdicts.get(uid), self._cluster.generation(uid)
        edited = before is not None and before.generation not in (0, generation)
        if before is None or before.serving is None:
            unseen = not seen and (before is None or before.unseen)
            self.set_verdict(uid, Verdict(problem=problem, unseen=unseen, generation=generation))
            return
        after = before
        if edited or before.problem is not None:
            if before.problem and before.problem.reason == Reason.INVALID_SPEC and not edited:
                return  # only an edit mends it
            after = replace(before, problem=problem, settled=False, generation=generation)
        if problem.reason not in _PASSING:
            since = self._since.setdefault(uid, self._clock())
            text = f"{STAYS}: {problem.message}"
            told = replace(problem, message=text)
            if problem.reason in _FOR_A_PERSON:
                after = replace(after, note=Note(problem.reason, text), cloud=told)
            elif self._clock() - since >= LASTING:
                after = replace(after, cloud=told)
        if after != before:
            self._set(uid, after)

    def stands(self, uid: str, before: int, now: int) -> None:
        """The last verdict holds of the generation ``now`` too, if it is about the one ``before``:
        the cloud is asked for nothing else. That a spec is invalid holds of no other."""
        verdict = self._verdicts.get(uid)
        if verdict is None or verdict.generation != before:
            return
        if verdict.problem is None or verdict.problem.reason != Reason.INVALID_SPEC:
            self._set(uid, replace(verdict, generation=now))

    def waiting_for_addresses(self, uid: str) -> bool:
        """The pool that it moves to cannot have addresses before its old one gives them back."""
        verdict = self._verdicts.get(uid)
        problem = verdict.problem if verdict else None
        return problem is not None and problem.reason == Reason.PREFIX_EXHAUSTED

    def record_pool(self, uid: str, key: str) -> bool:
        """Notes the pool in which it was last seen in service. True: it is another one."""
        moved = self._pools.get(uid) != key
        self._pools[uid] = key
        return moved

    def last_pool(self, uid: str) -> str | None:
        """The pool in which it was last seen in service."""
        return self._pools.get(uid)

    def forget(self, uid: str) -> None:
        """The configuration is gone."""
        self._verdicts.pop(uid, None)
        self._since.pop(uid, None)
        self._pools.pop(uid, None)
        self._places.pop(uid, None)
        self._departures.forget(uid)
        self._arrivals.forget(uid)

    def pods_are_leaving(self, uid: str) -> bool:
        """Whether some gateway of it is listed only until its pods have left."""
        return self._departures.due(uid) is not None

    async def report(self, uid: str) -> float | None:
        """Writes one configuration's status; seconds until it changes without anybody's news."""
        verdict = self._verdicts.get(uid)
        if verdict is None:
            return None
        with self._in_use.writing(uid, verdict):
            await self._cluster.report(uid, verdict, self._departures, self._arrivals)
        due = self._departures.due(uid), self._arrivals.due(uid)
        return min((seconds for seconds in due if seconds is not None), default=None)
