"""The stock of spare tunnels comes back when their host does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import pytest

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.node.sandboxes.spares import Spares


class Host:
    """Makes links unless it is ``down``; what it made dies with it."""

    kind = "userspace"

    def __init__(self) -> None:
        self.backend = self
        self.links: set[str] = set()
        self.down = False
        self.tries = 0

    async def run(self, function: Callable[..., None], *arguments: object) -> None:
        function(*arguments)

    def create(self, name: str) -> None:
        self.tries += 1
        if self.down:
            raise DatapathError("the tunnels' host does not answer")
        self.links.add(name)

    def index(self, name: str) -> int:
        if name not in self.links:
            raise OSError
        return 1

    def begins_anew(self) -> None:
        self.links.clear()
        self.down = True


@pytest.mark.virtual_time
async def test_spares_are_there_again_soon_after_their_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host()
    monkeypatch.setattr(socket, "if_nametoindex", host.index)
    spares = Spares(cast(Any, host), 2, wanted=lambda: True)
    keeping = asyncio.create_task(spares.run())
    for away in (0.2, 1.0, 3.0):
        await asyncio.sleep(5)
        assert len(host.links) == 2
        host.begins_anew()
        # The stock is counted once a second.
        await asyncio.sleep(1.2 + away)
        host.down = False
        await asyncio.sleep(2 + 3 * away)
        assert len(host.links) == 2, f"away for {away} s"
    host.begins_anew()
    tried = host.tries
    await asyncio.sleep(100)
    assert host.tries - tried < 30, "a host that stays away is asked ever more rarely"
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping
