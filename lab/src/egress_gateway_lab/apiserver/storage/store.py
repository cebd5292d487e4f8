"""Where objects live, and the order in which they changed.

Guarantees, those of etcd with a watch cache in front:
- one revision counter for everything; an object's ``resourceVersion`` is the revision of its
  last change, a deletion has a revision of its own;
- a watch from revision N sees every change after N exactly once and in order, or is told that
  N is too old (``Expired``): never a gap;
- stored objects are never changed in place, so a reader may keep what it was given.

There is no lock: all methods are synchronous and run on the one event loop.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from egress_gateway_lab.apiserver import errors
from egress_gateway_lab.apiserver.objects import Key, Object

EventType = Literal["ADDED", "MODIFIED", "DELETED"]


@dataclass(frozen=True, slots=True)
class Event:
    """One change. ``previous`` is what was there before (None for ADDED); the object of a
    deletion is its last state with the deletion's revision."""

    revision: int
    type: EventType
    storage: str
    obj: Object
    previous: Object | None


Listener = Callable[[Event], None]


class Subscription:
    """The changes of one resource from a revision on. Closing it is the reader's duty."""

    def __init__(self, store: Store, storage: str, since: int, limit: int) -> None:
        self._store = store
        self.storage = storage
        self.since = since
        self._pending: deque[Event] = deque()
        self._limit = limit
        self._overrun = False
        self._wake = asyncio.Event()

    @property
    def idle(self) -> bool:
        """Whether everything that has changed was read."""
        return not self._pending and not self._overrun

    def push(self, event: Event) -> None:
        if event.revision <= self.since:
            return
        if len(self._pending) >= self._limit:
            self._overrun = True
        else:
            self._pending.append(event)
        self._wake.set()

    async def next(self) -> Event:
        """The next change; raises ``Expired`` for a reader that fell too far behind."""
        while not self._pending:
            if self._overrun:
                raise errors.expired("the watch fell behind: too many changes were not read")
            self._wake.clear()
            await self._wake.wait()
        return self._pending.popleft()

    def close(self) -> None:
        self._store.unsubscribe(self)


class Store:
    """All objects of all resources, by storage name and key."""

    def __init__(self, *, history: int = 2000, backlog: int = 10_000) -> None:
        self.revision = 1
        self._objects: dict[str, dict[Key, Object]] = {}
        self._keys: dict[str, list[Key]] = {}
        self._history: dict[str, deque[Event]] = {}
        self._floor: dict[str, int] = {}
        self._history_length = history
        self._backlog = backlog
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._listeners: list[Listener] = []

    def get(self, storage: str, key: Key) -> Object | None:
        return self._objects.get(storage, {}).get(key)

    def list(self, storage: str, namespace: str = "") -> Sequence[Object]:
        """In the order of namespace and name; all namespaces when none is named."""
        keys = self._keys.get(storage, [])
        if namespace:
            keys = keys[
                bisect_left(keys, (namespace, "")) : bisect_left(keys, (namespace + "\0", ""))
            ]
        found = self._objects.get(storage, {})
        return [found[key] for key in keys]

    def create(self, storage: str, key: Key, obj: Object) -> Object:
        """Stores a new object, whose key must be free; the store owns ``obj`` from now on."""
        assert key not in self._objects.get(storage, {})
        return self._commit("ADDED", storage, key, obj, None)

    def replace(self, storage: str, key: Key, obj: Object) -> Object:
        """Stores an object's next state; the store owns ``obj`` from now on."""
        return self._commit("MODIFIED", storage, key, obj, self._objects[storage][key])

    def remove(self, storage: str, key: Key) -> Object:
        """Ends an object; returns its last state."""
        last = self._objects[storage][key]
        return self._commit("DELETED", storage, key, dict(last), last)

    def _commit(
        self, kind: EventType, storage: str, key: Key, obj: Object, previous: Object | None
    ) -> Object:
        self.revision += 1
        obj["metadata"] = {**obj["metadata"], "resourceVersion": str(self.revision)}
        objects = self._objects.setdefault(storage, {})
        if kind == "DELETED":
            del objects[key]
            keys = self._keys[storage]
            del keys[bisect_left(keys, key)]
        else:
            objects[key] = obj
            if kind == "ADDED":
                insort(self._keys.setdefault(storage, []), key)
        event = Event(self.revision, kind, storage, obj, previous)
        self._record(event)
        for subscription in self._subscriptions.get(storage, []):
            subscription.push(event)
        for listener in self._listeners:
            listener(event)
        return obj

    def _record(self, event: Event) -> None:
        history = self._history.setdefault(event.storage, deque())
        history.append(event)
        if len(history) > self._history_length:
            self._floor[event.storage] = history.popleft().revision

    def subscribe(self, storage: str, since: int) -> Subscription:
        """Changes after revision ``since``; raises ``Expired`` when they are no longer known. One
        that is yet to come is taken, and nothing is told before it: so does kube-apiserver
        (``cacheWatcher.process``), which is how watchers miss changes after etcd was restored."""
        floor = self._floor.get(storage, 0)
        if since < floor:
            raise errors.expired(f"too old resource version: {since} ({floor})")
        subscription = Subscription(self, storage, since, self._backlog)
        for event in self._history.get(storage, ()):
            subscription.push(event)
        self._subscriptions.setdefault(storage, []).append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        listed = self._subscriptions.get(subscription.storage, [])
        if subscription in listed:
            listed.remove(subscription)

    def listen(self, listener: Listener) -> None:
        """Calls ``listener`` synchronously for every change; it must only take note."""
        self._listeners.append(listener)
