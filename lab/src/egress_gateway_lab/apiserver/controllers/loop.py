"""The loop that all controllers share: dirty keys in, one reconciliation at a time.

A key that fails is logged and comes back after a delay that doubles; a key that is marked while it
waits its turn is reconciled once. NB: ``reconcile`` is synchronous; between reading and writing
nothing else runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from egress_gateway_lab.apiserver import errors
from egress_gateway_lab.apiserver.storage.store import Event

if TYPE_CHECKING:
    from egress_gateway_lab.apiserver.api import Api

log = logging.getLogger(__name__)

_FIRST_DELAY = 0.2
_LONGEST_DELAY = 10.0


class Controller:
    """One concern. Subclasses say which keys a change touches and how to settle a key."""

    def __init__(self, api: Api, loop: Loop) -> None:
        self.api = api
        self.store = api.store
        self.crud = api.crud
        self._loop = loop

    def start(self) -> None:
        """Marks what exists already; called once before the first reconciliation."""

    def touched(self, event: Event) -> None:
        """Called synchronously for every change; must only ``mark``."""
        raise NotImplementedError

    def reconcile(self, key: Hashable) -> None:
        raise NotImplementedError

    def mark(self, key: Hashable) -> None:
        self._loop.mark(self, key)

    def mark_later(self, key: Hashable, seconds: float) -> None:
        self._loop.mark_later(self, key, seconds)


class Loop:
    def __init__(self) -> None:
        self._dirty: dict[tuple[Controller, Hashable], None] = {}
        self._wake = asyncio.Event()
        self._delays: dict[tuple[Controller, Hashable], float] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._task: asyncio.Task[None] | None = None

    def mark(self, controller: Controller, key: Hashable) -> None:
        self._dirty[(controller, key)] = None
        self._wake.set()

    def mark_later(self, controller: Controller, key: Hashable, seconds: float) -> None:
        self.call_later(seconds, lambda: self.mark(controller, key))

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.discard(handle)
            call()

        handle = asyncio.get_running_loop().call_later(seconds, fire)
        self._timers.add(handle)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="kube-controllers")

    async def stop(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._dirty:
                controller, key = item = next(iter(self._dirty))
                del self._dirty[item]
                self._settle(controller, key)
                # Requests get their turn between two keys.
                await asyncio.sleep(0)

    def _settle(self, controller: Controller, key: Hashable) -> None:
        item = (controller, key)
        try:
            controller.reconcile(key)
            self._delays.pop(item, None)
        except errors.StatusError as error:
            self._again(item, error.message)
        except Exception:
            # One broken object must not stop the control plane of all others.
            log.exception("%s failed on %s", type(controller).__name__, key)
            self._again(item, "")

    def _again(self, item: tuple[Controller, Hashable], why: str) -> None:
        delay = min(self._delays.get(item, _FIRST_DELAY / 2) * 2, _LONGEST_DELAY)
        self._delays[item] = delay
        if why:
            log.info("%s: %s: %s", type(item[0]).__name__, item[1], why)
        self.mark_later(item[0], item[1], delay)
