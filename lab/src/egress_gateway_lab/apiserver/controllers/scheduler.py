"""The scheduler: binds pods that have no node, or says why it cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from egress_gateway_lab.apiserver.controllers.events import record
from egress_gateway_lab.apiserver.controllers.loop import Controller, Loop
from egress_gateway_lab.apiserver.controllers.placement import (
    considers_others,
    obstacle,
    preference,
)
from egress_gateway_lab.apiserver.controllers.pods import PodIndex
from egress_gateway_lab.apiserver.objects import Object, key_of, now
from egress_gateway_lab.apiserver.requests import ADMIN, Request, Target, system_request
from egress_gateway_lab.apiserver.storage.store import Event
from egress_gateway_lab.apiserver.subresources import bind

if TYPE_CHECKING:
    from egress_gateway_lab.apiserver.api import Api

_NAME = "default-scheduler"


class Scheduler(Controller):
    def __init__(self, api: Api, loop: Loop, pods: PodIndex) -> None:
        super().__init__(api, loop)
        self._pods = pods

    def start(self) -> None:
        self._mark_waiting()

    def touched(self, event: Event) -> None:
        if event.storage == "pods":
            if event.type == "DELETED":
                self._mark_waiting()
            elif _waiting(event.obj) and not _noted(event):
                self.mark(key_of(event.obj))
        elif event.storage == "nodes" and event.type != "DELETED" and _matters(event):
            self._mark_waiting()

    def _mark_waiting(self) -> None:
        for pod in self._pods.without_node():
            if _waiting(pod):
                self.mark(key_of(pod))

    def reconcile(self, key: Hashable) -> None:
        assert isinstance(key, tuple)
        pod = self.store.get("pods", key)
        if pod is None or not _waiting(pod):
            return
        obstacles: Counter[str] = Counter()
        fitting: list[Object] = []
        nodes = list(self.store.list("nodes"))
        looks = considers_others(pod)
        for node in nodes:
            why = obstacle(pod, node, self._occupants(node) if looks else ())
            if why is None:
                fitting.append(node)
            else:
                obstacles[why] += 1
        if not fitting:
            self._cannot(pod, len(nodes), obstacles)
            return
        self._bind(pod, self._best(pod, fitting))

    def _occupants(self, node: Object) -> list[Object]:
        return [p for p in self._pods.on_node(node["metadata"]["name"]) if _occupies(p)]

    def _best(self, pod: Object, fitting: list[Object]) -> str:
        siblings = self._pods.siblings(pod)

        def rank(node: Object) -> tuple[Any, ...]:
            name = node["metadata"]["name"]
            count = self._pods.count_on(name)
            return preference(pod, node, siblings=siblings[name], pods=count)

        name: str = min(fitting, key=rank)["metadata"]["name"]
        return name

    def _bind(self, pod: Object, node: str) -> None:
        rt = self.api.registry.find("", "v1", "pods")
        assert rt is not None
        namespace, name = key_of(pod)
        target = Target(path="", version="v1", plural="pods", namespace=namespace, name=name)
        request = Request(
            method="POST",
            target=target,
            query={"fieldManager": "kube-scheduler"},
            body={"target": {"kind": "Node", "name": node}},
            user=ADMIN,
        )
        bind(self.api, rt, request)
        message = f"Successfully assigned {namespace}/{name} to {node}"
        record(self.api, pod, "Normal", "Scheduled", message, _NAME)

    def _cannot(self, pod: Object, nodes: int, obstacles: Counter[str]) -> None:
        reasons = ", ".join(f"{count} {why}" for why, count in sorted(obstacles.items()))
        message = f"0/{nodes} nodes are available" + (f": {reasons}." if reasons else ".")
        known = _scheduled(pod)
        if known is not None and known.get("message") == message:
            return
        rt = self.api.registry.find("", "v1", "pods")
        assert rt is not None

        def note(obj: Object) -> None:
            status = obj.setdefault("status", {})
            others = [c for c in status.get("conditions") or [] if c["type"] != "PodScheduled"]
            waiting = {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": message,
                "lastProbeTime": None,
                "lastTransitionTime": now(),
            }
            status["conditions"] = [*others, waiting]

        request = system_request("PATCH", manager="kube-scheduler")
        self.crud.modify(rt, key_of(pod), note, request, "status")
        record(self.api, pod, "Warning", "FailedScheduling", message, _NAME)


def _scheduled(pod: Object) -> Object | None:
    for entry in (pod.get("status") or {}).get("conditions") or []:
        if entry["type"] == "PodScheduled":
            found: Object = entry
            return found
    return None


def _occupies(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def _waiting(pod: Object) -> bool:
    spec = pod["spec"]
    return (
        not spec.get("nodeName")
        and not spec.get("schedulingGates")
        and not pod["metadata"].get("deletionTimestamp")
        and spec.get("schedulerName", _NAME) == _NAME
    )


def _noted(event: Event) -> bool:
    """Whether the change is our own note that a pod could not be placed."""
    return event.previous is not None and _scheduled(event.previous) != _scheduled(event.obj)


def _matters(event: Event) -> bool:
    """Heartbeats do not make room; labels, taints and cordons may."""
    if event.previous is None:
        return True
    old, new = event.previous, event.obj
    return bool(
        old["spec"] != new["spec"] or old["metadata"].get("labels") != new["metadata"].get("labels")
    )
