"""Nodes that fall silent, the taints that say so, and the pods that must leave.

A node's heartbeat is its Lease in ``kube-node-lease``. Its silence makes the node Unknown and
taints it ``unreachable``; a node that says itself that it is not ready is tainted ``not-ready``.
Pods leave when they do not tolerate a NoExecute taint, and when their node is gone for good.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import TYPE_CHECKING

from egress_gateway_lab.apiserver.controllers.events import record
from egress_gateway_lab.apiserver.controllers.loop import Controller, Loop
from egress_gateway_lab.apiserver.controllers.placement import tolerates
from egress_gateway_lab.apiserver.controllers.pods import PodIndex
from egress_gateway_lab.apiserver.objects import Object, condition, key_of, now
from egress_gateway_lab.apiserver.requests import system_request
from egress_gateway_lab.apiserver.storage.store import Event

if TYPE_CHECKING:
    from egress_gateway_lab.apiserver.api import Api

_LEASES = "leases.coordination.k8s.io"
_LEASE_NAMESPACE = "kube-node-lease"
NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
_EFFECTS = ("NoSchedule", "NoExecute")


class NodeLifecycle(Controller):
    """Judges nodes by their heartbeats. A node that never had a Lease is taken at its word."""

    def __init__(self, api: Api, loop: Loop, pods: PodIndex, grace: float) -> None:
        super().__init__(api, loop)
        self._pods = pods
        self._grace = grace
        self._heard: dict[str, float] = {}
        self._watched: set[str] = set()

    def start(self) -> None:
        for node in self.store.list("nodes"):
            self.mark(node["metadata"]["name"])

    def touched(self, event: Event) -> None:
        name = event.obj["metadata"]["name"]
        if event.storage == "nodes":
            if event.type == "DELETED":
                self._heard.pop(name, None)
            else:
                self.mark(name)
        elif event.storage == _LEASES and event.type != "DELETED":
            self._hear(event.obj)

    def _hear(self, lease: Object) -> None:
        name = lease["metadata"]["name"]
        if lease["metadata"]["namespace"] != _LEASE_NAMESPACE:
            return
        present = time.monotonic()
        silent = present - self._heard.get(name, 0) > self._grace
        self._heard[name] = present
        if silent or name not in self._watched:
            self.mark(name)

    def reconcile(self, key: Hashable) -> None:
        name = str(key)
        node = self.store.get("nodes", ("", name))
        if node is None:
            self._watched.discard(name)
            return
        heard = self._heard.get(name)
        if heard is not None:
            left = heard + self._grace - time.monotonic()
            if left <= 0:
                self._unknown(node)
            # One timer per node, set again by itself: a heartbeat costs nothing but a time.
            self._watched.discard(name)
            if left > 0:
                self._watched.add(name)
                self.mark_later(name, left + 0.05)
        self._taint(self.store.get("nodes", ("", name)) or node)

    def _unknown(self, node: Object) -> None:
        ready = condition(node, "Ready")
        if ready is not None and ready["status"] == "Unknown":
            return
        rt = self.api.registry.find("", "v1", "nodes")
        assert rt is not None

        def doubt(obj: Object) -> None:
            status = obj.setdefault("status", {})
            for entry in status.setdefault("conditions", []):
                entry |= {
                    "status": "Unknown",
                    "reason": "NodeStatusUnknown",
                    "message": "Kubelet stopped posting node status.",
                    "lastTransitionTime": now(),
                }
            if condition(obj, "Ready") is None:
                status["conditions"].append(
                    {
                        "type": "Ready",
                        "status": "Unknown",
                        "reason": "NodeStatusNeverUpdated",
                        "message": "Kubelet never posted node status.",
                        "lastTransitionTime": now(),
                    }
                )

        self.crud.modify(rt, key_of(node), doubt, system_request("PATCH"), "status")
        message = f"Node {node['metadata']['name']} status is now: NodeNotReady"
        record(self.api, node, "Normal", "NodeNotReady", message, "node-controller")
        self._pods_not_ready(node["metadata"]["name"])

    def _pods_not_ready(self, name: str) -> None:
        """What a silent node runs can be relied on by nobody."""
        rt = self.api.registry.find("", "v1", "pods")
        assert rt is not None

        def doubt(pod: Object) -> None:
            for entry in pod["status"].get("conditions") or []:
                if entry["type"] == "Ready" and entry["status"] == "True":
                    entry |= {"status": "False", "lastTransitionTime": now()}

        for pod in self._pods.on_node(name):
            if pod.get("status"):
                self.crud.modify(rt, key_of(pod), doubt, system_request("PATCH"), "status")

    def _taint(self, node: Object) -> None:
        ready = (condition(node, "Ready") or {}).get("status")
        wanted = {"False": NOT_READY, "Unknown": UNREACHABLE}.get(ready or "")
        taints = node["spec"].get("taints") or []
        have = {(t["key"], t["effect"]) for t in taints if t["key"] in (NOT_READY, UNREACHABLE)}
        want = {(wanted, effect) for effect in _EFFECTS} if wanted else set()
        if have == want:
            return
        rt = self.api.registry.find("", "v1", "nodes")
        assert rt is not None

        def put(obj: Object) -> None:
            kept = [
                t
                for t in obj["spec"].get("taints") or []
                if t["key"] not in (NOT_READY, UNREACHABLE) or (t["key"], t["effect"]) in want
            ]
            new = [
                {"key": key, "effect": effect, "timeAdded": now()}
                for key, effect in sorted(want - have)
            ]
            obj["spec"]["taints"] = kept + new
            if not obj["spec"]["taints"]:
                del obj["spec"]["taints"]

        self.crud.modify(rt, key_of(node), put, system_request("PATCH"))


class TaintEviction(Controller):
    """Deletes pods that do not, or no longer, tolerate a NoExecute taint of their node."""

    def __init__(self, api: Api, loop: Loop, pods: PodIndex) -> None:
        super().__init__(api, loop)
        self._pods = pods
        self._since: dict[tuple[str, str], float] = {}

    def start(self) -> None:
        for pod in self.store.list("pods"):
            self.mark(key_of(pod))

    def touched(self, event: Event) -> None:
        if event.storage == "nodes" and event.type == "MODIFIED":
            if (event.previous or {}).get("spec") != event.obj["spec"]:
                for pod in self._pods.on_node(event.obj["metadata"]["name"]):
                    self.mark(key_of(pod))
        elif (
            event.storage == "pods"
            and event.type != "DELETED"
            and event.obj["spec"].get("nodeName")
        ):
            placed_now = not (event.previous or {"spec": {}})["spec"].get("nodeName")
            if placed_now:
                self.mark(key_of(event.obj))

    def reconcile(self, key: Hashable) -> None:
        assert isinstance(key, tuple)
        pod = self.store.get("pods", key)
        if pod is None or pod["metadata"].get("deletionTimestamp"):
            self._since.pop(key, None)
            return
        node = self.store.get("nodes", ("", pod["spec"].get("nodeName", "")))
        taints = [
            t
            for t in (node or {"spec": {}})["spec"].get("taints") or []
            if t["effect"] == "NoExecute"
        ]
        if not taints:
            self._since.pop(key, None)
            return
        patience = min(_patience(pod, taint) for taint in taints)
        if patience == float("inf"):
            return
        waited = time.monotonic() - self._since.setdefault(key, time.monotonic())
        if waited < patience:
            self.mark_later(key, patience - waited + 0.05)
            return
        rt = self.api.registry.find("", "v1", "pods")
        assert rt is not None
        self._since.pop(key, None)
        record(
            self.api,
            pod,
            "Normal",
            "TaintManagerEviction",
            f"Marking for deletion Pod {key[0]}/{key[1]}",
            "taint-eviction-controller",
        )
        self.crud.delete(rt, key, None, system_request("DELETE"))


def _patience(pod: Object, taint: Object) -> float:
    """Seconds that a pod stands a taint."""
    seconds = [
        t.get("tolerationSeconds")
        for t in pod["spec"].get("tolerations") or []
        if tolerates([t], taint)
    ]
    if not seconds:
        return 0.0
    bounded = [float(s) for s in seconds if s is not None]
    return min(bounded) if bounded else float("inf")


class PodCollector(Controller):
    """Removes pods whose node no longer exists: no kubelet will ever finish their deletion."""

    def __init__(self, api: Api, loop: Loop, pods: PodIndex) -> None:
        super().__init__(api, loop)
        self._pods = pods

    def start(self) -> None:
        for pod in self.store.list("pods"):
            self.mark(key_of(pod))

    def touched(self, event: Event) -> None:
        if event.storage == "nodes" and event.type == "DELETED":
            for pod in self._pods.on_node(event.obj["metadata"]["name"]):
                self.mark(key_of(pod))

    def reconcile(self, key: Hashable) -> None:
        assert isinstance(key, tuple)
        pod = self.store.get("pods", key)
        if pod is None or not (name := pod["spec"].get("nodeName")):
            return
        if self.store.get("nodes", ("", name)) is not None:
            return
        rt = self.api.registry.find("", "v1", "pods")
        assert rt is not None
        self.crud.delete(rt, key, {"gracePeriodSeconds": 0}, system_request("DELETE"))
