"""DaemonSets: one pod on every node that matches and whose taints the pod tolerates."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from egress_gateway_lab.apiserver.controllers.loop import Loop
from egress_gateway_lab.apiserver.controllers.placement import selected, untolerated
from egress_gateway_lab.apiserver.controllers.pods import (
    PodIndex,
    Workloads,
    create_pod,
    delete_pod,
    is_active,
    is_ready,
    set_status,
    template_hash,
)
from egress_gateway_lab.apiserver.objects import (
    Object,
    clone,
    dig,
    labels_of,
)
from egress_gateway_lab.apiserver.storage.store import Event

if TYPE_CHECKING:
    from egress_gateway_lab.apiserver.api import Api

_COMPONENT = "daemonset-controller"
_HASH = "controller-revision-hash"
_TOLERATED = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)
"""What every DaemonSet's pods tolerate (AddOrUpdateDaemonPodTolerations)."""


def with_tolerations(template: Object) -> Object:
    """The template as the controller makes pods from it."""
    changed = clone(template)
    spec = changed["spec"]
    added = list(_TOLERATED)
    if spec.get("hostNetwork"):
        added.append(("node.kubernetes.io/network-unavailable", "NoSchedule"))
    spec.setdefault("tolerations", []).extend(
        {"key": key, "operator": "Exists", "effect": effect} for key, effect in added
    )
    result: Object = changed
    return result


class DaemonSets(Workloads):
    storage = "daemonsets.apps"
    kind = "DaemonSet"

    def __init__(self, api: Api, loop: Loop, pods: PodIndex) -> None:
        super().__init__(api, loop)
        self._pods = pods

    def touched(self, event: Event) -> None:
        super().touched(event)
        if event.storage == "nodes" and _placement_changed(event):
            self.start()

    def reconcile(self, key: Hashable) -> None:
        assert isinstance(key, tuple)
        owner = self.store.get("daemonsets.apps", key)
        if owner is None or owner["metadata"].get("deletionTimestamp"):
            return
        wanted = template_hash(owner["spec"]["template"])
        template = with_tolerations(owner["spec"]["template"])
        nodes = list(self.store.list("nodes"))
        wants = {n["metadata"]["name"] for n in nodes if _should_run(template["spec"], n)}
        keeps = {n["metadata"]["name"] for n in nodes if _may_stay(template["spec"], n)}
        self._remove(owner, wants, keeps)
        present = self._by_node(owner)
        for node in sorted(wants - present.keys()):
            create_pod(
                self.api,
                {**owner, "spec": {**owner["spec"], "template": template}},
                labels={_HASH: wanted},
                node=node,
                component=_COMPONENT,
            )
        self._roll(owner, wants, wanted)
        self._report(owner, wants, wanted)

    def _by_node(self, owner: Object) -> dict[str, list[Object]]:
        found: dict[str, list[Object]] = {}
        for pod in self._pods.owned(owner):
            found.setdefault(_node_of(pod), []).append(pod)
        return found

    def _remove(self, owner: Object, wants: set[str], keeps: set[str]) -> None:
        """Pods that finished, that are one too many, or whose node no longer wants them."""
        for node, pods in self._by_node(owner).items():
            live = [p for p in pods if is_active(p)]
            for pod in pods:
                ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
                if not pod["metadata"].get("deletionTimestamp") and ended:
                    delete_pod(self.api, owner, pod, component=_COMPONENT)
            allowed = live[:1] if node in wants or node in keeps else []
            for pod in live:
                if pod not in allowed:
                    delete_pod(self.api, owner, pod, component=_COMPONENT)

    def _roll(self, owner: Object, wants: set[str], wanted: str) -> None:
        strategy = owner["spec"]["updateStrategy"]
        if strategy.get("type") != "RollingUpdate":
            return
        limit = (strategy.get("rollingUpdate") or {}).get("maxUnavailable", 1)
        if isinstance(limit, str):
            limit = max(1, -(-int(limit.rstrip("%")) * len(wants) // 100))
        pods = self._pods.owned(owner)
        serving = {_node_of(p) for p in pods if is_active(p) and is_ready(p)}
        spare = int(limit) - len(wants - serving)
        for pod in pods:
            if not is_active(pod) or labels_of(pod).get(_HASH) == wanted:
                continue
            # An old pod that serves nobody costs nothing to replace.
            if is_ready(pod):
                if spare < 1:
                    continue
                spare -= 1
            delete_pod(self.api, owner, pod, component=_COMPONENT)

    def _report(self, owner: Object, wants: set[str], wanted: str) -> None:
        pods = [p for p in self._pods.owned(owner) if is_active(p)]
        placed = [p for p in pods if _node_of(p) in wants]
        ready = sum(map(is_ready, placed))
        status: Object = {
            "observedGeneration": owner["metadata"]["generation"],
            "desiredNumberScheduled": len(wants),
            "currentNumberScheduled": len({_node_of(p) for p in placed}),
            "numberMisscheduled": len(pods) - len(placed),
            "numberReady": ready,
            "numberAvailable": ready,
            "numberUnavailable": len(wants) - ready,
            "updatedNumberScheduled": sum(labels_of(p).get(_HASH) == wanted for p in placed),
        }
        optional = ("numberAvailable", "numberUnavailable", "updatedNumberScheduled")
        set_status(self.api, owner, {k: v for k, v in status.items() if v or k not in optional})


def _node_of(pod: Object) -> str:
    """Where a daemon's pod is, or is pinned to."""
    if name := pod["spec"].get("nodeName"):
        return str(name)
    path = ("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    for term in (dig(pod["spec"], path) or {}).get("nodeSelectorTerms") or []:
        for field in term.get("matchFields") or []:
            return str(field["values"][0])
    return ""


def _should_run(spec: Object, node: Object) -> bool:
    return selected(spec, node) and untolerated(spec, node, ("NoSchedule", "NoExecute")) is None


def _may_stay(spec: Object, node: Object) -> bool:
    return selected(spec, node) and untolerated(spec, node, ("NoExecute",)) is None


def _placement_changed(event: Event) -> bool:
    if event.type != "MODIFIED" or event.previous is None:
        return True
    old, new = event.previous, event.obj
    return bool(old["spec"] != new["spec"] or labels_of(old) != labels_of(new))
