"""ReplicaSets and Deployments, with rolling updates that kubectl can follow."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from egress_gateway_lab.apiserver.controllers.events import record
from egress_gateway_lab.apiserver.controllers.loop import Loop
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
    condition,
    controller_of,
    key_of,
    labels_of,
    now,
    owner_reference,
)
from egress_gateway_lab.apiserver.requests import system_request
from egress_gateway_lab.apiserver.storage.store import Event

if TYPE_CHECKING:
    from egress_gateway_lab.apiserver.api import Api

_REVISION = "deployment.kubernetes.io/revision"
_HASH = "pod-template-hash"


class ReplicaSets(Workloads):
    """Keeps as many pods as asked for; the least useful go first."""

    storage = "replicasets.apps"
    kind = "ReplicaSet"

    def __init__(self, api: Api, loop: Loop, pods: PodIndex) -> None:
        super().__init__(api, loop)
        self._pods = pods

    def reconcile(self, key: Hashable) -> None:
        assert isinstance(key, tuple)
        owner = self.store.get("replicasets.apps", key)
        if owner is None or owner["metadata"].get("deletionTimestamp"):
            return
        active = [p for p in self._pods.owned(owner) if is_active(p)]
        wanted = owner["spec"].get("replicas", 1)
        for _ in range(wanted - len(active)):
            create_pod(self.api, owner, labels={}, component="replicaset-controller")
        if len(active) > wanted:
            for pod in sorted(active, key=_usefulness)[: len(active) - wanted]:
                delete_pod(self.api, owner, pod, component="replicaset-controller")
        # Status is of what is there now; the pods just made will mark this key again.
        active = [p for p in self._pods.owned(owner) if is_active(p)]
        ready = sum(map(is_ready, active))
        status: Object = {
            "replicas": len(active),
            "fullyLabeledReplicas": len(active),
            "observedGeneration": owner["metadata"]["generation"],
        }
        if ready:
            status |= {"readyReplicas": ready, "availableReplicas": ready}
        set_status(self.api, owner, status)


def _usefulness(pod: Object) -> tuple[Any, ...]:
    """Pods without a node, then without readiness, then the youngest go first."""
    born = pod["metadata"]["creationTimestamp"]
    return (
        bool(pod["spec"].get("nodeName")),
        is_ready(pod),
        [-ord(c) for c in born],
        pod["metadata"]["name"],
    )


def _limits(deployment: Object, replicas: int) -> tuple[int, int]:
    """(surge, unavailable) of a rolling update; both zero is not allowed."""
    rolling = deployment["spec"]["strategy"].get("rollingUpdate") or {}
    surge = _share(rolling.get("maxSurge", "25%"), replicas, up=True)
    unavailable = _share(rolling.get("maxUnavailable", "25%"), replicas, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, unavailable


def _share(value: int | str, of: int, *, up: bool) -> int:
    if isinstance(value, str) and value.endswith("%"):
        part = int(value[:-1]) * of
        return -(-part // 100) if up else part // 100
    return int(value)


class Deployments(Workloads):
    """A ReplicaSet per template; moves replicas from the old to the new."""

    storage = "deployments.apps"
    kind = "Deployment"
    owned = "replicasets.apps"

    def touched(self, event: Event) -> None:
        super().touched(event)
        if event.storage == "pods" and event.type == "DELETED":
            # Recreate waits for the old pods to be gone, not only for them to be ending.
            for obj in self.store.list(self.storage, event.obj["metadata"]["namespace"]):
                if obj["spec"]["strategy"].get("type") == "Recreate":
                    self.mark(key_of(obj))

    def reconcile(self, key: Hashable) -> None:
        assert isinstance(key, tuple)
        deployment = self.store.get("deployments.apps", key)
        if deployment is None or deployment["metadata"].get("deletionTimestamp"):
            return
        sets = self._sets(deployment)
        wanted_hash = template_hash(deployment["spec"]["template"])
        if not deployment["spec"].get("paused"):
            current = next((s for s in sets if _hash(s) == wanted_hash), None)
            if current is None:
                current = self._new_set(deployment, sets, wanted_hash)
            self._note_revision(deployment, sets, current)
            self._move(deployment, current)
            self._tidy(deployment, wanted_hash)
        self._report(self.store.get("deployments.apps", key) or deployment, wanted_hash)

    def _sets(self, deployment: Object) -> list[Object]:
        uid = deployment["metadata"]["uid"]
        namespace = deployment["metadata"]["namespace"]
        return [
            s
            for s in self.store.list("replicasets.apps", namespace)
            if (owner := controller_of(s)) is not None and owner["uid"] == uid
        ]

    def _new_set(self, deployment: Object, sets: list[Object], wanted_hash: str) -> Object:
        rt = self.api.registry.find("apps", "v1", "replicasets")
        assert rt is not None
        meta, spec = deployment["metadata"], clone(deployment["spec"])
        labels = {**labels_of(spec["template"]), _HASH: wanted_hash}
        spec["template"].setdefault("metadata", {})["labels"] = labels
        selector = spec["selector"]
        match_labels = {**(selector.get("matchLabels") or {}), _HASH: wanted_hash}
        annotations = meta.get("annotations") or {}
        return self.crud.create(
            rt,
            meta["namespace"],
            {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "metadata": {
                    "name": f"{meta['name']}-{wanted_hash}",
                    "namespace": meta["namespace"],
                    "labels": labels,
                    "annotations": {
                        **{k: v for k, v in annotations.items() if not _private(k)},
                        _REVISION: str(_latest(sets) + 1),
                    },
                    "ownerReferences": [owner_reference(deployment)],
                },
                "spec": {
                    "replicas": 0,
                    "selector": {**selector, "matchLabels": match_labels},
                    "template": spec["template"],
                },
            },
            system_request("POST"),
        )

    def _note_revision(self, deployment: Object, sets: list[Object], current: Object) -> None:
        """A template that comes back (rollout undo) becomes the newest revision."""
        revision = int(_revision(current))
        others = [s for s in sets if s["metadata"]["uid"] != current["metadata"]["uid"]]
        if revision <= _latest(others):
            revision = _latest(others) + 1
            self._annotate("replicasets", current, revision)
        if _revision(deployment) != str(revision):
            self._annotate("deployments", deployment, revision)

    def _annotate(self, plural: str, obj: Object, revision: int) -> None:
        rt = self.api.registry.find("apps", "v1", plural)
        assert rt is not None

        def note(target: Object) -> None:
            target["metadata"].setdefault("annotations", {})[_REVISION] = str(revision)

        self.crud.modify(rt, key_of(obj), note, system_request("PATCH"))

    def _move(self, deployment: Object, current: Object) -> None:
        current = self.store.get("replicasets.apps", key_of(current)) or current
        replicas = deployment["spec"].get("replicas", 1)
        old = [
            s
            for s in self._sets(deployment)
            if s["metadata"]["uid"] != current["metadata"]["uid"] and s["spec"]["replicas"] > 0
        ]
        if deployment["spec"]["strategy"].get("type") == "Recreate":
            for one in old:
                self._resize(deployment, one, 0)
            if not self._pods_of(deployment, but=current):
                self._resize(deployment, current, replicas)
            return
        if not old:
            self._resize(deployment, current, replicas)
            return
        surge, unavailable = _limits(deployment, replicas)
        total = current["spec"]["replicas"] + sum(s["spec"]["replicas"] for s in old)
        room = max(0, replicas + surge - total)
        grown = min(replicas, current["spec"]["replicas"] + room)
        self._resize(deployment, current, max(grown, min(current["spec"]["replicas"], replicas)))
        current = self.store.get("replicasets.apps", key_of(current)) or current
        self._shrink(deployment, current, old, replicas - unavailable)

    def _shrink(self, deployment: Object, current: Object, old: list[Object], least: int) -> None:
        """Takes from old sets: first what is not ready anyway, then what can be spared.

        NB: a set's status lags behind its size, so a pod counts as ready only within the size,
        and never more pods go than the sizes allow (cleanupUnhealthyReplicas).
        """
        sizes = sum(s["spec"]["replicas"] for s in (current, *old))
        pending = current["spec"]["replicas"] - _ready_within(current)
        limit = max(0, sizes - least - pending)
        spare = max(0, sum(map(_ready_within, (current, *old))) - least)
        for one in old:
            size, its_ready = one["spec"]["replicas"], _ready_within(one)
            unready = min(size - its_ready, limit)
            taken = min(spare, its_ready, limit - unready)
            limit -= unready + taken
            spare -= taken
            self._resize(deployment, one, size - unready - taken)

    def _pods_of(self, deployment: Object, *, but: Object) -> list[Object]:
        sets = {
            s["metadata"]["uid"]
            for s in self._sets(deployment)
            if s["metadata"]["uid"] != but["metadata"]["uid"]
        }
        return [
            p
            for p in self.store.list("pods", deployment["metadata"]["namespace"])
            if (owner := controller_of(p)) is not None and owner["uid"] in sets
        ]

    def _resize(self, deployment: Object, one: Object, size: int) -> None:
        before = one["spec"]["replicas"]
        if before == size:
            return
        rt = self.api.registry.find("apps", "v1", "replicasets")
        assert rt is not None

        def put(target: Object) -> None:
            target["spec"]["replicas"] = size

        self.crud.modify(rt, key_of(one), put, system_request("PATCH"))
        word = "up" if size > before else "down"
        record(
            self.api,
            deployment,
            "Normal",
            "ScalingReplicaSet",
            f"Scaled {word} replica set {one['metadata']['name']} from {before} to {size}",
            "deployment-controller",
        )

    def _tidy(self, deployment: Object, wanted_hash: str) -> None:
        """Keeps as many empty old sets as the history may be long."""
        rt = self.api.registry.find("apps", "v1", "replicasets")
        assert rt is not None
        empty = [
            s
            for s in self._sets(deployment)
            if _hash(s) != wanted_hash
            and s["spec"]["replicas"] == 0
            and not (s.get("status") or {}).get("replicas")
        ]
        limit = deployment["spec"].get("revisionHistoryLimit", 10)
        for one in sorted(empty, key=lambda s: int(_revision(s)))[: max(0, len(empty) - limit)]:
            self.crud.delete(rt, key_of(one), None, system_request("DELETE"))

    def _report(self, deployment: Object, wanted_hash: str) -> None:
        sets = self._sets(deployment)
        current = next((s for s in sets if _hash(s) == wanted_hash), None)

        def count(field: str) -> int:
            return sum((s.get("status") or {}).get(field, 0) for s in sets)

        replicas = deployment["spec"].get("replicas", 1)
        updated = ((current or {}).get("status") or {}).get("replicas", 0)
        ready = count("readyReplicas")
        status: Object = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": count("replicas"),
            "updatedReplicas": updated,
            "readyReplicas": ready,
            "availableReplicas": ready,
            "unavailableReplicas": max(0, max(replicas, count("replicas")) - ready),
        }
        status = {k: v for k, v in status.items() if v or k == "observedGeneration"}
        _, unavailable = _limits(deployment, replicas)
        done = updated == replicas == count("replicas") == ready
        status["conditions"] = _conditions(
            deployment,
            available=ready >= replicas - unavailable,
            done=done,
            set_name=current["metadata"]["name"] if current else "",
        )
        set_status(self.api, deployment, status)


def _conditions(deployment: Object, *, available: bool, done: bool, set_name: str) -> list[Object]:
    wanted = [
        (
            "Available",
            "True" if available else "False",
            "MinimumReplicasAvailable" if available else "MinimumReplicasUnavailable",
            f"Deployment {'has' if available else 'does not have'} minimum availability.",
        ),
        (
            "Progressing",
            "True",
            "NewReplicaSetAvailable" if done else "ReplicaSetUpdated",
            f'ReplicaSet "{set_name}" '
            + ("has successfully progressed." if done else "is progressing."),
        ),
    ]
    found = []
    for kind, status, reason, message in wanted:
        old = condition(deployment, kind)
        same = old is not None and old["status"] == status
        unchanged = same and old is not None and old["message"] == message
        found.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastTransitionTime": old["lastTransitionTime"] if same and old else now(),
                "lastUpdateTime": old["lastUpdateTime"] if unchanged and old else now(),
            }
        )
    return found


def _ready_within(replica_set: Object) -> int:
    ready: int = (replica_set.get("status") or {}).get("readyReplicas", 0)
    size: int = replica_set["spec"]["replicas"]
    return min(ready, size)


def _hash(replica_set: Object) -> str:
    return labels_of(replica_set).get(_HASH, "")


def _revision(obj: Object) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(_REVISION, "0"))


def _latest(sets: list[Object]) -> int:
    return max((int(_revision(s)) for s in sets), default=0)


def _private(annotation: str) -> bool:
    return annotation in (_REVISION, "kubectl.kubernetes.io/last-applied-configuration")
