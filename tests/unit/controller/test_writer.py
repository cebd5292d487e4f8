"""What the writer keeps in mind of a stage in which something unexpected happened."""

from __future__ import annotations

import asyncio
import gc
from typing import Any, cast

import pytest

from egress_gateway.cloud import errors
from egress_gateway.cloud.protocol import Cloud, DeletePrefix
from egress_gateway.controller.apply import Writer
from egress_gateway.controller.planning.plan import Plan
from egress_gateway.controller.planning.wanted import Step


class Moody:
    """Fails in a way that nobody expects; names that begin with "slow" when they may go on."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.going_on = asyncio.Event()

    async def apply(self, action: DeletePrefix) -> None:
        self.asked.append(action.name)
        if action.name.startswith("slow"):
            await self.going_on.wait()
        if action.name != "slow":
            raise RuntimeError(action.name)


async def test_a_write_under_way_is_not_repeated_after_a_fault_of_ours() -> None:
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: unheard.append(told))
    cloud = Moody()
    finished: list[str] = []
    writer = Writer(cast(Cloud, cloud), finished=finished.append, patience=0.01)
    stage = [Step(DeletePrefix(name=name), frozenset({name})) for name in ("one", "other", "slow")]
    with pytest.raises(RuntimeError):
        await writer.apply("np", Plan(stages=(tuple(stage),)))
    outcome = await writer.apply("np", Plan(stages=((stage[-1],),)))
    assert (cloud.asked.count("slow"), outcome.waiting) == (1, {"slow"})
    cloud.going_on.set()
    async with asyncio.timeout(60):
        while not finished:
            await asyncio.sleep(0)
    gc.collect()
    assert unheard == [], "both faults were heard"


async def test_a_late_fault_of_ours_is_told_like_any_other_end() -> None:
    unheard: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, told: unheard.append(told["exception"])
    )
    cloud = Moody()
    finished: list[str] = []
    writer = Writer(cast(Cloud, cloud), finished=finished.append, patience=0.01)
    step = Step(DeletePrefix(name="slow one"), frozenset({"a"}))
    outcome = await writer.apply("np", Plan(stages=((step,),)))
    assert outcome.waiting == {"a"}
    cloud.going_on.set()
    async with asyncio.timeout(60):
        while not unheard:
            await asyncio.sleep(0)
    assert (finished, [str(error) for error in unheard]) == (["np"], ["slow one"])
    with pytest.raises(RuntimeError):
        await writer.apply("np", Plan(stages=((step,),)))
    assert cloud.asked == ["slow one", "slow one"], "it is tried again"


async def test_a_former_leader_writes_nothing() -> None:
    cloud = Moody()
    writer = Writer(cast(Cloud, cloud), leads=lambda: False)
    step = Step(DeletePrefix(name="one"), frozenset({"a"}))
    outcome = await writer.apply("np", Plan(stages=((step,),)))
    assert (cloud.asked, [type(r.error) for r in outcome.refusals]) == ([], [errors.Unavailable])
