"""How long pods take to start, and to leave a lost gateway, while all gateways are flooded.

The flood are initiations with a valid mac1, for which the server's public key is enough; some 7,000
a second to each of two gateways. Half of the pods lose their gateway. Same again without a flood.

``shipped``: everything as users have it. The flood comes from a plain pod that the node masquerades
as itself, so that gateways cannot tell it from the node's tunnels; the pods are on that node and on
another. ``bare``: gateways are WireGuard interfaces alone, without the ruleset by which ours refuse
and count such packets, so that WireGuard and the agent have to bear them.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any, Final

from bench.benchmarks.failover import Tally, lose
from bench.errors import BenchError
from bench.figures import spread, table
from bench.machine import say
from bench.options import Options
from bench.place.losses import LOSSES
from bench.place.site import LeanPod, Site, answering, site

_LIMIT: Final = 280.0
"""Seconds after which a run is given up."""
_SPREAD: Final = ("p50", "p99", "max")
_UNDER: Final = {"nothing": 0, "flood": 7000}
"""Initiations a second to each gateway."""
_AT_ONCE: Final = 2
"""Pods that start at a time."""
_MASQUERADED: Final = """nft -f - <<'END'
table ip bench {
  chain post {
    type nat hook postrouting priority srcnat
    ip saddr ADDRESS oifname "eth0" udp dport 6000 masquerade
  }
}
END"""
_WINDOW: Final = 20.0
"""Seconds in which an outage must end to be counted as ended."""


async def run(options: Options) -> dict[str, Any]:
    return {"shipped": await _shipped(options), "bare": await _bare(options)}


def _figures(
    attach: list[float], failover: list[float], initiations: int, *, where: str, under: str
) -> dict[str, Any]:
    found = {
        "pods": len(attach),
        "attach": spread(attach, *_SPREAD),
        "moved": len(failover),
        "failover": spread(failover, *_SPREAD),
        "initiations_per_second": initiations,
    }
    say(f"flood: {where}, under {under}: {found}")
    return found


async def _shipped(options: Options) -> dict[str, Any]:
    async with site(workers=2) as lab, answering(lab):
        return {under: await _in_lab(lab, options.flood_pods, under) for under in _UNDER}


async def _in_lab(lab: Site, count: int, under: str) -> dict[str, Any]:
    node = lab.workers[0]
    program = await lab.program(node)
    if under == "flood":
        (rogue,) = await lab.make_pods(1, stem="rogue", nodes=[node], annotated=False)
        await lab.attach(rogue)
        await lab.run(node, _MASQUERADED.replace("ADDRESS", rogue.address))
        status = (await lab.configuration())["status"]
        await program.call(
            "flood",
            pod=rogue.name,
            public_key=status["gatewayServerProfile"]["publicKey"],
            addresses=[gateway["primaryIp"] for gateway in status["gateways"]],
            rate=_UNDER[under],
        )
    pods = await lab.make_pods(count, stem=under, nodes=lab.workers)
    turn, attached, tally = asyncio.Semaphore(_AT_ONCE), [], Tally()

    async def start(pod: LeanPod) -> None:
        async with turn:
            attached.append((await lab.attach(pod))["seconds"])

    await asyncio.gather(*map(start, pods))
    await lose(lab, LOSSES["power_cut"], pods, "datagrams", tally, window=_WINDOW)
    rate = 0
    if under == "flood":
        rate = (await program.call("ebb"))["initiations_per_second"]
    for pod in pods:
        await lab.detach(pod)
    found = _figures(attached, tally.outages, rate, where="shipped", under=under)
    return {**found, "unrecovered": tally.unrecovered, "wrong_packets": tally.wrong_packets}


async def _bare(options: Options) -> dict[str, Any]:
    found = {}
    for under, rate in _UNDER.items():
        seen = await asyncio.to_thread(_play, options.flood_pods, rate)
        found[under] = _figures(
            seen["attach"], seen["failover"], seen["initiations"], where="bare", under=under
        )
    return found


def _play(pods: int, rate: int) -> dict[str, Any]:
    box = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
    command = [*box, sys.executable, "-m", "tests.node.world", "figures", str(pods), str(rate)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"pods are not attached after {_LIMIT:g} s") from error
    if done.returncode:
        raise BenchError(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def shown(result: dict[str, Any]) -> str:
    rows = [
        (where, what, under, *(found[what][f"{name}_ms"] for name in _SPREAD))
        for where in ("shipped", "bare")
        for what in ("attach", "failover")
        for under in _UNDER
        if (found := result[where][under])
    ]
    rates = ", ".join(
        f"{where} {result[where]['flood']['initiations_per_second']:,}"
        for where in ("shipped", "bare")
    )
    return (
        table(("gateways", "", "under", *(f"{name} ms" for name in _SPREAD)), rows)
        + f"\n\ninitiations a second to two gateways together: {rates}"
    )
