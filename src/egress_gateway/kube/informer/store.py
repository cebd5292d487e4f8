"""The state of a cache, without I/O: objects by key, indexes, and what each change was.

Guarantees: the changes returned by successive calls, applied to nothing, give the present
content. A list that lacks a known object yields its deletion, and one that holds an object under
another UID yields a deletion and an appearance, because the two are different objects.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from egress_gateway.kube.resources import Key, Resource

T = TypeVar("T")

_NOBODY: Final[set[Key]] = set()


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """``old`` is None on appearance, ``new`` on deletion; never both."""

    key: Key
    old: T | None
    new: T | None


class Store(Generic[T]):
    """Objects of one kind by key, with indexes that follow them."""

    def __init__(self, resource: Resource[T]) -> None:
        self._resource = resource
        self._objects: dict[Key, T] = {}
        self._indexes: dict[str, Callable[[T], Iterable[str]]] = {}
        self._indexed: dict[str, dict[str, Key | set[Key]]] = {}
        """A set only where several objects have the value: most have an address, a pod or a UID
        alone, and a set for each would be larger than what it holds."""

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: Key) -> T | None:
        """None: there is no such object, as far as the last list and the events since then tell."""
        return self._objects.get(key)

    def keys(self) -> list[Key]:
        """A copy: the store may change while somebody walks through it."""
        return list(self._objects)

    def items(self) -> list[tuple[Key, T]]:
        """A copy: the store may change while somebody walks through it."""
        return list(self._objects.items())

    def values(self) -> list[T]:
        """A copy: the store may change while somebody walks through it."""
        return list(self._objects.values())

    def set_index(self, name: str, values: Callable[[T], Iterable[str]]) -> None:
        """``values`` gives the values by which an object is found."""
        self._indexes[name] = values
        self._indexed[name] = {}
        for key, obj in self._objects.items():
            self._enter(name, key, obj)

    def by_index(self, name: str, value: str) -> list[T]:
        """Raises ``KeyError`` for an index that was never set."""
        found = self._indexed[name].get(value, _NOBODY)
        return [self._objects[key] for key in (found if isinstance(found, set) else (found,))]

    def replace(self, items: Iterable[T], keep: Collection[Key] = ()) -> list[Change[T]]:
        """Makes the content exactly ``items``, plus what is known of ``keep`` (objects that
        exist but could not be decoded: better their last good state than none)."""
        listed = {self._resource.key(obj): obj for obj in items}
        changes: list[Change[T]] = []
        for key in [k for k in self._objects if k not in listed and k not in keep]:
            changes += self.remove(key)
        for obj in listed.values():
            changes += self.put(obj)
        return changes

    def put(self, obj: T) -> list[Change[T]]:
        """One object as it is now; nothing if that is known already."""
        key = self._resource.key(obj)
        old = self._objects.get(key)
        if old is None:
            self._set(key, obj)
            return [Change(key, None, obj)]
        was, now = self._resource.metadata(old), self._resource.metadata(obj)
        if was.uid != now.uid:
            return [*self.remove(key), *self.put(obj)]
        # NB: a server that went back in time gives versions a second time, to other states.
        if was.resource_version == now.resource_version and now.resource_version and old == obj:
            return []
        self._unset(key, old)
        self._set(key, obj)
        return [Change(key, old, obj)]

    def remove(self, key: Key) -> list[Change[T]]:
        """The change that this was; none if there was no such object."""
        old = self._objects.get(key)
        if old is None:
            return []
        self._unset(key, old)
        return [Change(key, old, None)]

    def _set(self, key: Key, obj: T) -> None:
        self._objects[key] = obj
        for name in self._indexes:
            self._enter(name, key, obj)

    def _unset(self, key: Key, obj: T) -> None:
        del self._objects[key]
        for name, values in self._indexes.items():
            entries = self._indexed[name]
            for value in set(values(obj)):
                there = entries[value]
                if isinstance(there, set):
                    there.discard(key)
                if not there or there == key:
                    del entries[value]

    def _enter(self, name: str, key: Key, obj: T) -> None:
        entries = self._indexed[name]
        for value in self._indexes[name](obj):
            there = entries.setdefault(value, key)
            if isinstance(there, set):
                there.add(key)
            elif there != key:
                entries[value] = {there, key}
