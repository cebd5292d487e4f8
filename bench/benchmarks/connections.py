"""New connections a second through one gateway, and how long each takes to be answered.

TCP: from SYN to SYN-ACK, then closed by RST. UDP: the first datagram of a new flow until its echo.
Three ways, in turn within each round: ``gateway`` and ``bare_wireguard`` and ``plain_veth`` (see
``throughput``) with one pod; then the gateway alone with more pods. The gateway's limits for one
pod (``connections_per_pod``, ``connection_rate``) are off: they would be what is measured.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.compare import samples as comparable
from bench.errors import BenchError
from bench.figures import table
from bench.machine import say
from bench.options import Options
from bench.place import byhand
from bench.place.site import DESTINATION, LeanPod, Site, answering, site

_KINDS: Final = ("tcp", "udp")
_AT_ONCE: Final = 64
"""Connections that wait for their answer at any time."""
_REST: Final = 1.0
_NO_LIMITS: Final = {
    "EGRESS_GATEWAY_CONNECTIONS_PER_POD": "0",
    "EGRESS_GATEWAY_CONNECTION_RATE": "0",
    "EGRESS_GATEWAY_CONNECTION_SHARE": "0",
}
_PER_NODE: Final = 220

Figures = dict[str, float]
Ways = dict[str, list[LeanPod]]
Samples = dict[str, dict[str, list[Figures]]]
"""By kind and way (``gateway_100`` for 100 pods), a round each."""


async def run(options: Options) -> dict[str, Any]:
    more = sorted(count for count in options.connection_pods if count > 1)
    workers = max(2, -(-max(more, default=1) // _PER_NODE) + 1)
    async with (
        site(workers=workers, gateways=1, gateway_settings=_NO_LIMITS) as lab,
        answering(lab),
    ):
        ways = {name: [pod] for name, pod in (await byhand.ways(lab)).items()}
        samples: Samples = {kind: {} for kind in _KINDS}
        await _rounds(lab, ways, options, samples)
        pods = list(ways["gateway"])
        for count in more:
            pods += await _more(lab, count - len(pods))
            await _rounds(lab, {f"gateway_{count}": pods}, options, samples)
        return result(options, samples)


async def _more(lab: Site, count: int) -> list[LeanPod]:
    """Further pods, none on the node of the hand-made gateway, whose way must stay as it was."""
    say(f"connections: attaching {count} more pods")
    nodes = [lab.workers[0], *lab.workers[2:]]
    pods = await lab.make_pods(count, stem=f"more{count}", nodes=nodes)
    await lab.attach_all(pods)
    return pods


async def _rounds(lab: Site, ways: Ways, options: Options, samples: Samples) -> None:
    for number in range(options.rounds + 1):
        for kind in _KINDS:
            for way in byhand.turned(ways, number):
                # The first round warms up: pages, connection tracking, Go's garbage collector.
                found = await _round(
                    lab, way, ways[way], kind, options.stream_seconds if number else 1
                )
                if number:
                    samples[kind].setdefault(way, []).append(found)
        if number:
            last = {w: samples["tcp"][w][-1]["per_second"] for w in ways}
            say(f"connections: round {number} of {options.rounds}: TCP, a second: {last}")


async def _round(lab: Site, way: str, pods: list[LeanPod], kind: str, seconds: int) -> Figures:
    by_node: dict[str, list[str]] = {}
    for pod in pods:
        by_node.setdefault(pod.node, []).append(pod.name)
    at_once = max(_AT_ONCE // len(by_node), 1)
    programs = {node: await lab.program(node) for node in by_node}
    wrong = await lab.wrong_packets()
    before = _busy()
    found = await asyncio.gather(
        *(
            programs[node].call(
                "open",
                pods=names,
                destination=DESTINATION,
                kind=kind,
                seconds=seconds,
                at_once=at_once,
            )
            for node, names in by_node.items()
        )
    )
    used = _busy() - before
    await asyncio.sleep(_REST)
    opened = sum(one["opened"] for one in found)
    if not opened:
        raise BenchError(f"connections: no {kind} flow of {way} was answered")
    return {
        "per_second": round(opened / seconds),
        "per_cpu_second": round(opened / used),
        "failed": sum(one["unanswered"] for one in found),
        "p50_ms": max(one["p50_ms"] for one in found),
        "p99_ms": max(one["p99_ms"] for one in found),
        # The other ways leave by their node's address.
        "wrong": await lab.wrong_packets() - wrong if way.startswith("gateway") else 0,
    }


def _busy() -> float:
    """Seconds that all processors of this machine have worked, interrupts included (proc(5))."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _idle, _wait, hard, soft, stolen = map(int, fields)
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + hard + soft + stolen) / ticks


def result(options: Options, samples: Samples) -> dict[str, Any]:
    """Medians over the rounds, and of the rounds' own ratios."""

    ratios = {
        kind: [
            ours["per_second"] / bare["per_second"]
            for ours, bare in zip(ways["gateway"], ways["bare_wireguard"], strict=True)
        ]
        for kind, ways in samples.items()
    }
    wrong = sum(
        one["wrong"] for ways in samples.values() for found in ways.values() for one in found
    )

    return {
        "rounds": options.rounds,
        "seconds": options.stream_seconds,
        "at_once": _AT_ONCE,
        "wrong_address_packets": wrong,
        "ratios_to_bare_wireguard": {k: round(median(v), 3) for k, v in ratios.items()},
        "samples": {
            f"{kind} to bare": comparable("higher", values) for kind, values in ratios.items()
        },
        **{
            kind: {
                way: {key: median(one[key] for one in found) for key in found[0]}
                | {"all_per_second": [one["per_second"] for one in found]}
                for way, found in ways.items()
            }
            for kind, ways in samples.items()
        },
    }


def shown(result: dict[str, Any]) -> str:
    columns = ("per_second", "per_cpu_second", "p50_ms", "p99_ms", "failed")
    rows = [
        (f"{kind}, {way}", *(found[c] for c in columns))
        for kind in _KINDS
        for way, found in result[kind].items()
    ]
    head = ("medians", "a second", "a CPU second", "p50 ms", "p99 ms", "failed")
    ratios = ", ".join(f"{k} {r}" for k, r in result["ratios_to_bare_wireguard"].items())
    return (
        f"{table(head, rows)}\n\nthrough the gateway against bare WireGuard: {ratios}; "
        f"packets from a wrong address: {result['wrong_address_packets']}"
    )
