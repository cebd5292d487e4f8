"""Tunnels made in advance, for pods that are about to come.

A ``wireguard-go`` process takes longer to start than all the rest of an attachment. A few wait in
the node's namespace, unconfigured and down; one that is taken is configured and moved as if it had
been made for the pod. Kernels that know WireGuard make links at once and need none.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Collection
from typing import Final

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.link import Links
from egress_gateway.datapath.netns import NetNS
from egress_gateway.node.sandbox import Kernel

log = logging.getLogger(__name__)

PREFIX: Final = "egspare"
_QUIET: Final = 0.2
"""Seconds without a pod that starts before a spare is made: it must not hold that pod up."""
_AGAIN: Final = 10.0


class Spares:
    """``size`` of them; none where links are made at once."""

    def __init__(self, kernel: Kernel, size: int) -> None:
        self._kernel = kernel
        self._size = size if kernel.backend.kind == "userspace" else 0
        self._names: list[str] = []
        self._taken = asyncio.Event()

    def adopt(self, used: Collection[str]) -> None:
        """Takes over what an earlier agent left, but for those that are ``used``. Blocks."""
        if not self._size:
            return
        with NetNS.current() as node, Links(node) as links:
            found = (name for name in links.links() if name.startswith(PREFIX))
            self._names = [name for name in found if name not in used]

    def take(self) -> str | None:
        """The name of a tunnel that nobody has; None if none is ready."""
        if not self._names:
            return None
        self._taken.set()
        return self._names.pop()

    async def run(self) -> None:
        """Keeps the stock until cancelled."""
        while self._size:
            while len(self._names) < self._size:
                await self._wait_for_quiet()
                name = f"{PREFIX}{secrets.token_hex(3)}"
                try:
                    await self._kernel.run(self._kernel.backend.create, name)
                except DatapathError as error:
                    log.info("no tunnel can be made in advance", extra={"error": str(error)})
                    await asyncio.sleep(_AGAIN)
                else:
                    self._names.append(name)
            self._taken.clear()
            await self._taken.wait()

    async def _wait_for_quiet(self) -> None:
        while True:
            self._taken.clear()
            try:
                async with asyncio.timeout(_QUIET):
                    await self._taken.wait()
            except TimeoutError:
                return
