"""Commands that wait for many answers at once, ended as a person expects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """As ``asyncio.run``, but nothing more is said of what ``work`` had begun once it ends.

    Whoever interrupts a command, or is refused, reads one line. Requests that were under way then
    fail by their closed connection, and asyncio would write a traceback for each.
    """
    task: asyncio.Task[Any] | None = None

    async def known() -> T:
        nonlocal task
        task = asyncio.current_task()
        return await work

    def unless_ending(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if task is not None and not task.cancelling() and not task.done():
            loop.default_exception_handler(context)

    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(unless_ending)
        return runner.run(known())
