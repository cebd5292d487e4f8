"""How long pods take to start, and to leave a lost gateway, while all gateways are flooded.

The node agent, the tunnels and the CNI chain are the shipped ones; two gateways are WireGuard
interfaces alone, without the ruleset by which ours refuse and count such packets, so that WireGuard
and the agent have to bear them. The flood are initiations with a valid mac1, for which the server's
public key is enough. Half of the pods lose their gateway. Same again without a flood.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any, Final

from bench.errors import BenchError
from bench.figures import spread, table
from bench.machine import say
from bench.options import Options

_LIMIT: Final = 280.0
"""Seconds after which a run is given up."""
_SPREAD: Final = ("p50", "p99", "max")


async def run(options: Options) -> dict[str, Any]:
    found = {}
    for under in ("nothing", "flood"):
        measured = await asyncio.to_thread(_play, options.flood_pods, under)
        found[under] = {
            "pods": len(measured["attach"]),
            "attach": spread(measured["attach"], *_SPREAD),
            "moved": len(measured["failover"]),
            "failover": spread(measured["failover"], *_SPREAD),
            "initiations_per_second": measured["initiations"],
        }
        say(f"flood: under {under}: {found[under]}")
    return found


def _play(pods: int, under: str) -> dict[str, Any]:
    box = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
    command = [*box, sys.executable, "-m", "tests.node.world", "figures", str(pods), under]
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
        (what, under, *(found[what][f"{name}_ms"] for name in _SPREAD))
        for what in ("attach", "failover")
        for under in ("nothing", "flood")
        if (found := result[under])
    ]
    rate = result["flood"]["initiations_per_second"]
    return (
        table(("", "under", *(f"{name} ms" for name in _SPREAD)), rows)
        + f"\n\nflood: {rate:,} initiations a second to two gateways together"
    )
