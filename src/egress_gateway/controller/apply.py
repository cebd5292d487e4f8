"""A plan carried out: stage after stage, the steps of a stage at the same time.

What follows a refusal for the sake of the same configurations is skipped: it depends on what
failed, and the next look at the world plans anew. Nothing is remembered here; being cut off
anywhere is an ordinary state to observe.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from egress_gateway.cloud.errors import CloudError
from egress_gateway.cloud.protocol import Cloud
from egress_gateway.controller.planning.plan import Plan
from egress_gateway.controller.planning.wanted import Step

AT_ONCE: Final = 32
"""Writes in flight: enough to hide Azure's latency, few enough for its write quota."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A step that failed, and why."""

    step: Step
    error: CloudError


async def apply(cloud: Cloud, plan: Plan) -> list[Refusal]:
    """Carries out ``plan``; answers what was refused."""
    gate = asyncio.Semaphore(AT_ONCE)
    refusals: list[Refusal] = []
    for stage in plan.stages:
        hurt = {uid for refusal in refusals for uid in refusal.step.uids}
        steps = [step for step in stage if not (hurt & step.uids)]
        outcomes = await asyncio.gather(*(_try(cloud, step, gate) for step in steps))
        refusals += [refusal for refusal in outcomes if refusal]
    return refusals


async def _try(cloud: Cloud, step: Step, gate: asyncio.Semaphore) -> Refusal | None:
    async with gate:
        try:
            await cloud.apply(step.action)
        except CloudError as error:
            return Refusal(step, error)
    return None
