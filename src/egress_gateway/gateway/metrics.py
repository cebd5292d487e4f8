"""What the gateway agent counts, and what it tells of its configurations at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Counter

from egress_gateway.datapath.linux.connections import PORTS
from egress_gateway.datapath.linux.link import Traffic
from egress_gateway.service.figures import CONFIGURATION, Figure, Sample, Snapshot

_PREFIX: Final = "egress_gateway"
"""And nothing else: ``egress_gateway_gateway_`` would say it twice."""

CLAIMS_REFUSED: Final = Counter(
    f"{_PREFIX}_claims_refused_total",
    "PodEndpoints of served configurations that the gateway refused, because they do not agree "
    "with the cluster.",
    ["reason"],
)
LOG_GAPS: Final = Counter(
    f"{_PREFIX}_connection_log_gaps_total", "Times that the connection log left connections out."
)
INSTRUMENTS: Final = (CLAIMS_REFUSED, LOG_GAPS)

CONFIGURATIONS: Final = Figure(
    name=f"{_PREFIX}_configurations",
    help="Configurations that list this node, by state: ready (the gateway serves them) or problem "
    "(something is wrong).",
    labels=("state",),
)
PEERS: Final = Figure(
    name=f"{_PREFIX}_peers",
    help="Pods that may send through the configuration on this gateway.",
    labels=CONFIGURATION,
)
RECEIVED_BYTES: Final = Figure(
    name=f"{_PREFIX}_received_bytes_total",
    help="Bytes that this gateway received from the configuration's tunnels.",
    labels=CONFIGURATION,
    kind="counter",
)
SENT_BYTES: Final = Figure(
    name=f"{_PREFIX}_sent_bytes_total",
    help="Bytes that this gateway sent back into the configuration's tunnels.",
    labels=CONFIGURATION,
    kind="counter",
)
RECEIVED_PACKETS: Final = Figure(
    name=f"{_PREFIX}_received_packets_total",
    help="Packets that this gateway received from the configuration's tunnels.",
    labels=CONFIGURATION,
    kind="counter",
)
SENT_PACKETS: Final = Figure(
    name=f"{_PREFIX}_sent_packets_total",
    help="Packets that this gateway sent back into the configuration's tunnels.",
    labels=CONFIGURATION,
    kind="counter",
)
DROPPED: Final = Figure(
    name=f"{_PREFIX}_dropped_packets_total",
    help="Packets that this gateway dropped, by reason: stray (not the configuration's address), "
    "refused (destination), "
    "forged_source and forged_destination (another pod or process used a secondary address), "
    "over_limit and over_rate (a pod opened too many connections), "
    "foreign_tunnel (UDP 6000-6999 from no node, or not to the primary address), handshake_rate "
    "(too many handshakes from one node).",
    labels=("reason",),
    kind="counter",
)
PORTS_USED: Final = Figure(
    name=f"{_PREFIX}_ports_used",
    help="Source ports in use towards the destination that uses most.",
    labels=CONFIGURATION,
)
PORTS_LIMIT: Final = Figure(
    name=f"{_PREFIX}_ports_limit", help="Source ports that an address has for one destination."
)
CONNECTIONS: Final = Figure(
    name=f"{_PREFIX}_connections",
    help="Connections that this gateway translates.",
    labels=CONFIGURATION,
)
TABLE: Final = Figure(
    name=f"{_PREFIX}_connection_table_entries", help="Entries of the node's connection table."
)
TABLE_LIMIT: Final = Figure(
    name=f"{_PREFIX}_connection_table_limit",
    help="Entries that the node's connection table may have (nf_conntrack_max).",
)
LIMITED: Final = Figure(
    name=f"{_PREFIX}_limited",
    help="Pods and configurations that have reached their limit of connections on this gateway.",
    labels=("kind",),
)
VETOES: Final = Figure(
    name=f"{_PREFIX}_vetoes",
    help="1: this gateway asks pods to use other gateways. Empty labels: for all configurations.",
    labels=("reason", *CONFIGURATION),
)
VERIFIED: Final = Figure(
    name=f"{_PREFIX}_address_verified",
    help="1: the Internet sees the configuration's packets from this gateway with the right "
    "address; 0: it sees another address, or no server answers. Absent: the gateway has asked no "
    "server.",
    labels=CONFIGURATION,
)
WIREGUARD: Final = Figure(
    name=f"{_PREFIX}_wireguard_info",
    help="1: what makes this node's tunnels: the kernel's WireGuard or wireguard-go, and its "
    "version.",
    labels=("backend", "version"),
)
_OF_AGENT: Final = (
    CONFIGURATIONS,
    PEERS,
    RECEIVED_BYTES,
    SENT_BYTES,
    RECEIVED_PACKETS,
    SENT_PACKETS,
    DROPPED,
    PORTS_USED,
    PORTS_LIMIT,
    CONNECTIONS,
    TABLE,
    TABLE_LIMIT,
    LIMITED,
    VETOES,
    VERIFIED,
)
FIGURES: Final = (*_OF_AGENT, WIREGUARD)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationFigures:
    """What is told of one served configuration."""

    name: str
    """``namespace/name``."""
    peers: int = 0
    traffic: Traffic | None = None
    ports: int = 0
    connections: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayFigures:
    """What is told of the node. ``ready`` and ``problems``: numbers of configurations."""

    ready: int = 0
    problems: int = 0
    configurations: tuple[ConfigurationFigures, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    table: tuple[int, int] | None = None
    limited_pods: int = 0
    limited_configurations: int = 0
    verified: Mapping[str, bool] = field(default_factory=dict)
    """By ``namespace/name``."""
    vetoes: tuple[tuple[str, str], ...] = ()
    """Reason, and the configuration as ``namespace/name`` or empty."""


def snapshot(look: Callable[[], GatewayFigures]) -> Snapshot:
    """``look`` must not block."""
    return Snapshot(_OF_AGENT, lambda: _samples(look()))


def _samples(found: GatewayFigures) -> Iterator[Sample]:
    yield CONFIGURATIONS(found.ready, "ready")
    yield CONFIGURATIONS(found.problems, "problem")
    yield PORTS_LIMIT(PORTS)
    for one in found.configurations:
        yield from _of_configuration(one)
    for reason, packets in found.dropped.items():
        yield DROPPED(packets, reason)
    if found.table is not None:
        yield TABLE(found.table[0])
        yield TABLE_LIMIT(found.table[1])
    yield LIMITED(found.limited_pods, "pod")
    yield LIMITED(found.limited_configurations, "configuration")
    for name, right in found.verified.items():
        yield VERIFIED(right, *_labels(name))
    for reason, name in found.vetoes:
        yield VETOES(1, reason, *_labels(name))


def _of_configuration(one: ConfigurationFigures) -> Iterator[Sample]:
    labels = _labels(one.name)
    yield PEERS(one.peers, *labels)
    yield PORTS_USED(one.ports, *labels)
    yield CONNECTIONS(one.connections, *labels)
    if one.traffic is not None:
        yield RECEIVED_BYTES(one.traffic.received_bytes, *labels)
        yield SENT_BYTES(one.traffic.sent_bytes, *labels)
        yield RECEIVED_PACKETS(one.traffic.received_packets, *labels)
        yield SENT_PACKETS(one.traffic.sent_packets, *labels)


def _labels(name: str) -> tuple[str, str]:
    namespace, _, configuration = name.partition("/")
    return namespace, configuration
