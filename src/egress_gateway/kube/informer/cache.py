"""A local copy of a kind that follows the API server and survives its absence.

Guarantees: callbacks report every object's appearance, its latest state and its disappearance,
deletions missed while disconnected included; states in between may be skipped. Reads never block
and never fail. It asks the server with backoff and jitter, and never in a tight loop, whatever the
server answers (a watch that ends at once, 410 again and again). A connection on which not even a
bookmark comes (a half-open TCP connection after a failover) is given up after ``inactivity``. A
server that went back in time (etcd restored from a backup) is noticed when it answers again, unless
it has overtaken us by then. Not guaranteed: order between caches.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Final, Generic, TypeVar

from egress_gateway.kube import errors
from egress_gateway.kube.client import Client
from egress_gateway.kube.informer.store import Change, Store
from egress_gateway.kube.resources import Key, Resource
from egress_gateway.kube.wire import Undecodable, WatchEvent
from egress_gateway.service.backoff import Backoff

T = TypeVar("T")
Callback = Callable[[Key, T | None, T | None], None]

log = logging.getLogger(__name__)

WATCH_SECONDS: Final = 300
"""The server ends a watch after about this long and we resume it, so that load spreads."""
INACTIVITY: Final = 120.0
"""Seconds. The server sends a bookmark about every minute."""
_STEADY: Final = 5.0
"""Seconds that a watch must have lasted (or an event come) to count as a success."""
_STUBBORN: Final = 3
"""Refusals in a row after which the version itself is given up: a re-created CRD answers a watch
with 404."""


class Cache(Generic[T]):
    """``run()`` it in a task; read it from anywhere in the same event loop.

    Reads never block and never fail: while the server is away they answer the last state.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
        inactivity: float = INACTIVITY,
        backoff: Backoff | None = None,
    ) -> None:
        self._client = client
        self._resource = resource
        self._namespace = namespace
        self._labels = labels
        self._fields = fields
        self._inactivity = inactivity
        self._backoff = backoff or Backoff(0.2, 30.0)
        self._store = Store(resource)
        self._callbacks: list[Callback[T]] = []
        self._synced = asyncio.Event()
        self._version = ""
        self._doubted = False
        self._heard = float("-inf")

    def on_change(self, callback: Callback[T]) -> None:
        """``callback(key, old, new)`` after each change: ``old`` None on appearance, ``new``
        None on deletion. Must not block; it usually adds a key to a WorkQueue. Called at once
        for objects that are already here."""
        self._callbacks.append(callback)
        for key, obj in self._store.items():
            self._call(callback, Change(key, None, obj))

    def set_index(self, name: str, values: Callable[[T], Iterable[str]]) -> None:
        """Keeps an index: ``by_index(name, value)`` answers the objects for which ``values``
        yields ``value``. ``values`` must depend on the object alone."""
        self._store.set_index(name, values)

    def by_index(self, name: str, value: str) -> list[T]:
        """Objects for which the index ``name`` has ``value``. Raises ``KeyError`` for an index that
        was never set."""
        return self._store.by_index(name, value)

    def get(self, namespace: str, name: str) -> T | None:
        """``namespace`` is empty for cluster-scoped kinds."""
        return self._store.get(Key(namespace, name))

    def values(self) -> list[T]:
        """A list of its own, in no order; it does not change with the cache."""
        return self._store.values()

    def keys(self) -> list[Key]:
        """A list of its own, in no order; it does not change with the cache."""
        return self._store.keys()

    def __len__(self) -> int:
        return len(self._store)

    async def synced(self) -> None:
        """Returns when the first complete list is in (its callbacks have been called)."""
        await self._synced.wait()

    @property
    def plural(self) -> str:
        """The kind, as URLs have it."""
        return self._resource.plural

    @property
    def is_synced(self) -> bool:
        """Whether the first list has been read; before, what is absent says nothing."""
        return self._synced.is_set()

    @property
    def seconds_behind(self) -> float:
        """Seconds since the server last proved that it is there (list, event, bookmark, end of
        a watch); infinite before the first."""
        return time.monotonic() - self._heard

    async def run(self) -> None:
        """Lists and watches until cancelled. Never raises because of the server."""
        while True:
            wait = 0.0
            try:
                if not self._version or (self._doubted and await self._went_back()):
                    await self._relist()
                self._doubted = False
                if not await self._follow():
                    wait = self._backoff.failed()
            except errors.Gone:
                # The server's memory is shorter than our absence: the next list tells what
                # was missed. A server that answers Gone to everything must not be hammered.
                self._version = ""
                wait = self._backoff.failed()
            except errors.ApiError as error:
                # Who answers next may have been restored from a backup, and a watch from the
                # future is silent.
                self._doubted = True
                wait = max(self._backoff.failed(), error.retry_after or 0.0)
                log.warning(
                    "cannot follow %s: %s", self._resource.plural, error, extra={"retry_in": wait}
                )
                if error.status and self._backoff.failures >= _STUBBORN:
                    self._version = ""
            await asyncio.sleep(wait)

    async def _went_back(self) -> bool:
        """Whether the server has not come as far as our version. It is asked for one name, of which
        it reads one key, and not from a version on: a server that lags behind another would refuse
        that, and kube-apiserver 1.30 look through all objects for the first that matches. Versions
        can be compared (KEP-5504)."""
        page = await self._client.list(
            self._resource, self._namespace or "default", fields="metadata.name=nobody"
        )
        ours, theirs = self._version, page.resource_version
        return ours.isdecimal() and theirs.isdecimal() and int(theirs) < int(ours)

    async def _relist(self) -> None:
        page = await self._client.list(
            self._resource, self._namespace, labels=self._labels, fields=self._fields
        )
        self._warn(page.undecodable)
        self._heard = time.monotonic()
        self._report(self._store.replace(page.items, {bad.key for bad in page.undecodable}))
        self._version = page.resource_version
        self._synced.set()

    async def _follow(self) -> bool:
        """One watch to its end; False if it ended so soon that another needs a pause."""
        began = time.monotonic()
        events = self._client.watch(
            self._resource,
            self._namespace,
            labels=self._labels,
            fields=self._fields,
            resource_version=self._version,
            timeout_seconds=WATCH_SECONDS,
            inactivity=self._inactivity,
        )
        async with aclosing(events):
            async for event in events:
                self._heard = time.monotonic()
                self._backoff.succeeded()
                self._take(event)
        self._heard = time.monotonic()
        if self._heard - began >= _STEADY:
            self._backoff.succeeded()
            return True
        return False

    def _take(self, event: WatchEvent[T]) -> None:
        if event.undecodable:
            self._warn([event.undecodable])
            if event.type == "DELETED":
                self._report(self._store.remove(event.undecodable.key))
        elif event.obj is not None:
            if event.type == "DELETED":
                self._report(self._store.remove(self._resource.key(event.obj)))
            else:
                self._report(self._store.put(event.obj))
        # NB: only after the change is in, so that a resumed watch cannot skip it.
        self._version = event.resource_version or self._version

    def _report(self, changes: list[Change[T]]) -> None:
        for change in changes:
            for callback in self._callbacks:
                self._call(callback, change)

    def _call(self, callback: Callback[T], change: Change[T]) -> None:
        try:
            callback(change.key, change.old, change.new)
        except Exception:
            # One consumer's fault must not stop the cache for all others.
            log.exception("callback failed for %s %s", self._resource.kind, change.key)

    def _warn(self, undecodable: Iterable[Undecodable]) -> None:
        for bad in undecodable:
            log.warning(
                "%s %s does not decode and is ignored: %s", self._resource.kind, bad.key, bad.why
            )
