"""Writes how attached pods stand: the status of each PodEndpoint, and Events on the pod.

Beside everything else, and never waited for: a pod is moved first and told of afterwards. A pod
whose state does not change is never written. One that changes all the time, and a node whose pods
all change at once, are held to a rate, and then the last state is what is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from egress_gateway.api.types import PodEndpointStatus
from egress_gateway.kube import clock
from egress_gateway.kube.errors import NotFound
from egress_gateway.kube.workqueue.queue import WorkQueue, run_workers
from egress_gateway.node.attachment.model import PodConfiguration
from egress_gateway.node.liveness.health import State
from egress_gateway.node.liveness.pathtrial import Verdict
from egress_gateway.node.parts import Parts, UsesParts
from egress_gateway.node.reporting.standing import Standing, look_at, spokesmen_of
from egress_gateway.node.sandboxes.sandbox import Sandbox
from egress_gateway.service.bucket import Bucket

_LOOK_SECONDS: Final = 1.0
_RATE: Final = 10.0
"""Statuses a second that a node writes; a gateway's loss changes those of half its pods."""
_BURST: Final = 50
_POD_RATE: Final = 0.1
"""A pod that goes to and fro is written every ten seconds."""
_POD_BURST: Final = 3
_LAG: Final = 10.0
"""Seconds in which the cache has heard of what was written."""
_WORKERS: Final = 2


@dataclass(slots=True)
class _Page:
    """The known state of one sandbox's pod, and the pace of its writes."""

    standing: Standing
    bucket: Bucket = field(default_factory=lambda: Bucket(_POD_RATE, _POD_BURST))
    due: float | None = None
    settled: tuple[object, ...] = ()
    """What there was at the last look, if that left nothing to be done: while all of it is the very
    same, a look costs next to nothing."""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """What was known of paths at the last look, if the pod speaks of them."""
    written: PodEndpointStatus | None = None
    at: float = float("-inf")


class Reports(UsesParts):
    """``probed`` tells what probes say of gateways' machines, by address; ``verdicts`` what trials
    found of a configuration's gateways, by name."""

    def __init__(
        self,
        parts: Parts,
        probed: Callable[[], Mapping[str, State]],
        verdicts: Callable[[PodConfiguration], Mapping[str, Verdict]],
    ) -> None:
        super().__init__(parts)
        self._probed = probed
        self._verdicts = verdicts
        self._pages: dict[str, _Page] = {}
        self._bucket = Bucket(_RATE, _BURST)
        self._queue: WorkQueue[str] = WorkQueue("status of PodEndpoint", backoff_limit=30.0)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look())
            group.create_task(run_workers(self._queue, self._write, _WORKERS))

    def standing(self, sandbox_id: str) -> PodEndpointStatus | None:
        """How the sandbox's pod stands, as it was last seen."""
        page = self._pages.get(sandbox_id)
        return page.standing.shown if page else None

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            probed = self._probed()
            known = self._sandboxes.ids()
            for gone in self._pages.keys() - known:
                del self._pages[gone]
            present = [s for s in self._sandboxes if not s.superseded and not s.gone]
            spokesmen = spokesmen_of(s.attachment for s in present if self._connected(s))
            for sandbox in present:
                speaks = sandbox.attachment.id in spokesmen
                self._note(sandbox, probed, loop.time(), speaks=speaks)
            await asyncio.sleep(_LOOK_SECONDS)

    def _connected(self, sandbox: Sandbox) -> bool:
        shown = self.standing(sandbox.attachment.id)
        if shown is None and (present := self._endpoints.present(sandbox.attachment)):
            shown = present.status  # of an earlier agent
        return shown is not None and shown.state == "Connected"

    def _note(
        self, sandbox: Sandbox, probed: Mapping[str, State], now: float, *, speaks: bool
    ) -> None:
        state = sandbox.attachment
        name = state.configuration.name
        present = self._endpoints.present(state)
        page = self._pages.get(state.id)
        verdicts = self._verdicts(state.configuration) if speaks else {}
        there = state, present, self._knowledge.configurations.get(state.namespace, name)
        if page is not None and _same(page.settled, there) and page.verdicts == verdicts:
            return
        if page is None:
            # What an earlier agent has written is not told again.
            known = present.status if present is not None and present.status.state else None
            page = self._pages[state.id] = _Page(Standing(known))
        amiss = ""
        if state.active is None:
            _, amiss = self._knowledge.for_running(state, state.namespace, name)
        look = look_at(
            state,
            addresses=self._knowledge.addresses(state.namespace, name),
            probed=probed,
            amiss=amiss,
            refused=sandbox.refused,
        )
        for told in page.standing.note(look, now, clock.timestamp(clock.now()), verdicts):
            self._teller.stands(state, told.type, told.reason, told.message)
        page.verdicts = verdicts
        shown = page.standing.shown
        if shown is None or present is None:
            return
        known = page.written if now - page.at < _LAG else present.status
        if shown != known:
            self._queue.add(state.id)
        elif look.connected and shown == present.status:
            page.settled = there

    async def _write(self, sandbox_id: str) -> float | None:
        page, sandbox = self._pages.get(sandbox_id), self._sandboxes.get(sandbox_id)
        if page is None or sandbox is None:
            return None
        loop = asyncio.get_running_loop()
        if page.due is None:
            wait = max(page.bucket.take(loop.time()), self._bucket.take(loop.time()))
            page.due = loop.time() + wait
        if (wait := page.due - loop.time()) > 0:
            return wait
        page.due = None
        shown = page.standing.shown
        if shown is None or self._endpoints.present(sandbox.attachment) is None:
            return None
        try:
            kept = await self._endpoints.tell(sandbox.attachment, shown)
        except NotFound:
            return None  # it is made again, and then told
        # A definition of an earlier version drops the status: nothing is gained by repeating it.
        page.written, page.at = shown, loop.time() if kept else float("inf")
        return None


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """Whether both hold the same objects. All of them are immutable."""
    return bool(one) and all(a is b for a, b in zip(one, other, strict=True))
