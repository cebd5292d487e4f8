"""What a person may ask of a benchmark. Every load is bounded in count and in time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A cluster on paper. ``churn``: pods that come and go in a second."""

    nodes: int = 1000
    pods: int = 10_000
    configurations: int = 1000
    gateways: int = 16
    churn: int = 100
    churn_seconds: int = 20
    rest_seconds: int = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Defaults are what ``make bench`` runs. docs/reference/benchmarks.md says how long each
    takes."""

    attach_pods: int = 200
    losses: int = 10
    """Gateway losses of each kind."""
    kinds: tuple[str, ...] = ("power_cut", "link_cut_one_way", "agent_killed", "internet_cut")
    by_pods: tuple[int, ...] = (1, 100, 1000)
    peers: tuple[int, ...] = (100, 1000, 10_000)
    connections: int = 1000
    """Long connections through a gateway that goes by plan."""
    connection_pods: tuple[int, ...] = (1, 100, 1000)
    """Pods that open new connections through one gateway."""
    departures: tuple[str, ...] = ("scale_in", "cordon", "upgrade", "shutdown", "kill")
    stream_seconds: int = 3
    rounds: int = 5
    """Throughput runs of each path, interleaved."""
    configurations: tuple[tuple[int, int], ...] = ((1, 1), (10, 1), (50, 1), (250, 1), (1000, 4))
    """(configurations, pools)."""
    idle_seconds: int = 150
    flood_pods: int = 20
    """Pods that start under a flood; half of them lose their gateway."""
    fleet: Fleet = Fleet()
    azure_headers: bool = False
    """As in Azure: operations of three seconds, answers without ``Retry-After``, the controller's
    own interval between polls, and what deleting takes."""


def runs(text: str) -> tuple[tuple[int, int], ...]:
    """``1,50,1000x4`` as ((1, 1), (50, 1), (1000, 4)). Raises ``ValueError``."""
    found = []
    for part in filter(None, text.split(",")):
        configurations, _, pools = part.partition("x")
        found.append((int(configurations), int(pools or 1)))
    return tuple(found)


def fleet(text: str) -> Fleet:
    """``1000,10000,1000,16``: nodes, pods, configurations, gateways. Raises ``ValueError``."""
    nodes, pods, configurations, gateways = map(int, text.split(","))
    return Fleet(nodes=nodes, pods=pods, configurations=configurations, gateways=gateways)


def numbers(text: str) -> tuple[int, ...]:
    """``1,100`` as (1, 100); empty for none. Raises ``ValueError``."""
    return tuple(int(part) for part in text.split(",") if part)
