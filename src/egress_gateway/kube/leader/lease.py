"""Leader election on a coordination.k8s.io Lease: the thin edge around ``election``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from egress_gateway.kube import clock, errors
from egress_gateway.kube.client import Client
from egress_gateway.kube.leader.election import Election, Write
from egress_gateway.kube.resources import LEASES, Lease
from egress_gateway.service.backoff import Random, delay
from egress_gateway.service.errors import OperatorError

log = logging.getLogger(__name__)

_RELEASE_SECONDS: Final = 3.0
_LOOK_SECONDS: Final = 1.0
"""How often a standby looks, at least: a leader that gives up is followed at once."""
_SILENT_SECONDS: Final = 60.0
"""Without a renewal, after which a standby tells of a Lease that has not run out."""
_MARGIN: Final = 0.05
"""Seconds after a Lease's end at which it is tried, so that the end has surely passed."""


class LeadershipLost(OperatorError):
    """The Lease could not be renewed in time or went to another; the process should end."""


class LeaderElection:
    """At most one process leads, as long as clocks run at about the same rate.

    ``identity`` names this process (pod name); ``duration``, ``renew`` and ``retry`` are seconds:
    how long others wait for a silent leader, how long a leader that cannot renew goes on (two
    thirds of that unless given), and how often either tries (a seventh).
    """

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration: float = 15.0,
        renew: float | None = None,
        retry: float | None = None,
        rand: Random | None = None,
    ) -> None:
        self._client = client
        self._namespace, self._name = namespace, name
        self._retry = duration / 7 if retry is None else retry
        self._rand = rand
        self._election = Election(
            identity, duration=duration, renew=duration * 2 / 3 if renew is None else renew
        )

    @property
    def leading(self) -> bool:
        """False before another may lead, even if the API server no longer answers."""
        return self._election.leading(asyncio.get_running_loop().time())

    @property
    def holder(self) -> str:
        """Who holds the Lease, as last seen; empty if nobody."""
        return self._election.holder

    async def run(self, on_lead: Callable[[], Awaitable[None]]) -> None:
        """Waits for the Lease, then runs ``on_lead`` while renewing. Raises ``LeadershipLost``
        (after cancelling ``on_lead``) on loss. When ``on_lead`` returns, or this is cancelled,
        the Lease is released so that another need not wait for it to expire."""
        await self._acquire()
        log.info("leading", extra={"lease": self._name, "identity": self._election.identity})
        work = asyncio.ensure_future(_call(on_lead))
        try:
            await self._hold(work)
        finally:
            work.cancel()
            await asyncio.wait([work])
            await self._release()
        await work

    async def _acquire(self) -> None:
        told = ""
        while True:
            interval = min(self._retry, _LOOK_SECONDS)
            try:
                if await self._try():
                    return
            except errors.ApiError as error:
                interval = self._retry
                log.warning("cannot take the Lease: %s", error, extra={"lease": self._name})
            # Looking again before the Lease can have run out notices a release.
            left = self._election.wait(self._now())
            silent = self._election.silent(self._now())
            if silent > _SILENT_SECONDS and told != self.holder:
                told = self.holder
                log.warning(
                    "%s has not renewed the Lease for %.0f s and holds it for %.0f s more; if it "
                    "is dead, delete the Lease",
                    *(told, silent, left),
                    extra={"lease": self._name},
                )
            pause = self._jitter(interval)
            await asyncio.sleep(min(pause, left + _MARGIN) if left else pause)

    async def _hold(self, work: asyncio.Future[None]) -> None:
        """Renews until ``work`` ends; raises ``LeadershipLost``."""
        while not work.done():
            await asyncio.wait([work], timeout=self._jitter(self._retry))
            if work.done():
                return
            try:
                async with asyncio.timeout_at(self._election.deadline):
                    renewed = await self._try()
            except errors.ApiError as error:
                log.warning("cannot renew the Lease: %s", error, extra={"lease": self._name})
            except TimeoutError:
                pass
            else:
                if not renewed:
                    raise LeadershipLost(f"Lease {self._name} went to {self.holder}")
            if not self.leading:
                raise LeadershipLost(f"Lease {self._name} could not be renewed in time")

    async def _try(self) -> bool:
        """One attempt to take or renew; True if we hold the Lease now."""
        election, started = self._election, self._now()
        if not election.leading(started):
            election.saw(await self._read(), self._now())
        if election.wait(self._now()) > 0:
            return False
        started = self._now()
        try:
            lease = await self._write(election.claim(clock.now()))
        except (errors.Conflict, errors.AlreadyExists, errors.NotFound):
            # Somebody wrote in between: look again, and believe what is there.
            election.saw(await self._read(), self._now())
            if election.holder != election.identity:
                return False
            started = self._now()
            lease = await self._write(election.claim(clock.now()))
        election.wrote(lease, started)
        return True

    async def _release(self) -> None:
        write = self._election.release(clock.now())
        leading = self.leading
        self._election.gave_up()
        if write is None or not leading:
            return
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._write(write)
        except (errors.ApiError, TimeoutError) as error:
            log.warning("Lease not released: %s", error, extra={"lease": self._name})

    async def _read(self) -> Lease | None:
        try:
            return await self._client.get(LEASES, self._name, self._namespace)
        except errors.NotFound:
            return None

    async def _write(self, write: Write) -> Lease:
        meta = {"name": self._name, "namespace": self._namespace}
        if not write.resource_version:
            return await self._client.create(LEASES, {"metadata": meta, "spec": dict(write.spec)})
        patch = {
            "metadata": {"resourceVersion": write.resource_version},
            "spec": dict(write.spec),
        }
        return await self._client.merge_patch(LEASES, self._name, patch, self._namespace)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _jitter(self, seconds: float) -> float:
        """Between half of ``seconds`` and all of it, so that participants do not march in step."""
        return delay(1, seconds, seconds, self._rand) if self._rand else delay(1, seconds, seconds)


async def _call(function: Callable[[], Awaitable[None]]) -> None:
    await function()
