"""Churn for a given time on one lab: ``python -m tests.storms.soak --seconds 3600``, ``make soak``.

Round after round a storm without deaths of processes or machines, so that whoever leaks goes on to
do so. After each round users take everything away, nothing may stay, and what our processes and
the kernel hold is written down. In the end the last rounds may hold no more than the first ones,
once warm.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from tests.storms.judge import calm
from tests.storms.judge.edge import Edge
from tests.storms.judge.ledger import SETTLE, Ledger
from tests.storms.place import Place, built
from tests.storms.script import WRITERS, written
from tests.storms.storm import Storm

_DEADLY: Final = ("agent_killed", "power_cut", "scaled", "sandbox_lost")
KINDS: Final = tuple(kind for kind in WRITERS if kind not in _DEADLY)
_ROUND: Final = 20.0
_WARM: Final = 2
"""Rounds after which whatever is made once has been made."""
_SLACK: Final = {"memory": 16 << 20, "descriptors": 4, "threads": 4, "nft": 12, "conntrack": 2000}
"""What may differ between two rounds by chance."""
_COUNTS: Final = """
for n in /proc/1/ns/net /run/netns/*static-egress*; do [ -e "$n" ] && nsenter --net=$n sh -c '
echo "nft $(nft list ruleset | grep -c "")"
echo "conntrack $(cat /proc/sys/net/netfilter/nf_conntrack_count)"'
done
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.storms.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settle", type=float, default=SETTLE)
    options = parser.parse_args()
    problems = asyncio.run(_soaked(options))
    print(json.dumps({"problems": problems}), flush=True)
    sys.exit(1 if problems else 0)


async def _soaked(options: argparse.Namespace) -> list[str]:
    problems: list[str] = []
    held: list[dict[str, int]] = []
    until = time.monotonic() + options.seconds
    async with built(f"soak-{os.getpid()}") as place:
        while time.monotonic() < until or len(held) <= _WARM + 1:
            seed = options.seed + len(held)
            problems += [f"round {len(held)}: {p}" for p in await _round(place, seed, options)]
            held.append(await _held(place))
            print(f"round {len(held) - 1}: {held[-1]}", flush=True)
    return problems + grown(held)


async def _round(place: Place, seed: int, options: argparse.Namespace) -> list[str]:
    """One storm and its end."""
    ledger = Ledger(settle=options.settle)
    async with Edge(place.internet) as edge, Storm(place, edge, ledger) as storm:
        await storm.begin()
        _, still = await calm.converged(storm)
        if still:
            return [f"did not begin: {p}" for p in still]
        await storm.play(written(seed, seconds=_ROUND, kinds=KINDS))
        seconds, still = await calm.converged(storm)
        problems = [f"{seconds:.0f} s after the storm: {p}" for p in still]
        problems += [f"left behind: {p}" for p in await calm.cleared(storm)]
        wrong = ledger.judged(edge.seen())
        return problems + [f"wrong address: {asdict(one)}" for one in wrong]


async def _held(place: Place) -> dict[str, int]:
    found: dict[str, int] = {}
    for component, holding in (await calm.holdings(place)).items():
        found |= {f"{component} {what}": n for what, n in asdict(holding).items()}
    for role in await place.machines():
        for line in (await place.run(role, _COUNTS)).splitlines():
            what, _, number = line.partition(" ")
            key = f"{'gateway' if role.startswith('g') else 'worker'} {what}"
            found[key] = max(found.get(key, 0), int(number))
    return found


def grown(held: Sequence[dict[str, int]]) -> list[str]:
    """What the last third of the rounds holds more of than the first third of the warm ones did,
    each by its least: what comes and goes is no growth."""
    warm = held[_WARM:]
    third = max(1, len(warm) // 3)
    problems = []
    for what in warm[-1] if warm else ():
        before = min(one.get(what, 0) for one in warm[:third])
        after = min(one.get(what, 0) for one in warm[-third:])
        if after > before + _SLACK[what.rpartition(" ")[2]]:
            problems.append(f"{what} grew from {before} to {after} in {len(warm)} rounds")
    return problems


if __name__ == "__main__":
    main()
