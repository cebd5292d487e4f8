"""What the node agent counts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from prometheus_client import Counter, Gauge, Histogram

_PREFIX: Final = "egress_gateway_node"

ATTACHED: Final = Gauge(f"{_PREFIX}_attached_pods", "Pods that this node has attached.")
UNVERIFIED: Final = Gauge(
    f"{_PREFIX}_unverified_pods", "Attached pods whose tunnel has no handshake yet: held back."
)
ATTACH_SECONDS: Final = Histogram(
    f"{_PREFIX}_attach_seconds",
    "From CNI ADD of an annotated pod to its verified tunnel.",
    buckets=(0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1, 2, 5, 10),
)
ATTACH_FAILURES: Final = Counter(
    f"{_PREFIX}_attach_failures_total", "CNI ADDs of annotated pods that were told to try again."
)
MOVES: Final = Counter(f"{_PREFIX}_moves_total", "Tunnels moved to another gateway.")
HELD: Final = Gauge(
    f"{_PREFIX}_held_packets",
    "Packets that a pod's hold has kept from leaving with another address.",
    labelnames=("namespace", "pod"),
)
GATEWAY_USABLE: Final = Gauge(
    f"{_PREFIX}_gateway_usable",
    "1: the gateway answers this node's probes; 0: it is lost.",
    labelnames=("address",),
)
PLUGIN_IN_PLACE: Final = Gauge(
    f"{_PREFIX}_plugin_in_place", "1: the CNI plugin is last in the node's chain."
)
LOCAL_STATE_REBUILT: Final = Counter(
    f"{_PREFIX}_local_state_rebuilt_total",
    "Files and sockets below the run directory that were lost or damaged and were made again.",
    labelnames=("what",),
)
LOCAL_STATE_UNWRITABLE: Final = Gauge(
    f"{_PREFIX}_local_state_unwritable",
    "1: the run directory cannot be written (full or read-only); pods keep what they have.",
)


LINK_DROPPED: Final = Gauge(
    f"{_PREFIX}_link_dropped_packets",
    "Packets that attached pods sent around their hold, dropped at the node's end of their links.",
    labelnames=("reason",),
)
UNGUARDED: Final = Gauge(
    f"{_PREFIX}_unguarded_pods",
    "Attached pods whose node's end cannot be held: raw frames of theirs may leave by the side.",
)


class _Pod(Protocol):
    @property
    def namespace(self) -> str: ...
    @property
    def pod(self) -> str: ...


class _Sandbox(Protocol):
    """What is counted of a sandbox."""

    verified: asyncio.Event
    gone: bool

    @property
    def attachment(self) -> _Pod: ...
    async def held(self) -> int: ...


async def observe(sandboxes: Sequence[_Sandbox]) -> None:
    """Takes stock of the attached pods."""
    ATTACHED.set(len(sandboxes))
    UNVERIFIED.set(sum(not sandbox.verified.is_set() for sandbox in sandboxes))
    HELD.clear()
    for sandbox in sandboxes:
        state = sandbox.attachment
        held = await sandbox.held()
        if not sandbox.gone:
            HELD.labels(state.namespace, state.pod).set(held)


def observe_links(*, unguarded: int, dropped: Mapping[str, int]) -> None:
    """Takes stock of the node's ends of pods' links. ``dropped``: packets by reason."""
    UNGUARDED.set(unguarded)
    for reason, packets in dropped.items():
        LINK_DROPPED.labels(reason).set(packets)
