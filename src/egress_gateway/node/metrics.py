"""What the node agent counts, and what it tells of its pods at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

import msgspec
from prometheus_client import Counter, Gauge, Histogram

from egress_gateway.service.figures import CONFIGURATION, Figure, Sample, Snapshot, Tally

_PREFIX: Final = "egress_gateway_node"

ATTACH_SECONDS: Final = Histogram(
    f"{_PREFIX}_attach_seconds",
    "Seconds from CNI ADD of an annotated pod to its verified tunnel.",
    buckets=(0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 10),
)
ATTACH_FAILURES: Final = Counter(
    f"{_PREFIX}_attach_failures_total",
    'CNI ADDs of annotated pods that ended with "try again later".',
)
MOVES: Final = Counter(
    f"{_PREFIX}_moves_total",
    "Tunnels that the agent moved, by reason: lost (the gateway was lost), drained (the gateway "
    "asked pods to leave) or rotated (to another key pair of the same gateway).",
    ["reason"],
)
FAILOVER_SECONDS: Final = Histogram(
    f"{_PREFIX}_failover_seconds",
    "Seconds without a verified tunnel: from the doubt about it, or its move, to the next "
    "handshake.",
    buckets=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30, 60, 300),
)
PLUGIN_IN_PLACE: Final = Gauge(
    f"{_PREFIX}_plugin_in_place", "1: the CNI plugin is last in the node's chain."
)
LOCAL_STATE_REBUILT: Final = Counter(
    f"{_PREFIX}_local_state_rebuilt_total",
    "Lost or damaged files and sockets below the run directory that the agent made again.",
    labelnames=("what",),
)
LOCAL_STATE_UNWRITABLE: Final = Gauge(
    f"{_PREFIX}_local_state_unwritable",
    "1: the agent cannot write to the run directory (full or read-only); pods keep what they have.",
)
LINK_DROPPED: Final = Counter(
    f"{_PREFIX}_link_dropped_packets_total",
    "Packets that the node dropped, by reason: at its end of attached pods' links, from sources "
    "that cannot be there (forged_source) or around the pod's hold (around_gateway); and of any "
    "pods to the WireGuard ports of gateways (foreign_tunnel).",
    labelnames=("reason",),
)
UNGUARDED: Final = Gauge(
    f"{_PREFIX}_unguarded_pods",
    "Attached pods whose link the node cannot guard: their raw frames may bypass the gateway.",
)
INSTRUMENTS: Final = (
    ATTACH_SECONDS,
    ATTACH_FAILURES,
    MOVES,
    FAILOVER_SECONDS,
    PLUGIN_IN_PLACE,
    LOCAL_STATE_REBUILT,
    LOCAL_STATE_UNWRITABLE,
    LINK_DROPPED,
    UNGUARDED,
)

PODS: Final = Figure(
    name=f"{_PREFIX}_pods",
    help="Attached pods by gateway (its node; empty without a tunnel) and state: Connected, Lost "
    "(the tunnel worked before, but does not now) or Waiting (it has not worked yet).",
    labels=(*CONFIGURATION, "gateway", "state"),
)
HELD: Final = Figure(
    name=f"{_PREFIX}_held_packets_total",
    help="Packets that pods' holds have dropped, because they would have bypassed the gateway.",
    labels=CONFIGURATION,
    kind="counter",
)
GATEWAY_UP: Final = Figure(
    name=f"{_PREFIX}_gateway_up",
    help="1: the gateway's machine answers this node's probes; 0: it is lost.",
    labels=("gateway",),
)
GATEWAY_REACHED: Final = Figure(
    name=f"{_PREFIX}_gateway_reached",
    help="1: tunnels of this node to the gateway are answered, of pods or of trials, and full-size "
    "packets pass; 0: not those of some configuration. None before the first trial.",
    labels=("gateway",),
)
PROBES: Final = Figure(
    name=f"{_PREFIX}_gateway_probes_total",
    help="Probes (ICMP echoes) that this node has sent to the gateway's machine.",
    labels=("gateway",),
    kind="counter",
)
ANSWERS: Final = Figure(
    name=f"{_PREFIX}_gateway_probe_answers_total",
    help="Probes that the gateway's machine has answered.",
    labels=("gateway",),
    kind="counter",
)
ROUND_TRIP: Final = Figure(
    name=f"{_PREFIX}_gateway_round_trip_seconds",
    help="Seconds that the last answered probe took.",
    labels=("gateway",),
)
WIREGUARD: Final = Figure(
    name=f"{_PREFIX}_wireguard_info",
    help="1: what makes this node's tunnels: the kernel's WireGuard or wireguard-go, and its "
    "version.",
    labels=("backend", "version"),
)
_OF_AGENT: Final = (PODS, HELD, GATEWAY_UP, GATEWAY_REACHED, PROBES, ANSWERS, ROUND_TRIP)
FIGURES: Final = (*_OF_AGENT, WIREGUARD)


class Probed(Protocol):
    """What is told of one gateway's machine."""

    @property
    def usable(self) -> bool:
        """Whether pods may choose it."""
        ...

    @property
    def probes(self) -> int:
        """How many were sent since the agent started."""
        ...

    @property
    def answers(self) -> int:
        """How many of them were answered."""
        ...

    @property
    def round_trip(self) -> float | None:
        """Seconds that the last answered one took; None: none was."""
        ...


class PodFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of one attached pod."""

    namespace: str
    configuration: str
    gateway: str
    state: str


class HeldPackets:
    """Packets that holds kept back, by configuration: pods come and go, the count stays while the
    configuration has pods here."""

    def __init__(self) -> None:
        self._tally = Tally(HELD)
        self._seen: dict[str, int] = {}

    def note(self, pod: str, packets: int, *labels: str) -> None:
        """``packets`` that the hold of ``pod`` has counted so far."""
        before = self._seen.get(pod, 0)
        # A hold that was made anew counts from nothing.
        self._tally.add(packets - before if packets >= before else packets, *labels)
        self._seen[pod] = packets

    def keep(self, pods: Iterable[str], labels: Iterable[tuple[str, ...]]) -> None:
        """Forgets everything else."""
        known, there = set(pods), set(labels)
        self._seen = {pod: n for pod, n in self._seen.items() if pod in known}
        self._tally.keep(lambda found: found in there)

    def samples(self) -> Iterator[Sample]:
        """Counts that never fall, though pods go."""
        yield from self._tally.samples()


def snapshot(
    pods: Callable[[], Sequence[PodFigures]],
    gateways: Callable[[], Mapping[str, Probed]],
    reached: Callable[[], Mapping[str, bool]],
    held: HeldPackets,
) -> Snapshot:
    """``gateways`` and ``reached`` by their nodes' names."""

    def read() -> Iterator[Sample]:
        for pod in pods():
            yield PODS(1, pod.namespace, pod.configuration, pod.gateway, pod.state)
        for name, probed in gateways().items():
            yield GATEWAY_UP(probed.usable, name)
            yield PROBES(probed.probes, name)
            yield ANSWERS(probed.answers, name)
            if probed.round_trip is not None:
                yield ROUND_TRIP(probed.round_trip, name)
        for name, answers in reached().items():
            yield GATEWAY_REACHED(answers, name)
        yield from held.samples()

    return Snapshot(_OF_AGENT, read)


class LinkDrops:
    """Counts what the node's ends of pods' links dropped. The kernel's counts outlive the agent,
    and begin anew with their table."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def note(self, dropped: Mapping[str, int]) -> None:
        """``dropped``: what the kernel has counted so far, by reason."""
        for reason, packets in dropped.items():
            before = self._seen.get(reason, 0)
            LINK_DROPPED.labels(reason).inc(packets - before if packets >= before else packets)
        self._seen |= dropped
