"""Watches: changes of one resource as a client sees them through its selectors.

An object that a change moves out of the selection is reported as deleted, one that it moves in as
added (https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from egress_gateway_lab.apiserver import errors
from egress_gateway_lab.apiserver.objects import Object
from egress_gateway_lab.apiserver.requests import Request, flag
from egress_gateway_lab.apiserver.storage.options import number
from egress_gateway_lab.apiserver.storage.registry import ResourceType
from egress_gateway_lab.apiserver.storage.selectors import Predicate, predicate
from egress_gateway_lab.apiserver.storage.store import Event, Store, Subscription

BOOKMARK_SECONDS = 10.0
"""Bookmarks come this often on a quiet watch (a real server: about once a minute)."""
_INITIAL_END = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    type: str
    obj: Object


def open_watch(store: Store, rt: ResourceType, request: Request) -> AsyncIterator[WatchEvent]:
    """Raises ``StatusError`` at once for what cannot be watched; a version that is forgotten and
    failures later on are ERROR events, the last of the watch, as kube-apiserver has it."""
    query = request.query
    target = request.target
    select = predicate(rt, query)
    if target.name:
        select = _named(target.name, select)
    version = query.get("resourceVersion", "")
    initial = flag(query, "sendInitialEvents")
    if initial and query.get("resourceVersionMatch") != "NotOlderThan":
        raise errors.invalid(
            "ListOptions",
            "meta.k8s.io",
            "",
            [
                errors.Cause(
                    "resourceVersionMatch",
                    "Forbidden: sendInitialEvents requires setting resourceVersionMatch to "
                    "NotOlderThan",
                )
            ],
        )
    from_start = initial or version in ("", "0")
    try:
        since = store.revision if from_start else int(version)
    except ValueError as error:
        raise errors.bad_request(f"invalid resourceVersion: {version!r}") from error
    present: list[Object] = []
    if from_start and query.get("sendInitialEvents") != "false":
        present = [o for o in store.list(rt.storage, target.namespace_filter) if _in(select, o)]
    try:
        subscription = store.subscribe(rt.storage, since)
    except errors.StatusError as error:
        if error.code != 410:
            raise
        return _refused(error)
    watch = _Watch(subscription, rt, target.namespace_filter, select, store)
    watch.bookmarks = flag(query, "allowWatchBookmarks")
    seconds = number(query, "timeoutSeconds") or random.randint(1800, 3600)
    return watch.run(present, seconds, announce=initial)


async def _refused(error: errors.StatusError) -> AsyncIterator[WatchEvent]:
    yield WatchEvent("ERROR", error.status())


def _named(name: str, inner: Predicate | None) -> Predicate:
    return lambda obj: obj["metadata"]["name"] == name and _in(inner, obj)


def _in(select: Predicate | None, obj: Object) -> bool:
    return select is None or select(obj)


class _Watch:
    def __init__(
        self,
        subscription: Subscription,
        rt: ResourceType,
        namespace: str,
        select: Predicate | None,
        store: Store,
    ) -> None:
        self._subscription = subscription
        self._rt = rt
        self._namespace = namespace
        self._select = select
        self._store = store
        self.bookmarks = False

    async def run(
        self, present: list[Object], seconds: float, *, announce: bool
    ) -> AsyncIterator[WatchEvent]:
        revision = self._store.revision
        ends = time.monotonic() + seconds
        try:
            for obj in present:
                yield WatchEvent("ADDED", obj)
            if announce:
                yield self._bookmark(revision, {_INITIAL_END: "true"})
            while (left := ends - time.monotonic()) > 0:
                try:
                    async with asyncio.timeout(min(left, BOOKMARK_SECONDS)):
                        event = await self._subscription.next()
                except TimeoutError:
                    # A bookmark must not run ahead of a change that has not been sent.
                    now = self._store.revision
                    if (
                        self.bookmarks
                        and self._subscription.idle
                        and now >= self._subscription.since
                    ):
                        yield self._bookmark(now)
                    continue
                if (seen := self._translate(event)) is not None:
                    yield seen
        except errors.StatusError as error:
            yield WatchEvent("ERROR", error.status())
        finally:
            self._subscription.close()

    def _translate(self, event: Event) -> WatchEvent | None:
        namespace = event.obj["metadata"].get("namespace", "")
        if self._namespace and namespace != self._namespace:
            return None
        before = event.previous is not None and _in(self._select, event.previous)
        after = event.type != "DELETED" and _in(self._select, event.obj)
        if after:
            return WatchEvent("MODIFIED" if before else "ADDED", event.obj)
        if before:
            return WatchEvent("DELETED", self._last_seen(event))
        return None

    def _last_seen(self, event: Event) -> Object:
        """The state that the client last selected, at the revision at which it went."""
        if event.type == "DELETED":
            return event.obj
        last = dict(event.previous or event.obj)
        version = event.obj["metadata"]["resourceVersion"]
        last["metadata"] = {**last["metadata"], "resourceVersion": version}
        return last

    def _bookmark(self, revision: int, annotations: dict[str, str] | None = None) -> WatchEvent:
        meta: Object = {"resourceVersion": str(revision), "creationTimestamp": None}
        if annotations:
            meta["annotations"] = annotations
        return WatchEvent(
            "BOOKMARK",
            {"apiVersion": self._rt.api_version, "kind": self._rt.kind, "metadata": meta},
        )


async def closing(events: AsyncIterator[WatchEvent]) -> None:
    """Ends a watch whose reader is gone."""
    with contextlib.suppress(RuntimeError):
        await events.aclose()  # type: ignore[attr-defined]
