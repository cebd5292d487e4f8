"""Which machines are in use for a configuration, and how long to wait until they are not.

A gateway is in use while the status lists it, while a status that lists it is being written, or
while its agent says that it serves. An agent that is no longer listed and still claims to serve is
waited for, but not for ever: a dead one says nothing new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.controller.observed.cluster import Cluster
from egress_gateway.controller.planning.verdict import Verdict

GRACE_PERIOD: Final = 60.0
END_SECONDS: Final = 5.0
"""How long agents may go on serving what is being deleted. One that hears of it stops within a
second; the pods of one that does not hear are held back by their own nodes' agents."""


def machines_of(verdict: Verdict | None) -> frozenset[str]:
    """Provider ids, in lower case, of the gateways that a verdict lists."""
    serving = verdict.serving if verdict else None
    gateways = serving.gateways if serving else ()
    return frozenset(gateway.provider_id.lower() for gateway in gateways)


class GatewaysInUse:
    """All answers are provider ids in lower case."""

    def __init__(self, cluster: Cluster, *, clock: Callable[[], float]) -> None:
        self._cluster = cluster
        self._clock = clock
        self._writing: dict[str, frozenset[str]] = {}
        self._grace: dict[str, tuple[frozenset[str], float]] = {}
        self._waiting: set[str] = set()

    @contextmanager
    def writing(self, uid: str, verdict: Verdict) -> Iterator[None]:
        """While a write of a status is under way, it may have arrived or not."""
        self._writing[uid] = machines_of(verdict)
        try:
            yield
        finally:
            del self._writing[uid]

    def in_use(self, sgc: StaticGatewayConfiguration) -> frozenset[str]:
        """Machines under which no address may be exchanged now."""
        uid = sgc.metadata.uid
        listed, claimed = self._cluster.using(sgc)
        listed |= self._writing.get(uid, frozenset())
        return listed | claimed if self._in_grace_period(uid, claimed - listed) else listed

    def served_to_the_end(self, sgc: StaticGatewayConfiguration) -> bool:
        """Whether a gateway still serves what is being deleted, so that its address must not become
        somebody else's yet."""
        uid = sgc.metadata.uid
        _, claimed = self._cluster.using(sgc)
        waits = self._in_grace_period(f"{uid} ends", claimed, END_SECONDS)
        self.wait(uid, waits)
        return waits

    def left(self, sgc: StaticGatewayConfiguration, verdict: Verdict) -> bool:
        """Whether no machine but those of ``verdict`` is used any more."""
        uid = sgc.metadata.uid
        listed, claimed = self._cluster.using(sgc)
        waits = self._in_grace_period(f"{uid} moves", (listed | claimed) - machines_of(verdict))
        self.wait(uid, waits)
        return not waits

    def wait(self, uid: str, waits: bool) -> None:
        """Notes whether something of ``uid`` waits for a machine to be let go."""
        (self._waiting.add if waits else self._waiting.discard)(uid)

    def waits(self, uid: str) -> bool:
        """Whether something of the configuration is kept because pods may still use it."""
        return uid in self._waiting

    def forget(self, uid: str) -> None:
        """The configuration is gone: nothing of it waits any more."""
        self._waiting.discard(uid)
        for key in (uid, f"{uid} moves", f"{uid} ends"):
            self._grace.pop(key, None)

    def _in_grace_period(
        self, key: str, who: frozenset[str], seconds: float = GRACE_PERIOD
    ) -> bool:
        known, since = self._grace.get(key, (frozenset(), 0.0))
        if not who:
            self._grace.pop(key, None)
        elif who != known:
            self._grace[key] = (who, self._clock())
        else:
            return self._clock() < since + seconds
        return bool(who)
