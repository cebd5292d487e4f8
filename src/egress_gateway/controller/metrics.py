"""What the controller counts, and what it tells of configurations at each scrape.

Every replica tells what its caches hold, so that a scrape of a standby is as good; the sums that
alerts want are taken of the leader's alone (``egress_gateway_controller_leader``).
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from prometheus_client import Histogram

from egress_gateway.api.conditions import DEGRADED, GATEWAYS_READY, READY, find
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.kube.workqueue.queue import WorkQueue
from egress_gateway.service.figures import CONFIGURATION, Figure, Sample, Snapshot

_PREFIX: Final = "egress_gateway_controller"
K = TypeVar("K")

RECONCILE_SECONDS: Final = Histogram(
    f"{_PREFIX}_reconcile_seconds",
    "Seconds that one unit of work took. Kinds of work: pool (a pool of gateways, or the survey of "
    "all), report (a configuration's status), rotation (a look at a key pair's change). Results: "
    "done, error.",
    ["work", "result"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300),
)
INSTRUMENTS: Final = (RECONCILE_SECONDS,)

LEADER: Final = Figure(name=f"{_PREFIX}_leader", help="1: this process leads; 0: it stands by.")
QUEUE: Final = Figure(
    name=f"{_PREFIX}_queue_length",
    help="Units of work that wait to be done, by kind.",
    labels=("work",),
)
CACHE_AGE: Final = Figure(
    name=f"{_PREFIX}_cache_age_seconds",
    help="Seconds since the API server last sent anything about a kind of object. Below 120 in "
    "normal operation.",
    labels=("resource",),
)
IS_READY: Final = Figure(
    name=f"{_PREFIX}_configuration_ready",
    help="Condition Ready of a configuration, with its reason: 1 True, 0 otherwise.",
    labels=(*CONFIGURATION, "reason"),
)
IS_DEGRADED: Final = Figure(
    name=f"{_PREFIX}_configuration_degraded",
    help="Condition Degraded of a configuration, with its reason: 1 True, 0 otherwise.",
    labels=(*CONFIGURATION, "reason"),
)
PODS: Final = Figure(
    name=f"{_PREFIX}_configuration_pods",
    help="Pods that are attached to the configuration, and those of them that have a working "
    "tunnel (state: attached, connected).",
    labels=(*CONFIGURATION, "state"),
)
GATEWAYS: Final = Figure(
    name=f"{_PREFIX}_configuration_gateways",
    help="Gateway nodes that the configuration's status lists, and those of them that serve it "
    "(state: listed, ready).",
    labels=(*CONFIGURATION, "state"),
)
ADDRESSES: Final = Figure(
    name=f"{_PREFIX}_configuration_addresses",
    help="IPv4 addresses of the configuration's prefix, by state: used (a gateway has it) or free.",
    labels=(*CONFIGURATION, "state"),
)
FIGURES: Final = (
    LEADER,
    QUEUE,
    CACHE_AGE,
    IS_READY,
    IS_DEGRADED,
    PODS,
    GATEWAYS,
    ADDRESSES,
)


@dataclass(slots=True)
class Figures:
    """Where the figures are: the parts of the process register here as they begin."""

    configurations: Callable[[], Iterable[StaticGatewayConfiguration]] = tuple
    ready: Callable[[], Mapping[str, int]] = dict
    """By a configuration's UID, the gateway nodes that serve it."""
    leading: Callable[[], bool] = lambda: False
    queues: dict[str, WorkQueue[Any]] = field(default_factory=dict)
    ages: Callable[[], Mapping[str, float]] = dict
    """By kind of object, seconds since the API server was heard of."""

    def snapshot(self) -> Snapshot:
        """For a scrape: read at that moment, so that what is gone has no series."""
        return Snapshot(FIGURES, self._read)

    def stalled(self, limit: float) -> str | None:
        """The pass that has run for more than ``limit`` seconds, in words; None: none has."""
        found = (queue.stalled(limit) for queue in self.queues.values())
        return next(filter(None, found), None)

    def _read(self) -> Iterator[Sample]:
        yield LEADER(self.leading())
        for work, queue in self.queues.items():
            yield QUEUE(len(queue), work)
        for resource, age in self.ages().items():
            yield CACHE_AGE(age, resource)
        ready = self.ready()
        for sgc in self.configurations():
            yield from self._of(sgc, ready.get(sgc.metadata.uid, 0))

    def _of(self, sgc: StaticGatewayConfiguration, ready: int) -> Iterator[Sample]:
        labels = sgc.metadata.namespace, sgc.metadata.name
        status = sgc.status
        for figure, kind in ((IS_READY, READY), (IS_DEGRADED, DEGRADED)):
            condition = find(status.conditions, kind)
            truth, reason = (condition.status, condition.reason) if condition else ("", "")
            yield figure(truth == "True", *labels, reason)
        yield PODS(status.pods.attached if status.pods else 0, *labels, "attached")
        yield PODS(status.pods.connected if status.pods else 0, *labels, "connected")
        yield GATEWAYS(len(status.gateways), *labels, "listed")
        yield GATEWAYS(ready, *labels, "ready")
        if (size := addresses(status.egress_ip_prefix)) and find(status.conditions, GATEWAYS_READY):
            used = sum(bool(g.public_ip) for g in status.gateways)
            yield ADDRESSES(used, *labels, "used")
            yield ADDRESSES(max(size - used, 0), *labels, "free")


def addresses(prefixes: str) -> int:
    """How many IPv4 addresses the prefix holds, the first of them: while it is exchanged, the old
    one follows the new. 0 for private addresses, which are no prefix."""
    for text in prefixes.split(","):
        if "/" in text and ":" not in text:
            try:
                return ipaddress.IPv4Network(text).num_addresses
            except ValueError:
                continue
    return 0


def timed(
    work: str, handler: Callable[[K], Awaitable[float | None]]
) -> Callable[[K], Awaitable[float | None]]:
    """``handler``; observes each call."""

    async def handle(key: K) -> float | None:
        began, result = time.monotonic(), "error"
        try:
            again = await handler(key)
            result = "done"
            return again
        finally:
            RECONCILE_SECONDS.labels(work, result).observe(time.monotonic() - began)

    return handle
