"""Sees to it that a tunnel gets its handshake, however often it must be started again.

The gateway may learn of the pod a moment after the first initiation, which WireGuard itself would
repeat only after five seconds. Repeating too fast is no better: initiations within 20 ms of each
other are refused, and too many make the gateway ask for cookies. A tunnel that has a cookie shows
it the next time: to begin anew would throw it away, and WireGuard itself repeats no sooner than
after five seconds.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.node.attachment.model import TunnelRecord
from egress_gateway.node.liveness.pace import Pacer
from egress_gateway.node.liveness.schedule import FIRST_RETRY, Schedule
from egress_gateway.node.sandboxes.sandbox import Sandbox

log = logging.getLogger(__name__)


async def _begin_again(
    sandbox: Sandbox, tunnel: TunnelRecord, schedule: Schedule, *, standby: bool = False
) -> None:
    cookie = await sandbox.has_cookie(tunnel)
    schedule.put_off(cookie)
    await sandbox.handshake_again(cookie=cookie, standby=standby)


class Verifier:
    """``on_verified`` and ``on_silence`` must not block. One task a sandbox, until verified."""

    def __init__(
        self,
        pacer: Pacer,
        *,
        on_verified: Callable[[Sandbox], None],
        on_silence: Callable[[Sandbox], None],
    ) -> None:
        self._pacer = pacer
        self._on_verified = on_verified
        self._on_silence = on_silence

    def start(self, sandbox: Sandbox) -> None:
        """Nothing happens if it is under way. Call again after a move."""
        if sandbox.verifier is None or sandbox.verifier.done():
            sandbox.verifier = asyncio.create_task(self._run(sandbox))

    async def _run(self, sandbox: Sandbox) -> None:
        loop = asyncio.get_running_loop()
        port: int | None = None
        schedule = Schedule.at(loop.time())
        while not sandbox.gone:
            if sandbox.attachment.listen_port != port:  # a new tunnel, or moved
                port = sandbox.attachment.listen_port
                begun = max(sandbox.initiated, loop.time() - FIRST_RETRY)
                schedule = Schedule.at(begun, starting=sandbox.starting)
                # A look before the gateway can have answered is in vain.
                await asyncio.sleep(max(0.0, begun + schedule.shortest_look - loop.time()))
            now = loop.time()
            try:
                if await sandbox.verify():
                    active = sandbox.attachment.active
                    self._pacer.complete(sandbox.attachment.id, active.address if active else "")
                    self._on_verified(sandbox)
                    return
                active = sandbox.attachment.active
                due = schedule.due(now, random.random())  # noqa: S311  (spreads load)
                if active and due and await self._pacer.turn(sandbox.attachment.id, active.address):
                    await _begin_again(sandbox, active, schedule)
            except DatapathError as error:
                # The next pass over the sandbox repairs what is broken and starts us again.
                log.info("cannot verify tunnel", extra={"error": str(error)})
                return
            if schedule.silent(now):
                schedule.started = now
                self._on_silence(sandbox)
            await asyncio.sleep(schedule.look_after(loop.time()))


class Joiner:
    """The same for the second tunnel of a planned move. Nothing waits for it, so one silence is
    enough to look for another gateway."""

    def __init__(
        self,
        pacer: Pacer,
        *,
        on_joined: Callable[[Sandbox], None],
        on_silence: Callable[[Sandbox], None],
    ) -> None:
        self._pacer = pacer
        self._on_joined = on_joined
        self._on_silence = on_silence

    def start(self, sandbox: Sandbox) -> None:
        """Nothing happens if it is under way."""
        if sandbox.joiner is None or sandbox.joiner.done():
            sandbox.joiner = asyncio.create_task(self._run(sandbox))

    async def _run(self, sandbox: Sandbox) -> None:
        loop = asyncio.get_running_loop()
        schedule, joining = Schedule.at(loop.time()), sandbox.attachment.joining
        while joining and sandbox.attachment.joining == joining and not sandbox.gone:
            now = loop.time()
            try:
                if await sandbox.joined():
                    self._pacer.complete(sandbox.attachment.id, joining.address)
                    self._on_joined(sandbox)
                    return
                due = schedule.due(now, random.random())  # noqa: S311  (spreads load)
                if due and await self._pacer.turn(sandbox.attachment.id, joining.address):
                    await _begin_again(sandbox, joining, schedule, standby=True)
            except DatapathError as error:
                log.info("cannot verify second tunnel", extra={"error": str(error)})
                return
            if schedule.silent(now):
                self._on_silence(sandbox)
                return
            await asyncio.sleep(schedule.look_after(loop.time()))
