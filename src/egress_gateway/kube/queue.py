"""Keys that need work: each once, never two workers on one key, failures with backoff."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """A key added while it waits is coalesced; one added while it is worked on is worked on
    again afterwards."""

    def __init__(
        self, name: str = "", *, backoff: float = 0.05, backoff_limit: float = 60.0
    ) -> None: ...

    def add(self, key: K) -> None:
        raise NotImplementedError

    def add_after(self, key: K, seconds: float) -> None:
        """Adds later; the earliest of several wins."""
        raise NotImplementedError

    def add_failed(self, key: K) -> float:
        """Adds after a delay that doubles with each failure, with jitter; returns the delay."""
        raise NotImplementedError

    def forget(self, key: K) -> None:
        """The key succeeded: its next failure starts with the shortest delay again."""
        raise NotImplementedError

    async def get(self) -> K:
        """The next key; the caller must call ``done(key)``."""
        raise NotImplementedError

    def done(self, key: K) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError


async def run_workers(
    queue: WorkQueue[K],
    handler: Callable[[K], Awaitable[float | None]],
    workers: int = 1,
) -> None:
    """Works until cancelled. A handler that raises is logged and its key retried with backoff;
    one that returns a number is called again after so many seconds; None is success."""
    raise NotImplementedError
