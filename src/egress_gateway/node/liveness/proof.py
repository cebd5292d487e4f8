"""Looks for proof that a path works although its echoes are missing.

A handshake through any tunnel of that path is proof. So a pod that drops echoes, or floods its
tunnel, moves no other pod, and a gateway that is busy with many handshakes counts as alive. Without
proof, all pods that use the path leave it.

If echoes pass after the handshake, it may be a session that was lost, and a gateway that has lost
one may have lost all. So each other pod of the path is asked at once, and those whose echoes are
not answered begin a new session. Nobody moves for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.node.liveness import session
from egress_gateway.node.liveness.pathhealth import TunnelPath
from egress_gateway.node.liveness.paths import Paths, path_of
from egress_gateway.node.liveness.verify import Verifier
from egress_gateway.node.sandboxes.sandbox import Sandbox

log = logging.getLogger(__name__)

_WITNESSES: Final = 2
"""Tunnels besides the silent one that are asked."""
_SECONDS: Final = 0.4
_AT_ONCE: Final = 25
"""Pods whose sessions are tried at the same time."""
_MUTE_SECONDS: Final = 30.0


class Prover:
    """``heard(path, then)`` says whether any handshake was complete after ``then`` (in the loop's
    time); ``on_lost`` gets a path that no tunnel gets through, ``on_forgotten`` a pod of which its
    gateway knows no session. None of them must block."""

    def __init__(
        self,
        paths: Paths,
        verifier: Verifier,
        *,
        heard: Callable[[TunnelPath, float], bool],
        on_lost: Callable[[TunnelPath], None],
        on_forgotten: Callable[[Sandbox], None],
    ) -> None:
        self._paths = paths
        self._verifier = verifier
        self._heard = heard
        self._on_lost = on_lost
        self._on_forgotten = on_forgotten

    def suspect(
        self, path: TunnelPath, canary: Sandbox, others: list[Sandbox]
    ) -> asyncio.Task[None]:
        """Starts the search; ``Paths`` hears of its end."""
        return asyncio.create_task(self._search(path, canary, others))

    async def _search(self, path: TunnelPath, canary: Sandbox, others: list[Sandbox]) -> None:
        began = asyncio.get_running_loop().time()
        witnesses = others[:_WITNESSES]
        asked = [s for s in (canary, *witnesses) if await self._question(s)]
        proven = await _first(path, asked)
        stayed = [s for s in asked if _takes(path, s)]
        if asked and not stayed:
            # They have left meanwhile, and what they hear elsewhere says nothing of this path.
            self._paths.proven(path)
            return
        answered = not asked or proven is not None
        # A cookie takes the same path both ways; the handshake follows when the gateway has time.
        answered = answered or await self._got_cookie(stayed)
        if proven is not None and await session.lives(proven):
            await self._try_sessions([s for s in others if s not in asked])
        # One without a handshake carries no echoes, and its verifier finds what is wrong with it.
        mute = not asked or (canary.verified.is_set() and not await session.lives(canary))
        if answered and mute and _takes(path, canary):
            canary.take_for_mute(asyncio.get_running_loop().time() + _MUTE_SECONDS)
        if answered or self._heard(path, began):
            self._paths.proven(path)
            return
        self._paths.lost(path)
        self._on_lost(path)

    async def _try_sessions(self, others: list[Sandbox]) -> None:
        room = asyncio.Semaphore(_AT_ONCE)

        async def attempt(sandbox: Sandbox) -> None:
            async with room:
                if sandbox.attachment.verified and not await session.lives(sandbox):
                    self._on_forgotten(sandbox)

        await asyncio.gather(*map(attempt, others))

    async def _got_cookie(self, asked: list[Sandbox]) -> bool:
        tunnels = ((s, s.attachment.active) for s in asked)
        return any([await s.has_cookie(active) for s, active in tunnels if active])

    async def _question(self, sandbox: Sandbox) -> bool:
        try:
            asked = await sandbox.question()
        except DatapathError as error:
            # The next pass over the sandbox repairs what is broken.
            log.info("cannot probe tunnel", extra={"error": str(error)})
            return False
        if asked:
            self._verifier.start(sandbox)
        return asked


def _takes(path: TunnelPath, sandbox: Sandbox) -> bool:
    active = sandbox.attachment.active
    return active is not None and path_of(active) == path


async def _first(path: TunnelPath, asked: list[Sandbox]) -> Sandbox | None:
    """The first of them that has a handshake over the path; None: nobody had one in time."""
    pending = {asyncio.create_task(s.verified.wait()) for s in asked}
    try:
        async with asyncio.timeout(_SECONDS):
            while pending:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for sandbox in asked:
                    if sandbox.verified.is_set() and _takes(path, sandbox):
                        return sandbox
    except TimeoutError:
        pass
    finally:
        for proof in pending:
            proof.cancel()
    return None
