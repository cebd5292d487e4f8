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
    answers: list[T] = []

    async def known() -> None:
        # The task must not hold the answer: Runner.run ends with signal.getsignal, which makes the
        # repr of its handler, of the task in it and of the task's result. That of all pods of a
        # large cluster takes as long as to read them.
        nonlocal task
        task = asyncio.current_task()
        answers.append(await work)

    def unless_ending(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if task is not None and not task.cancelling() and not task.done():
            loop.default_exception_handler(context)

    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(unless_ending)
        runner.run(known())
    return answers[0]
