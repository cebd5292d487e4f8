"""Looks for proof that a path works although its echoes are missing.

A handshake through any tunnel of that path is proof. So a pod that drops echoes, or floods its
tunnel, moves no other pod, and a gateway that is busy with many handshakes counts as alive. Without
proof, all pods that use the path leave it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.node.liveness.pathhealth import TunnelPath
from egress_gateway.node.liveness.paths import Paths
from egress_gateway.node.liveness.verify import Verifier
from egress_gateway.node.sandboxes.sandbox import Sandbox

log = logging.getLogger(__name__)

_WITNESSES: Final = 2
"""Tunnels besides the silent one that are asked."""
_SECONDS: Final = 0.4
_MUTE_SECONDS: Final = 30.0


class Prover:
    """``heard(path, then)`` says whether any handshake was complete after ``then`` (in the loop's
    time); ``on_lost`` gets a path that no tunnel gets through. Neither must block."""

    def __init__(
        self,
        paths: Paths,
        verifier: Verifier,
        *,
        heard: Callable[[TunnelPath, float], bool],
        on_lost: Callable[[TunnelPath], None],
    ) -> None:
        self._paths = paths
        self._verifier = verifier
        self._heard = heard
        self._on_lost = on_lost

    def suspect(
        self, path: TunnelPath, canary: Sandbox, others: list[Sandbox]
    ) -> asyncio.Task[None]:
        """Starts the search; ``Paths`` hears of its end."""
        return asyncio.create_task(self._search(path, canary, others[:_WITNESSES]))

    async def _search(self, path: TunnelPath, canary: Sandbox, others: list[Sandbox]) -> None:
        began = asyncio.get_running_loop().time()
        asked = [s for s in (canary, *others) if await self._question(s)]
        proofs = [asyncio.create_task(s.verified.wait()) for s in asked]
        try:
            if proofs:
                first = asyncio.FIRST_COMPLETED
                await asyncio.wait(proofs, timeout=_SECONDS, return_when=first)
        finally:
            for proof in proofs:
                proof.cancel()
        answered = not asked or any(s.verified.is_set() for s in asked)
        # A cookie takes the same path both ways; the handshake follows when the gateway has time.
        answered = answered or await self._got_cookie(asked)
        if answered:
            # What is wrong with the canary alone, its verifier finds.
            canary.take_for_mute(asyncio.get_running_loop().time() + _MUTE_SECONDS)
        if answered or self._heard(path, began):
            self._paths.proven(path)
            return
        self._paths.lost(path)
        self._on_lost(path)

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
