"""``python -m tests.storms``: storms by seed, some side by side; failing ones are shrunk.

    python -m tests.storms --seeds 0-9            # ten storms
    python -m tests.storms --seeds 3,7 --kinds agent_killed,power_cut
    python -m tests.storms --events '[…]'         # one storm, as a shrunk one is printed
    python -m tests.storms --each                 # one of each kind: how long each takes to be over

Each storm is a process of its own with a lab of its own. The last line sums up; exit code 1 when
one of them failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from dataclasses import asdict
from typing import Any

from tests.storms.ledger import SETTLE
from tests.storms.run import Options, Outcome, ridden
from tests.storms.script import SECONDS, WRITERS, Event, Script, dumped, loaded, written
from tests.storms.shrink import shrunk


def main() -> None:
    options = _parser().parse_args()
    if options.one:
        outcome = asyncio.run(_one(options))
        print(json.dumps(asdict(outcome)))
        sys.exit(1 if outcome.problems else 0)
    sys.exit(asyncio.run(_all(options)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.storms", description=__doc__)
    parser.add_argument("--seeds", default="0-9", help="as 3,7 or 0-9")
    parser.add_argument("--events", default="", help="a script in place of seeds, as JSON")
    parser.add_argument("--each", action="store_true", help="one storm of each kind of event alone")
    parser.add_argument("--kinds", default="", help="these kinds of events alone")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of a storm")
    parser.add_argument("--settle", type=float, default=SETTLE, help="seconds to act on a change")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds to be well again")
    parser.add_argument("--patience", type=float, default=40.0, help="seconds to leave nothing")
    parser.add_argument("--beside", type=int, default=2, help="storms side by side")
    parser.add_argument("--shrink", type=int, default=0, help="trials to shrink a failing storm")
    parser.add_argument("--quick", action="store_true", help="packets and convergence alone")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    return parser


async def _one(options: argparse.Namespace) -> Outcome:
    say = lambda text: print(f"{options.one}: {text}", file=sys.stderr, flush=True)  # noqa: E731
    asked = Options(
        settle=options.settle,
        limit=options.limit,
        quick=options.quick,
        patience=options.patience,
        say=say,
    )
    return await ridden(options.one, loaded(options.events), asked)


def _scripts(options: argparse.Namespace) -> dict[str, Script]:
    kinds = tuple(filter(None, options.kinds.split(",")))
    if options.events:
        return {"events": loaded(options.events)}
    if options.each:
        return {kind: alone(kind) for kind in kinds or WRITERS}
    seeds = [n for part in options.seeds.split(",") for n in _range(part)]
    return {f"seed {n}": written(n, seconds=options.seconds, kinds=kinds) for n in seeds}


def _range(part: str) -> range:
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)


def alone(kind: str, *, seed: int = 0) -> Script:
    """A storm of three events of one kind."""
    return written(seed + sum(map(ord, kind)), seconds=6.0, kinds=(kind,))[:3]


async def _all(options: argparse.Namespace) -> int:
    scripts, free = _scripts(options), asyncio.Semaphore(options.beside)
    outcomes: dict[str, Outcome] = {}

    async def storm(name: str, script: Script) -> None:
        async with free:
            outcomes[name] = await _apart(script, options)
            _tell(name, script, outcomes[name])
            if outcomes[name].problems and options.shrink:
                few = await _shrunk(script, outcomes[name], options)
                print(f"{name}: fewest events that fail:")
                print("".join(f"    {event}\n" for event in few), end="")
                print(f"    python -m tests.storms --events '{dumped(few)}'", flush=True)

    began = time.monotonic()
    await asyncio.gather(*(storm(*item) for item in scripts.items()))
    return _summed_up(scripts, outcomes, time.monotonic() - began)


async def _apart(script: Script, options: argparse.Namespace) -> Outcome:
    """The storm in a process of its own."""
    command = [sys.executable, "-m", "tests.storms", "--events", dumped(script)]
    command += ["--one", f"storm-{os.getpid()}-{random.randrange(16**6):06x}"]
    for name in ("settle", "limit", "patience"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--quick"] if options.quick else []
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        said, words = await process.communicate()
    except asyncio.CancelledError:
        process.terminate()
        raise
    try:
        return Outcome(**json.loads(said.decode().splitlines()[-1]))
    except (ValueError, IndexError, TypeError):
        return Outcome(problems=[f"no outcome: {words.decode(errors='replace')[-2000:]}"])


async def _shrunk(script: Script, outcome: Outcome, options: argparse.Namespace) -> Script:
    kinds = {_kind(problem) for problem in outcome.problems}

    async def fails(candidate: Script) -> bool:
        # A leak shows in packets: nothing else need be waited for.
        options.quick = kinds <= {"wrong address"}
        seen = await _apart(_early(candidate), options)
        return bool(kinds & {_kind(problem) for problem in seen.problems})

    return await shrunk(script, fails, trials=options.shrink)


def _kind(problem: str) -> str:
    """What problems of one kind have in common: their first words, without numbers."""
    return " ".join(word for word in problem.split(":")[0].split() if not word[0].isdigit())


def _early(script: Script) -> Script:
    """The same events with the same pauses, without the wait for the first."""
    first = max(0.0, script[0].at - 0.5)
    return tuple(Event(round(e.at - first, 1), e.kind, e.subject, e.how) for e in script)


def _tell(name: str, script: Script, outcome: Outcome) -> None:
    verdict = "FAILED" if outcome.problems else "passed"
    print(
        f"{name}: {verdict}: {len(script)} events, {outcome.packets} packets, {outcome.wrong} "
        f"wrong, well after {outcome.converged:.1f} s; {outcome.seconds}",
        flush=True,
    )
    for problem in outcome.problems:
        print(f"    {problem[:1500]}", flush=True)
    if outcome.problems:
        print("".join(f"      {event}\n" for event in script), end="")
        print("".join(f"    | {line}\n" for line in outcome.evidence), end="", flush=True)


def _summed_up(scripts: dict[str, Script], outcomes: dict[str, Outcome], seconds: float) -> int:
    failed = sorted(name for name, outcome in outcomes.items() if outcome.problems)
    slowest: dict[str, float] = {}
    for name, outcome in outcomes.items():
        for kind in {event.kind for event in scripts[name]}:
            slowest[kind] = max(slowest.get(kind, 0.0), round(outcome.converged, 1))
    print(f"longest time to be well, by kind of event in the storm: {slowest}")
    total: dict[str, Any] = {
        "storms": len(outcomes),
        "failed": failed,
        "packets": sum(o.packets for o in outcomes.values()),
        "wrong": sum(o.wrong for o in outcomes.values()),
        "seconds": round(seconds),
    }
    print(json.dumps(total), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    main()
