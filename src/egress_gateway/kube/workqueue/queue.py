"""Keys that need work: each once, never two workers on one key, failures with backoff.

The rules are those of client-go's workqueue. A key is *dirty* from ``add`` until a worker takes it
and *processing* from then until ``done``. Adding a dirty key changes nothing; adding a processing
one makes it dirty, and it is queued again at ``done``. So no change is lost and none is worked on
twice at the same time. Delayed keys become dirty when their time has come.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from egress_gateway.service.backoff import Random, delay
from egress_gateway.service.errors import ExpectedError

K = TypeVar("K", bound=Hashable)

log = logging.getLogger(__name__)


class WorkQueue(Generic[K]):
    """Use inside one event loop. ``backoff`` is the first delay after a failure and
    ``backoff_limit`` the longest, in seconds."""

    def __init__(
        self,
        name: str = "",
        *,
        backoff: float = 0.05,
        backoff_limit: float = 60.0,
        rand: Random = random.random,
    ) -> None:
        self.name = name
        self._first, self._limit, self._rand = backoff, backoff_limit, rand
        self._queue: deque[K] = deque()
        self._dirty: set[K] = set()
        self._processing: dict[K, float] = {}
        """Since when, by the loop's clock."""
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        """Keys ready to be taken; neither delayed nor processing ones."""
        return len(self._queue)

    def add(self, key: K) -> None:
        """Makes the key dirty now; a delay that runs for it is over."""
        self._cancel_timer(key)
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing:
            self._enqueue(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Adds later; the earliest of several wins."""
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        running = self._timers.get(key)
        if running is not None:
            if running.when() <= at:
                return
            running.cancel()
        self._timers[key] = loop.call_at(at, self._timer, key)

    def add_failed(self, key: K) -> float:
        """Adds after a delay that doubles with each failure, with jitter; returns the delay."""
        self._failures[key] = self._failures.get(key, 0) + 1
        seconds = delay(self._failures[key], self._first, self._limit, self._rand)
        self.add_after(key, seconds)
        return seconds

    def failures(self, key: K) -> int:
        """How often the key failed since it last succeeded."""
        return self._failures.get(key, 0)

    @property
    def busy(self) -> bool:
        """Whether some key is ready to be taken, or with a worker."""
        return bool(self._queue or self._processing)

    def stalled(self, limit: float) -> str | None:
        """What a worker has had for more than ``limit`` seconds, in words; None if nothing is."""
        key, since = next(iter(self._processing.items()), (None, math.inf))
        waited = asyncio.get_running_loop().time() - since
        return f"{self.name} {key} has run for {waited:.0f} s" if waited > limit else None

    @property
    def failing(self) -> bool:
        """Whether some key has failed and not succeeded since."""
        return bool(self._failures)

    def forget(self, key: K) -> None:
        """The key succeeded: its next failure starts with the shortest delay again."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key, first in, first out; the caller must call ``done(key)``."""
        while not self._queue:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except BaseException:
                # NB: the wake-up may have been meant for us: hand it on, or it is lost.
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                elif self._queue:
                    self._wake()
                raise
        key = self._queue.popleft()
        self._dirty.discard(key)
        self._processing[key] = asyncio.get_running_loop().time()
        return key

    def done(self, key: K) -> None:
        """The worker that took the key is through with it."""
        self._processing.pop(key, None)
        if key in self._dirty:
            self._enqueue(key)

    def close(self) -> None:
        """Stops the timers; keys that wait stay."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _enqueue(self, key: K) -> None:
        self._queue.append(key)
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _timer(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _cancel_timer(self, key: K) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()


async def run_workers(
    queue: WorkQueue[K],
    handler: Callable[[K], Awaitable[float | None]],
    workers: int = 1,
) -> None:
    """Works until cancelled. A handler that raises is logged and its key retried with backoff;
    one that returns a number is called again after that many seconds; None is success."""

    async def work() -> None:
        while True:
            key = await queue.get()
            try:
                await _handle(queue, handler, key)
            finally:
                queue.done(key)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())
    finally:
        queue.close()


async def _handle(
    queue: WorkQueue[K], handler: Callable[[K], Awaitable[float | None]], key: K
) -> None:
    try:
        again = await handler(key)
    except Exception as error:
        # Level-triggered work is tried again whatever went wrong; the log says what did. Only
        # an error that nobody expected shows its trace, and only once.
        seconds = queue.add_failed(key)
        first = queue.failures(key) == 1
        log.warning(
            "%s %s failed: %s",
            queue.name or "work on",
            key,
            str(error) or type(error).__name__,
            exc_info=error if first and not isinstance(error, ExpectedError) else None,
            extra={"retry_in": round(seconds, 3), "failures": queue.failures(key)},
        )
        return
    queue.forget(key)
    if again is not None:
        queue.add_after(key, again)
