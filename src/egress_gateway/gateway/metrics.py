"""Figures of the gateway agent."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Final

from prometheus_client import Counter, Gauge

from egress_gateway.datapath.linux.connections import PORTS, Use

_PEERS: Final = Gauge(
    "egress_gateway_gateway_peers", "Pods that may send through a configuration here", ["config"]
)
_CONFIGURATIONS: Final = Gauge(
    "egress_gateway_gateway_configurations", "Configurations that list this node", ["state"]
)
_DROPPED: Final = Gauge(
    "egress_gateway_gateway_dropped_packets",
    "Packets dropped: stray (not the configuration's address), refused (destination), "
    "forged_source and forged_destination (a stranger on this node used a secondary address), "
    "over_limit and over_rate (a pod began too many connections), "
    "foreign_tunnel (UDP 6000-6999 from no node), handshake_rate (too many from one node)",
    ["reason"],
)
_PORTS_USED: Final = Gauge(
    "egress_gateway_gateway_ports_used",
    f"Source ports in use towards the destination that has most of them, of {PORTS}",
    ["config"],
)
_CONNECTIONS: Final = Gauge(
    "egress_gateway_gateway_connections", "Connections that are translated here", ["config"]
)
_TABLE: Final = Gauge(
    "egress_gateway_gateway_connection_table", "Entries of the connection table", ["state"]
)
_LIMITED: Final = Gauge(
    "egress_gateway_gateway_limited",
    "Pods and configurations that have all the connections that they may have here",
    ["kind"],
)
CLAIMS_REFUSED: Final = Counter(
    "egress_gateway_gateway_claims_refused_total",
    "PodEndpoints of served configurations that did not agree with the cluster, by reason",
    ["reason"],
)
LOG_GAPS: Final = Counter(
    "egress_gateway_gateway_connection_log_gaps", "Times that connections went by unlogged"
)

WIREGUARD: Final = Gauge(
    "egress_gateway_gateway_wireguard_info",
    "1: what makes this node's tunnels: the kernel's WireGuard or wireguard-go, and its version",
    ["backend", "version"],
)


def wireguard(backend: str, version: str) -> None:
    WIREGUARD.clear()
    WIREGUARD.labels(backend, version).set(1)


def use(name: str, used: Use | None) -> None:
    _PORTS_USED.labels(name).set(used.ports if used else 0)
    _CONNECTIONS.labels(name).set(used.connections if used else 0)


def forget_use(name: str) -> None:
    for gauge in (_PORTS_USED, _CONNECTIONS):
        with contextlib.suppress(KeyError):
            gauge.remove(name)


def table(entries: int, limit: int) -> None:
    _TABLE.labels("used").set(entries)
    _TABLE.labels("limit").set(limit)


def limited(*, pods: int, configurations: int) -> None:
    _LIMITED.labels("pod").set(pods)
    _LIMITED.labels("configuration").set(configurations)


def peers(name: str, count: int) -> None:
    _PEERS.labels(name).set(count)


def observe(counters: Mapping[str, int], *, ready: int, problems: int) -> None:
    _CONFIGURATIONS.labels("ready").set(ready)
    _CONFIGURATIONS.labels("problem").set(problems)
    for reason, packets in counters.items():
        _DROPPED.labels(reason).set(packets)
