"""One storm from beginning to end, and what is to be said of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.storms.judge import calm
from tests.storms.judge.edge import Edge
from tests.storms.judge.ledger import SETTLE, Ledger, Wrong
from tests.storms.place import Place
from tests.storms.script import Script
from tests.storms.storm import Storm


@dataclass(slots=True)
class Outcome:
    """``problems``: empty if the storm was survived. ``converged``: seconds of calm until all was
    well; ``trouble``: events that had no subject."""

    problems: list[str] = field(default_factory=list)
    wrong: int = 0
    packets: int = 0
    converged: float = 0.0
    trouble: list[str] = field(default_factory=list)
    evidence: list[str] = field(default_factory=list)
    """What those who were not well said of themselves."""
    seconds: dict[str, float] = field(default_factory=dict)
    clean: bool = False
    """Whether all was well and nothing was left behind: the lab can go through another storm."""
    holdings: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Options:
    """``settle``: seconds in which a change has to be acted on. ``limit``: seconds in which all
    has to be well after a storm. ``quick``: no more than packets and convergence. ``patience``:
    seconds in which nothing of ours may be left any more."""

    settle: float = SETTLE
    limit: float = calm.CONVERGED
    quick: bool = False
    patience: float = 40.0
    say: Callable[[str], None] = lambda _: None


async def ridden(place: Place, script: Script, options: Options) -> Outcome:
    """The lab goes through the storm; it may go through another one if it is ``clean`` then."""
    outcome = Outcome()
    stages = _Stages(outcome, options)
    ledger = Ledger(settle=options.settle)
    async with Edge(place.internet) as edge, Storm(place, edge, ledger) as storm:
        await storm.begin()
        _, still = await calm.converged(storm)
        if still:
            outcome.problems = [f"before the storm: {problem}" for problem in still]
            return outcome
        before = await calm.holdings(place)
        stages.done("begun")
        await storm.play(script)
        outcome.trouble = storm.trouble
        stages.done("played")
        outcome.converged, still = await calm.converged(storm)
        if outcome.converged > options.limit:
            waited = f"{outcome.converged:.1f} s after the storm: "
            outcome.problems += [
                waited + p for p in still or [f"well, last of all {storm.last_missing}"]
            ]
        outcome.evidence = await calm.evidence(storm) if still else []
        stages.done("converged")
        if not still and not options.quick:
            await _examined(storm, outcome, stages)
            outcome.problems += calm.grown(before, await calm.holdings(place))
        held = await calm.holdings(place)
        outcome.holdings = {k: asdict(v) for k, v in held.items()}
        await _judged(storm, outcome)
        if not still and not (options.quick and outcome.problems):
            left = await calm.cleared(storm, limit=options.patience)
            outcome.problems += [f"left behind: {one}" for one in left if not options.quick]
            await _judged(storm, outcome)
            outcome.clean = not left and not outcome.problems
            stages.done("cleared")
    return outcome


async def _judged(storm: Storm, outcome: Outcome) -> None:
    """Every packet so far. What was said of them before is said anew."""
    outcome.packets = storm.edge.packets
    outcome.problems = [p for p in outcome.problems if not p.startswith("wrong address")]
    if storm.edge.missed():
        outcome.problems.append(f"{storm.edge.lost} packets were not seen: nothing is proven")
    wrong = storm.ledger.judged(storm.edge.seen())
    outcome.wrong = sum(one.packets for one in wrong)
    outcome.problems += [_words(storm, one) for one in wrong]


async def _examined(storm: Storm, outcome: Outcome, stages: _Stages) -> None:
    since = time.time()
    outcome.problems += await calm.planned(storm.place)
    outcome.problems += await calm.complaints(storm.place, since)
    stages.done("planned")
    outcome.problems += await calm.renewed(storm)
    stages.done("renewed")


def _words(storm: Storm, wrong: Wrong) -> str:
    began = storm.began
    return (
        f"wrong address: {wrong.packets} {wrong.protocol} packets of {wrong.pod} from "
        f"{wrong.source}, {wrong.at - began:.2f} to {wrong.last - began:.2f} s "
        f"{storm.edge.segments(wrong.pod, wrong.source, wrong.at)}".rstrip(" []")
    )


class _Stages:
    """How long each part took."""

    def __init__(self, outcome: Outcome, options: Options) -> None:
        self._outcome, self._say = outcome, options.say
        self._last = time.monotonic()

    def done(self, stage: str) -> None:
        now = time.monotonic()
        self._outcome.seconds[stage] = round(now - self._last, 1)
        self._say(f"{stage} after {now - self._last:.1f} s")
        self._last = now
