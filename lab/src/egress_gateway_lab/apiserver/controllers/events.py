"""Events of the control plane itself, repeated ones counted rather than piled up."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import TYPE_CHECKING

from egress_gateway_lab.apiserver.controllers.loop import Controller, Loop
from egress_gateway_lab.apiserver.objects import Key, Object, key_of, now, suffix
from egress_gateway_lab.apiserver.requests import system_request
from egress_gateway_lab.apiserver.storage.store import Event

if TYPE_CHECKING:
    from egress_gateway_lab.apiserver.api import Api

_KEPT = 5000


class EventExpiry(Controller):
    """Keeps the newest events only (a real server: those of the last hour)."""

    def __init__(self, api: Api, loop: Loop) -> None:
        super().__init__(api, loop)
        self._order: deque[Key] = deque()

    def touched(self, event: Event) -> None:
        if event.storage == "events" and event.type == "ADDED":
            self._order.append(key_of(event.obj))
            if len(self._order) > _KEPT:
                self.mark(self._order.popleft())

    def reconcile(self, key: Hashable) -> None:
        assert isinstance(key, tuple)
        rt = self.api.registry.find("", "v1", "events")
        old = self.store.get("events", key)
        if rt is None or old is None:
            return
        same = ((old.get("involvedObject") or {}).get("uid"), old.get("reason"), old.get("message"))
        self.api.recorded.pop(same, None)
        self.crud.delete(rt, key, None, system_request("DELETE"))


def record(api: Api, obj: Object, kind: str, reason: str, message: str, component: str) -> None:
    """``kind`` is Normal or Warning."""
    meta = obj["metadata"]
    namespace = meta.get("namespace") or "default"
    rt = api.registry.find("", "v1", "events")
    assert rt is not None
    same = (meta["uid"], reason, message)
    known = api.store.get("events", api.recorded[same]) if same in api.recorded else None
    if known is not None:
        _count(api, known)
        return
    stamp = now()
    event: Object = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{suffix(16)}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": obj["apiVersion"],
            "kind": obj["kind"],
            "name": meta["name"],
            "namespace": meta.get("namespace", ""),
            "uid": meta["uid"],
            "resourceVersion": meta.get("resourceVersion", ""),
        },
        "type": kind,
        "reason": reason,
        "message": message,
        "source": {"component": component},
        "reportingComponent": component,
        "reportingInstance": "",
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }
    made = api.crud.create(rt, namespace, event, system_request("POST", manager=component))
    api.recorded[same] = key_of(made)


def _count(api: Api, known: Object) -> None:
    rt = api.registry.find("", "v1", "events")
    assert rt is not None

    def again(event: Object) -> None:
        event["count"] = event.get("count", 1) + 1
        event["lastTimestamp"] = now()

    key = (known["metadata"]["namespace"], known["metadata"]["name"])
    api.crud.modify(rt, key, again, system_request("PATCH"))
