"""Hears at once of damage in pods' namespaces: somebody flushed a table, took a rule, a route, an
address or a link.

The kernel tells (``linux.notify``), so the clock of the routine passes decides nothing. At rest a
pod costs two sockets. A pod that changes its namespace all the time, as one does in which links
come and go, costs two looks a second and no more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux.notify import Watcher
from egress_gateway.datapath.pod.ruleset import TABLE
from egress_gateway.node.sandboxes.sandbox import Sandbox

log = logging.getLogger(__name__)

_SYNC_SECONDS: Final = 0.5
"""Between two comparisons of who is attached with who is watched."""
_LOOK_SECONDS: Final = 0.5
"""Least time between two looks at one pod."""


class DamageWatch:
    """``look(sandbox_id)`` asks for a pass over a sandbox; it must not block."""

    def __init__(self, look: Callable[[str], None]) -> None:
        self._look = look
        self._looked: dict[str, float] = {}
        self._waiting: dict[str, asyncio.TimerHandle] = {}

    async def run(self, sandboxes: Callable[[], Iterable[Sandbox]]) -> None:
        """Works until cancelled. Watches each of ``sandboxes`` once its tunnel is verified: until
        then its passes come by themselves."""
        watcher = Watcher(self._changed)
        try:
            while True:
                await self._sync(watcher, sandboxes())
                await asyncio.sleep(_SYNC_SECONDS)
        finally:
            watcher.close()
            for timer in self._waiting.values():
                timer.cancel()

    async def _sync(self, watcher: Watcher, sandboxes: Iterable[Sandbox]) -> None:
        attached = {s.attachment.id: s for s in sandboxes if not s.gone}
        for gone in watcher.keys - attached.keys():
            watcher.forget(gone)
            self._looked.pop(gone, None)
        for key in attached.keys() - watcher.keys:
            if not attached[key].verified.is_set():
                continue
            try:
                await watcher.watch(key, Path(attached[key].attachment.netns), tables={TABLE})
            except (DatapathError, OSError) as error:
                # The routine passes go on, and this is tried again.
                log.info("cannot watch pod", extra={"sandbox": key, "error": str(error)})
            else:
                self._changed(key)  # what happened before was not seen

    def _changed(self, key: str) -> None:
        loop = asyncio.get_running_loop()
        due = self._looked.get(key, float("-inf")) + _LOOK_SECONDS
        if key in self._waiting:
            return
        if loop.time() >= due:
            self._due(key)
        else:
            self._waiting[key] = loop.call_at(due, self._due, key)

    def _due(self, key: str) -> None:
        self._waiting.pop(key, None)
        self._looked[key] = asyncio.get_running_loop().time()
        self._look(key)
