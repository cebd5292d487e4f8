"""Tunnels made in advance, for pods that are about to come.

A ``wireguard-go`` process takes longer to start than all the rest of an attachment. A few wait in
the node's namespace, unconfigured and down; one that is taken is configured and moved as if it had
been made for the pod. Kernels that know WireGuard make links at once and need none.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable, Collection
from typing import Final

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux.link import Links
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.wireguard.model import Backend, Interface
from egress_gateway.node.sandboxes.sandbox import NodeKernel
from egress_gateway.service.backoff import Backoff

log = logging.getLogger(__name__)

PREFIX: Final = "egspare"
_LOOK: Final = 0.05
"""Seconds between looks at the stock."""
_MAKE_AFTER: Final = 0.1
"""Seconds without a pod that starts before a spare is made: it must not hold that pod up."""
_LINGER: Final = 5.0
"""Seconds for which the stock outlives the node's last attached pod; then nothing is left."""
_COUNT: Final = 1.0
"""Seconds between looks whether the stock is still there: its host may have begun anew."""


class Spares:
    """``size`` of them while the node has attached pods (``wanted``); none where links are made
    at once."""

    def __init__(self, kernel: NodeKernel, size: int, *, wanted: Callable[[], bool]) -> None:
        self._kernel = kernel
        self._size = size if kernel.backend.kind == "userspace" else 0
        self._wanted = wanted
        self._names: list[str] = []
        self._taken_at = float("-inf")
        self._backoff = Backoff(0.5, 10.0)

    def adopt(self, used: Collection[str]) -> None:
        """Takes over what an earlier agent left, but for those that are ``used``. Blocks."""
        if not self._size:
            return
        with NetNS.current() as node, Links(node) as links:
            found = (name for name in links.links() if name.startswith(PREFIX))
            self._names = [name for name in found if name not in used]

    def take(self) -> str | None:
        """The name of an unused tunnel; None if none is ready."""
        self._taken_at = asyncio.get_running_loop().time()
        self._count()
        return self._names.pop() if self._names else None

    async def run(self) -> None:
        """Keeps the stock until cancelled."""
        loop = asyncio.get_running_loop()
        wanted_at = counted_at = loop.time()
        while self._size:
            await asyncio.sleep(_LOOK)
            now = loop.time()
            if now - counted_at > _COUNT:
                self._count()
                counted_at = now
            if self._wanted():
                wanted_at = now
            try:
                if now - wanted_at > _LINGER:
                    await self._clear()
                elif wanted_at == now and self._short(now):
                    await self._make()
                    self._backoff.succeeded()
            except DatapathError as error:
                log.info("cannot make spare tunnel", extra={"error": str(error)})
                await asyncio.sleep(self._backoff.failed())

    def _short(self, now: float) -> bool:
        return len(self._names) < self._size and now - self._taken_at > _MAKE_AFTER

    def _count(self) -> None:
        self._names = [name for name in self._names if _exists(name)]

    async def _make(self) -> None:
        name = f"{PREFIX}{secrets.token_hex(3)}"
        await self._kernel.run(self._kernel.backend.create, name)
        self._names.append(name)

    async def _clear(self) -> None:
        while self._names:
            name = self._names.pop()
            await self._kernel.run(_delete, self._kernel.backend, name)


def _exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _delete(backend: Backend, name: str) -> None:
    with NetNS.current() as node:
        backend.delete(Interface(name, node, name))
