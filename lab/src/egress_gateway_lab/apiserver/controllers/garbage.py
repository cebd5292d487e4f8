"""Garbage collection by owner references.

An object goes when none of its owners exists any more (background). An owner that is deleted in the
foreground waits for its dependents; one that is deleted with ``Orphan`` lets go of them first.
https://kubernetes.io/docs/concepts/architecture/garbage-collection/
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING

from egress_gateway_lab.apiserver.controllers.loop import Controller, Loop
from egress_gateway_lab.apiserver.objects import Key, Object, key_of
from egress_gateway_lab.apiserver.requests import system_request
from egress_gateway_lab.apiserver.storage.store import Event

if TYPE_CHECKING:
    from egress_gateway_lab.apiserver.api import Api

Place = tuple[str, Key]
"""(storage, key)."""


class GarbageCollector(Controller):
    def __init__(self, api: Api, loop: Loop) -> None:
        super().__init__(api, loop)
        self._dependents: dict[str, set[Place]] = {}
        self._alive: dict[str, Place] = {}

    def start(self) -> None:
        for rt in self.api.registry:
            for obj in self.store.list(rt.storage):
                self._note(rt.storage, obj)
                self.mark((rt.storage, key_of(obj)))

    def touched(self, event: Event) -> None:
        place = (event.storage, key_of(event.obj))
        if event.previous is not None:
            self._forget(event.storage, event.previous)
        if event.type != "DELETED":
            self._note(event.storage, event.obj)
        meta = event.obj["metadata"]
        if event.type == "DELETED":
            for dependent in self._dependents.get(meta["uid"], ()):
                self.mark(dependent)
            for owner in meta.get("ownerReferences") or []:
                if (waiting := self._alive.get(owner["uid"])) is not None:
                    self.mark(waiting)
        elif meta.get("ownerReferences") or meta.get("deletionTimestamp"):
            self.mark(place)

    def _note(self, storage: str, obj: Object) -> None:
        place = (storage, key_of(obj))
        self._alive[obj["metadata"]["uid"]] = place
        for owner in obj["metadata"].get("ownerReferences") or []:
            self._dependents.setdefault(owner["uid"], set()).add(place)

    def _forget(self, storage: str, obj: Object) -> None:
        self._alive.pop(obj["metadata"]["uid"], None)
        for owner in obj["metadata"].get("ownerReferences") or []:
            listed = self._dependents.get(owner["uid"])
            if listed is not None:
                listed.discard((storage, key_of(obj)))
                if not listed:
                    del self._dependents[owner["uid"]]

    def reconcile(self, key: Hashable) -> None:
        assert isinstance(key, tuple)
        storage, name = key
        obj = self.store.get(storage, name)
        if obj is None:
            return
        meta = obj["metadata"]
        if meta.get("deletionTimestamp"):
            finalizers = meta.get("finalizers") or []
            if "orphan" in finalizers:
                self._orphan(storage, obj)
            elif "foregroundDeletion" in finalizers:
                self._foreground(storage, obj)
            return
        owners = meta.get("ownerReferences") or []
        if owners and not any(self._exists(o, meta.get("namespace", "")) for o in owners):
            self._delete(storage, name, {"preconditions": {"uid": meta["uid"]}})

    def _exists(self, owner: Object, namespace: str) -> bool:
        place = self._alive.get(owner["uid"])
        # An owner lives in the dependent's namespace or in none; a reference elsewhere is dead.
        return place is not None and place[1][0] in ("", namespace)

    def _dependents_of(self, obj: Object) -> Iterable[tuple[Place, Object]]:
        for place in list(self._dependents.get(obj["metadata"]["uid"], ())):
            found = self.store.get(*place)
            if found is not None:
                yield place, found

    def _orphan(self, storage: str, obj: Object) -> None:
        uid = obj["metadata"]["uid"]
        for (kind, name), _ in self._dependents_of(obj):

            def release(dependent: Object) -> None:
                owners = dependent["metadata"].get("ownerReferences") or []
                dependent["metadata"]["ownerReferences"] = [o for o in owners if o["uid"] != uid]

            self._modify(kind, name, release)
        self._drop_finalizer(storage, obj, "orphan")

    def _foreground(self, storage: str, obj: Object) -> None:
        blocking = False
        for (kind, name), dependent in self._dependents_of(obj):
            if not dependent["metadata"].get("deletionTimestamp"):
                self._delete(kind, name, {"propagationPolicy": "Foreground"})
            blocking = blocking or self.store.get(kind, name) is not None
        if not blocking:
            self._drop_finalizer(storage, obj, "foregroundDeletion")

    def _drop_finalizer(self, storage: str, obj: Object, finalizer: str) -> None:
        def drop(target: Object) -> None:
            kept = [f for f in target["metadata"].get("finalizers") or [] if f != finalizer]
            target["metadata"]["finalizers"] = kept

        self._modify(storage, key_of(obj), drop)

    def _modify(self, storage: str, name: Key, change: object) -> None:
        rt = self.api.registry.by_storage(storage)
        if rt is not None:
            self.crud.modify(rt, name, change, system_request("PATCH"))  # type: ignore[arg-type]

    def _delete(self, storage: str, name: Key, options: Object) -> None:
        rt = self.api.registry.by_storage(storage)
        if rt is not None and self.store.get(storage, name) is not None:
            self.crud.delete(rt, name, options, system_request("DELETE"))
