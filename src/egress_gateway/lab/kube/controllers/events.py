"""Events of the control plane itself, repeated ones counted rather than piled up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress_gateway.lab.kube.objects import Object, now, suffix
from egress_gateway.lab.kube.requests import system_request

if TYPE_CHECKING:
    from egress_gateway.lab.kube.api import Api


def record(api: Api, obj: Object, kind: str, reason: str, message: str, component: str) -> None:
    """``kind`` is Normal or Warning."""
    meta = obj["metadata"]
    namespace = meta.get("namespace") or "default"
    rt = api.registry.find("", "v1", "events")
    assert rt is not None
    for known in api.store.list("events", namespace):
        involved = known.get("involvedObject") or {}
        if (involved.get("uid"), known.get("reason"), known.get("message")) == (
            meta["uid"],
            reason,
            message,
        ):
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
    api.crud.create(rt, namespace, event, system_request("POST", manager=component))


def _count(api: Api, known: Object) -> None:
    rt = api.registry.find("", "v1", "events")
    assert rt is not None

    def again(event: Object) -> None:
        event["count"] = event.get("count", 1) + 1
        event["lastTimestamp"] = now()

    key = (known["metadata"]["namespace"], known["metadata"]["name"])
    api.crud.modify(rt, key, again, system_request("PATCH"))
