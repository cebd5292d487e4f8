"""``python -m tests.storms``: storms by seed, some side by side; failing ones are shrunk.

    python -m tests.storms --seeds 0-9            # ten storms
    python -m tests.storms --seeds 3,7 --kinds agent_killed,power_cut
    python -m tests.storms --events '[…]'         # one storm, as a shrunk one is printed
    python -m tests.storms --each                 # one of each kind: how long each takes to be over

``--beside`` labs, each with a process of its own, go through one storm after another. A lab from
which a storm took nothing and in which it left nothing, which each storm's end proves, goes through
the next one; any other is given up. The last line sums up; exit code 1 when a storm failed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import time
from dataclasses import asdict
from typing import Any

from egress_gateway_lab import host
from tests.storms.judge.ledger import SETTLE
from tests.storms.place import built
from tests.storms.run import Options, Outcome, ridden
from tests.storms.script import KINDS, SECONDS, Event, Script, dumped, loaded, written
from tests.storms.shrink import shrunk


def main() -> None:
    options = _parser().parse_args()
    if options.one:
        asyncio.run(_lab(options))
        return
    try:
        host.require_host(options.kubernetes)
    except host.LabError as error:
        sys.exit(str(error))
    sys.exit(asyncio.run(_all(options)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.storms", description=__doc__)
    parser.add_argument("--seeds", default="0-9", help="as 3,7 or 0-9")
    parser.add_argument("--events", default="", help="a script in place of seeds, as JSON")
    parser.add_argument("--each", action="store_true", help="one storm of each kind of event alone")
    parser.add_argument("--kinds", default="", help="these kinds of events alone")
    parser.add_argument(
        "--kubernetes", choices=KINDS, default="embedded", help="of the labs: `real` as in lab up"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of a storm")
    parser.add_argument("--settle", type=float, default=SETTLE, help="seconds to act on a change")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds to be well again")
    parser.add_argument("--patience", type=float, default=40.0, help="seconds to leave nothing")
    parser.add_argument("--beside", type=int, default=2, help="storms side by side")
    parser.add_argument("--shrink", type=int, default=0, help="trials to shrink a failing storm")
    parser.add_argument("--quick", action="store_true", help="packets and convergence alone")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    return parser


async def _lab(options: argparse.Namespace) -> None:
    """One lab: ``[quick, script]`` on each line of the standard input, an outcome on each of the
    output, until a storm leaves something behind."""
    say = lambda text: print(f"{options.one}: {text}", file=sys.stderr, flush=True)  # noqa: E731
    async with built(options.one, kubernetes=options.kubernetes) as place:
        while line := await asyncio.to_thread(sys.stdin.readline):
            quick, events = json.loads(line)
            asked = Options(
                settle=options.settle,
                limit=options.limit,
                quick=quick,
                patience=options.patience,
                say=say,
            )
            outcome = await ridden(place, loaded(events), asked)
            print(json.dumps(asdict(outcome)), flush=True)
            if not outcome.clean:
                return


def _scripts(options: argparse.Namespace) -> dict[str, Script]:
    kinds = tuple(filter(None, options.kinds.split(",")))
    more: dict[str, Any] = {"kubernetes": options.kubernetes}
    if options.events:
        return {"events": loaded(options.events)}
    if options.each:
        return {kind: alone(kind, **more) for kind in kinds or KINDS[options.kubernetes]}
    seeds = [n for part in options.seeds.split(",") for n in _range(part)]
    more |= {"seconds": options.seconds, "kinds": kinds}
    return {f"seed {n}": written(n, **more) for n in seeds}


def _range(part: str) -> range:
    first, _, last = part.partition("-")
    return range(int(first), int(last or first) + 1)


def alone(kind: str, *, kubernetes: str = "embedded") -> Script:
    """A storm of three events of one kind."""
    seed = sum(map(ord, kind))
    return written(seed, seconds=6.0, kinds=(kind,), kubernetes=kubernetes)[:3]


async def _all(options: argparse.Namespace) -> int:
    scripts = _scripts(options)
    waiting = iter(scripts.items())
    outcomes: dict[str, Outcome] = {}

    async def storms() -> None:
        async with Labs(options) as lab:
            for name, script in waiting:
                outcomes[name] = await lab.ride(script)
                _tell(name, script, outcomes[name])
                if outcomes[name].problems and options.shrink:
                    few = await _shrunk(script, outcomes[name], options, lab)
                    print(f"{name}: fewest events that fail:")
                    print("".join(f"    {event}\n" for event in few), end="")
                    print(f"    python -m tests.storms --events '{dumped(few)}'", flush=True)

    began = time.monotonic()
    await asyncio.gather(*(storms() for _ in range(min(options.beside, len(scripts)))))
    return _summed_up(scripts, outcomes, time.monotonic() - began)


class Labs:
    """One lab after the other: each as long as it is as good as new. An async context manager."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._process: asyncio.subprocess.Process | None = None
        self._words: asyncio.Task[bytes] | None = None
        self.built = 0
        """Labs so far."""

    async def __aenter__(self) -> Labs:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def ride(self, script: Script, *, quick: bool = False) -> Outcome:
        """The script on a lab that is as good as new. Never raises for what a lab does."""
        process = self._process or await self._begin()
        assert process.stdin is not None
        assert process.stdout is not None
        line = json.dumps([quick or self._options.quick, dumped(script)])
        process.stdin.write(line.encode() + b"\n")
        said = await process.stdout.readline()
        try:
            outcome = Outcome(**json.loads(said))
        except (ValueError, TypeError):
            words = await self._end()
            return Outcome(problems=[f"no outcome: {words.decode(errors='replace')[-1400:]}"])
        if not outcome.clean:
            await self._end()
        return outcome

    async def _begin(self) -> asyncio.subprocess.Process:
        options, self.built = self._options, self.built + 1
        command = [sys.executable, "-m", "tests.storms"]
        command += ["--one", f"storm-{os.getpid()}-{random.randrange(16**6):06x}"]
        for name in ("kubernetes", "settle", "limit", "patience"):
            command += [f"--{name}", str(getattr(options, name))]
        pipes = asyncio.subprocess.PIPE
        process = self._process = await asyncio.create_subprocess_exec(
            *command, stdin=pipes, stdout=pipes, stderr=pipes, limit=1 << 24
        )
        assert process.stderr is not None
        # Read all the time, or a lab that says much waits for us.
        self._words = asyncio.create_task(process.stderr.read())
        return process

    async def _end(self) -> bytes:
        """What the lab's process said on its way."""
        process, words = self._process, self._words
        self._process = self._words = None
        if process is None or words is None:
            return b""
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(60):
                return await words
        except TimeoutError:  # the lab dies with its process
            return b"its lab did not end within a minute"
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _shrunk(
    script: Script, outcome: Outcome, options: argparse.Namespace, lab: Labs
) -> Script:
    kinds = {_kind(problem) for problem in outcome.problems}

    async def fails(candidate: Script) -> bool:
        # A leak shows in packets: nothing else need be waited for.
        seen = await lab.ride(_early(candidate), quick=kinds <= {"wrong address"})
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
