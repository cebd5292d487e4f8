"""Passes that follow moves let other moves go first, but not for ever."""

from __future__ import annotations

import asyncio

import pytest

from egress_gateway.node.parts import Queues


async def test_a_pass_after_a_move_waits_for_other_moves_and_not_for_ever() -> None:
    queues = Queues()
    assert not queues.waits_for_moves("a", 0.0)
    queues.moves.add("b")
    assert queues.waits_for_moves("a", 1.0)
    await queues.moves.get()
    assert queues.waits_for_moves("a", 10.0)
    assert not queues.waits_for_moves("a", 11.0)
    assert queues.waits_for_moves("a", 12.0), "each pass waits anew"
    queues.moves.done("b")
    assert not queues.waits_for_moves("a", 13.0)


@pytest.mark.virtual_time
@pytest.mark.parametrize("kind", ["routine", "moves", "after_moves", "unrecorded"])
async def test_a_step_of_any_kind_that_hangs_is_told(kind: str) -> None:
    queues = Queues()
    getattr(queues, kind).add("one")
    await getattr(queues, kind).get()
    await asyncio.sleep(301)
    assert "one has run for 301 s" in (queues.stalled(300) or "")
    getattr(queues, kind).done("one")
    assert queues.stalled(300) is None
