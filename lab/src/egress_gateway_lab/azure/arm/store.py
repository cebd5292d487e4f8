"""The emulator's memory: documents by id, who refers to whom, and a revision that grows.

Guarantees
- Documents are values: once stored they are never changed in place, a change stores a new one.
  So a reader may keep and serialize what it got without copying, but must not write into it.
- Stored documents hold no computed back references (``backendIPConfigurations`` and the like);
  those are views over ``referrers``, hence never stale.
- Every change raises ``revision`` and wakes ``changed``, and gives the document a new ETag:
  a fresh ``W/"guid"``, or for ``COUNTED`` types the next number. A number stands for what clients
  may write, so it does not grow when an operation ends.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]

NAMES_ONLY = ("microsoft.containerservice/", "microsoft.authorization/")
"""Providers whose documents name other resources without holding them."""


COUNTED = frozenset(
    {
        "microsoft.compute/virtualmachinescalesets",
        "microsoft.compute/virtualmachinescalesets/virtualmachines",
    }
)
"""Types whose ETag is a version number, ``"1"``: the same before and after an operation's end.
As recorded of Microsoft.Compute 2025-04-01."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored resource: ``type`` is its canonical resource type."""

    id: str
    type: str
    etag: str
    document: Document


class Store:
    """All resources of one emulator. Used from one event loop."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._by_type: dict[str, dict[str, Entry]] = defaultdict(dict)
        self._referrers: dict[str, dict[str, str]] = defaultdict(dict)
        self._targets: dict[str, list[tuple[str, str]]] = {}
        self._revision = 0
        self._moved = asyncio.Event()
        self._changes: dict[str, None] | None = None

    def track(self) -> None:
        """From now on keeps the keys (ids in lower case) of what changes for ``take_changes``."""
        self._changes = {}

    def take_changes(self) -> list[str]:
        """Keys of what was put or deleted since the last call, in order."""
        changed, self._changes = list(self._changes or ()), {}
        return changed

    def mark_changed(self, keys: Iterable[str]) -> None:
        """Gives keys back that could not be dealt with."""
        self._changes = dict.fromkeys(keys) | (self._changes or {})

    @property
    def revision(self) -> int:
        return self._revision

    async def changed(self, since: int) -> int:
        """Waits until ``revision > since``."""
        while self._revision <= since:
            await self._moved.wait()
        return self._revision

    def entry(self, resource_id: str) -> Entry | None:
        return self._entries.get(resource_id.rstrip("/").lower())

    def get(self, resource_id: str) -> Document | None:
        found = self.entry(resource_id)
        return found.document if found else None

    def __contains__(self, resource_id: str) -> bool:
        return self.entry(resource_id) is not None

    def put(self, resource_type: str, document: Document, *, etag: str | None = None) -> Entry:
        """Stores a document under its own ``id``; the caller gives the document away. ``etag``
        is for one that comes back from a file."""
        key = document["id"].lower()
        etag = etag or _etag(resource_type, self._entries.get(key), document)
        entry = Entry(document["id"], resource_type, etag, document)
        self._unlink(key)
        self._entries[key] = entry
        self._by_type[resource_type.lower()][key] = entry
        self._link(key, entry)
        self._touch(key)
        return entry

    def delete(self, resource_id: str) -> None:
        """Forgets a document; nothing happens if there is none."""
        key = resource_id.rstrip("/").lower()
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        del self._by_type[entry.type.lower()][key]
        self._unlink(key)
        self._touch(key)

    def of_type(self, resource_type: str, scope: str = "") -> list[Document]:
        """Documents of a type, optionally only those below ``scope``, in order of creation."""
        prefix = scope.rstrip("/").lower() + "/" if scope else ""
        found = self._by_type.get(resource_type.lower(), {})
        return [e.document for key, e in found.items() if key.startswith(prefix)]

    def below(self, scope: str) -> list[Entry]:
        """Everything strictly below an id, whatever its type."""
        prefix = scope.rstrip("/").lower() + "/"
        return [e for key, e in self._entries.items() if key.startswith(prefix)]

    def everything(self) -> list[Entry]:
        return list(self._entries.values())

    def referrers(self, resource_id: str) -> list[str]:
        """Ids of what refers to a resource: the innermost object with an id of its own around
        each reference, such as a NIC's ipConfig. References inside one document count too."""
        return sorted(self._referrers.get(resource_id.lower(), {}).values())

    def _touch(self, key: str) -> None:
        self._revision += 1
        if self._changes is not None:
            self._changes[key] = None
        self._moved.set()
        self._moved = asyncio.Event()

    def _link(self, key: str, entry: Entry) -> None:
        if entry.type.lower().startswith(NAMES_ONLY):
            return
        targets = [(t.lower(), source) for t, source in references(entry.document)]
        self._targets[key] = targets
        for target, source in targets:
            self._referrers[target][source.lower()] = source

    def _unlink(self, key: str) -> None:
        for target, source in self._targets.pop(key, ()):
            holders = self._referrers.get(target)
            if holders is not None:
                holders.pop(source.lower(), None)
                if not holders:
                    del self._referrers[target]


def _etag(resource_type: str, old: Entry | None, document: Document) -> str:
    if resource_type.lower() not in COUNTED:
        return f'W/"{uuid.uuid4()}"'
    if old is None:
        return '"1"'
    if _written(old.document) == _written(document):
        return old.etag
    number = old.etag.strip('"')
    return f'"{int(number) + 1 if number.isdecimal() else 1}"'


def _written(document: Document) -> Document:
    """What a version number stands for: the document without its state and our own notes."""
    kept = {k: v for k, v in document.items() if not k.startswith("_")}
    properties = dict(kept.get("properties") or {})
    properties.pop("provisioningState", None)
    return {**kept, "properties": properties}


def references(document: Document) -> Iterator[tuple[str, str]]:
    """(referred id, id of the innermost object that refers) for each ``{"id": …}`` without a
    name of its own: the way ARM writes a SubResource."""
    return _walk(document, document.get("id", ""))


def _walk(value: Any, owner: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, list):
        for item in value:
            yield from _walk(item, owner)
    elif isinstance(value, dict):
        own = value.get("id")
        if isinstance(own, str) and own.startswith("/"):
            if "name" not in value:
                yield own, owner
                return
            owner = own
        for item in value.values():
            yield from _walk(item, owner)
