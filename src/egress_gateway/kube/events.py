"""Kubernetes Events: what a person sees in ``kubectl describe``."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any, Final

from egress_gateway.kube import clock, errors
from egress_gateway.kube.client import Client
from egress_gateway.kube.event_ledger import Entry, EventType, Ledger, Subject
from egress_gateway.kube.resources import EVENTS, Reference
from egress_gateway.service.backoff import Backoff

log = logging.getLogger(__name__)

_FLUSH_SECONDS: Final = 2.0
_REFUSALS: Final = (errors.BadRequest, errors.Forbidden, errors.Invalid)


class Recorder:
    """``event()`` never blocks and never raises; ``run()`` (in a task) writes.

    Repeats of one Event are counted rather than written anew; what exceeds the bound is dropped
    and counted in ``dropped``.
    """

    def __init__(self, client: Client, component: str, *, instance: str = "") -> None:
        self._client = client
        self._component, self._instance = component, instance or component
        self._ledger = Ledger()
        self._backoff = Backoff(0.5, 30.0)
        self._noted = asyncio.Event()

    @property
    def dropped(self) -> int:
        """Events that were never written: no room, or the server refused them."""
        return self._ledger.dropped

    def event(self, target: Reference, type: EventType, reason: str, message: str) -> None:
        """``target``: ``resource.reference(obj)``. ``reason`` is CamelCase."""
        times = self._ledger.note(Subject(target, type, reason, message), clock.now())
        self._noted.set()
        if times != 1:
            return  # a repeat is counted, not told again
        log.log(
            logging.WARNING if type == "Warning" else logging.INFO,
            "event: %s",
            message,
            extra={
                "kind": target.kind,
                "object": f"{target.namespace}/{target.name}",
                "reason": reason,
            },
        )

    async def run(self) -> None:
        """Writes until cancelled, then writes what is left for at most two seconds."""
        try:
            while True:
                self._noted.clear()
                if not await self._write_due():
                    await self._rest()
        finally:
            await self._flush()

    async def _rest(self) -> None:
        """Until something is due or new."""
        at = self._ledger.next_due()
        pause = None if at is None else max(0.0, at - self._now())
        try:
            async with asyncio.timeout(pause):
                await self._noted.wait()
        except TimeoutError:
            pass

    async def _write_due(self) -> bool:
        """Writes one Event; False if none is due. Waits out a server that is away."""
        entry = self._ledger.due(self._now())
        if entry is None:
            return False
        try:
            await self._write(entry)
            self._backoff.succeeded()
        except errors.NotFound:
            # A patch: the Event has expired. A create: its namespace is gone.
            if entry.name:
                self._ledger.lost(entry)
            else:
                self._ledger.refused(entry)
        except _REFUSALS as error:
            log.warning("event refused: %s", error)
            self._ledger.refused(entry)
        except errors.ApiError as error:
            pause = self._backoff.failed()
            log.debug("event not written yet: %s", error, extra={"retry_in": pause})
            await asyncio.sleep(pause)
        return True

    async def _write(self, entry: Entry) -> None:
        count = entry.count
        namespace = entry.subject.target.namespace or "default"
        if entry.name:
            patch = {"count": count, "lastTimestamp": entry.last}
            await self._client.merge_patch(EVENTS, entry.name, patch, namespace)
            name = entry.name
        else:
            document = self._document(entry, namespace)
            await self._client.create(EVENTS, document)
            name = document["metadata"]["name"]
        self._ledger.wrote(entry, name, count, self._now())

    def _document(self, entry: Entry, namespace: str) -> dict[str, Any]:
        target = entry.subject.target
        return {
            # As client-go names them; the random part keeps two components apart.
            "metadata": {
                "name": f"{target.name[:230]}.{secrets.token_hex(8)}",
                "namespace": namespace,
            },
            "involvedObject": {
                "apiVersion": target.api_version,
                "kind": target.kind,
                "namespace": target.namespace,
                "name": target.name,
                "uid": target.uid,
            },
            "type": entry.subject.type,
            "reason": entry.subject.reason,
            "message": entry.subject.message,
            "count": entry.count,
            "firstTimestamp": entry.first,
            "lastTimestamp": entry.last,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
        }

    async def _flush(self) -> None:
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                while await self._write_due():
                    pass
        except TimeoutError:
            log.warning("some events were not written before the end")

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
