"""Figures of the gateway agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import Gauge

_PEERS: Final = Gauge(
    "egress_gateway_gateway_peers", "Pods that may send through a configuration here", ["config"]
)
_CONFIGURATIONS: Final = Gauge(
    "egress_gateway_gateway_configurations", "Configurations that list this node", ["state"]
)
_DROPPED: Final = Gauge(
    "egress_gateway_gateway_dropped_packets",
    "Packets kept from leaving: stray (not the configuration's address), refused (destination)",
    ["reason"],
)


def peers(name: str, count: int) -> None:
    _PEERS.labels(name).set(count)


def observe(counters: Mapping[str, int], *, ready: int, problems: int) -> None:
    _CONFIGURATIONS.labels("ready").set(ready)
    _CONFIGURATIONS.labels("problem").set(problems)
    for reason, packets in counters.items():
        _DROPPED.labels(reason).set(packets)
