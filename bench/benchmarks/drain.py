"""How many of a thousand long connections survive when a gateway goes by plan.

Pods hold connections open through the gateway that is to go, and use each once a second. The
departure is announced; the connections have ten seconds to finish, and are closed by their clients;
then the gateway goes. One that answered to the end has survived. ``kill`` is there for contrast.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any, Final

from bench.benchmarks.failover import by_node, served
from bench.errors import BenchError
from bench.figures import milliseconds, table
from bench.machine import say
from bench.options import Options
from bench.place.departures import DEPARTURES, Departure
from bench.place.site import DESTINATION, LeanPod, Site, site

_PODS: Final = 20
_PERIOD: Final = 1.0
_FINISH: Final = 10.0
"""Seconds that connections go on after the announcement, and need to finish."""
_GRACE: Final = 15.0
"""Seconds; ``drain_grace`` of the node agents, shipped with 60. A second drain waits for it."""
_SETTLE: Final = 15.0


async def run(options: Options) -> dict[str, Any]:
    unknown = set(options.departures) - DEPARTURES.keys()
    if unknown:
        raise BenchError(f"unknown departures: {sorted(unknown)}; there are: {sorted(DEPARTURES)}")
    async with site(
        workers=2,
        node_settings={
            "EGRESS_GATEWAY_DRAIN_GRACE": str(_GRACE),
            "EGRESS_GATEWAY_HOLD_DOWN": "0.5",
        },
    ) as lab:
        pods = await lab.make_pods(_PODS, stem="pod", nodes=lab.workers)
        await lab.attach_all(pods)
        kinds = {}
        # Scaling in goes first: it takes the pool's last machine, on which pods must be.
        for name, departure in DEPARTURES.items():
            if name in options.departures:
                kinds[name] = await _one(lab, departure, pods, options.connections)
        return {"connections": options.connections, "finish_seconds": _FINISH, "kinds": kinds}


async def _one(lab: Site, departure: Departure, pods: list[LeanPod], count: int) -> dict[str, Any]:
    by_gateway = await served(lab, pods)
    counted = Counter(by_gateway.values())
    victim = max(sorted(counted), key=lambda gateway: counted[gateway])
    if departure.name == "scale_in":
        victim = max(lab.gateways)
    mine = [pod for pod in pods if by_gateway[pod.name] == victim]
    if not mine:
        raise BenchError(f"{departure.name}: no pod uses {victim}; run the benchmark again")
    say(f"drain: {departure.name}: {count} connections of {len(mine)} pods through {victim}")
    wrong = await lab.wrong_packets()
    await _hold(lab, mine, count)
    began = await _alive(lab, mine, time.monotonic(), patience=_SETTLE)
    event = time.monotonic()
    await departure.announce(lab, victim)
    elsewhere = await _elsewhere(lab, mine, victim, event) if departure.leaves else None
    await asyncio.sleep(max(0.0, event + _FINISH - time.monotonic()))
    survived = await _alive(lab, mine, time.monotonic(), patience=2 * _PERIOD, enough=began)
    for node in by_node(mine):
        await (await lab.program(node)).call("release")
    ended = time.monotonic()
    await departure.end(lab, victim)
    await asyncio.sleep(1.0)
    await departure.back(lab, victim)
    found = {
        "connections": began,
        "survived": survived,
        "lost": began - survived,
        "new_elsewhere_ms": None if elsewhere is None else milliseconds(elsewhere),
        "wrong_address_packets": await lab.wrong_packets() - wrong,
    }
    say(f"drain: {departure.name}: {survived} of {began} survived")
    # The former tunnels must be gone before the same pods can be drained again.
    await asyncio.sleep(max(0.0, ended + _GRACE - time.monotonic()))
    return found


async def _hold(lab: Site, pods: list[LeanPod], count: int) -> None:
    nodes = by_node(pods)
    each = dict(zip(nodes, shares(count, [len(n) for n in nodes.values()]), strict=True))
    for node, names in nodes.items():
        await (await lab.program(node)).call(
            "hold", pods=names, destination=DESTINATION, count=each[node], period=_PERIOD
        )


def shares(count: int, weights: list[int]) -> list[int]:
    """``count`` in parts that are as the weights, with nothing left over. Pure."""
    ends = [count * sum(weights[: i + 1]) // sum(weights) for i in range(len(weights))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


async def _alive(
    lab: Site, pods: list[LeanPod], since: float, *, patience: float, enough: int | None = None
) -> int:
    """Connections that answer what they are asked after ``since``: all have answered, or after
    ``patience`` those that have."""
    programs = [await lab.program(node) for node in by_node(pods)]
    best, quiet = -1, 0
    while True:
        await asyncio.sleep(_PERIOD / 2)
        found = [await program.call("alive", since=since) for program in programs]
        total = sum(int(one["alive"]) for one in found)
        quiet = quiet + 1 if total <= best else 0
        best = max(best, total)
        late = time.monotonic() > since + patience
        if total == enough or (enough is None and quiet >= 3 and best > 0) or late:
            return best


async def _elsewhere(lab: Site, pods: list[LeanPod], victim: str, event: float) -> float | None:
    """Seconds until new connections of every pod use another gateway; None: they do not."""
    while time.monotonic() < event + _FINISH:
        found = await served(lab, pods, attempts=1, strict=False)
        if len(found) == len(pods) and victim not in found.values():
            return time.monotonic() - event
        await asyncio.sleep(0.1)
    return None


def shown(result: dict[str, Any]) -> str:
    columns = ("connections", "survived", "lost", "new_elsewhere_ms", "wrong_address_packets")
    rows = [(name, *(kind[c] for c in columns)) for name, kind in result["kinds"].items()]
    head = ("departure", "connections", "survived", "lost", "new elsewhere, ms", "wrong packets")
    return table(head, rows)
