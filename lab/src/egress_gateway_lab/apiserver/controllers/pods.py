"""What ReplicaSets and DaemonSets share: pods from a template, and which of them count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, ClassVar

import msgspec

from egress_gateway_lab.apiserver.controllers.events import record
from egress_gateway_lab.apiserver.controllers.loop import Controller
from egress_gateway_lab.apiserver.objects import (
    Key,
    Object,
    clone,
    condition,
    controller_of,
    key_of,
    labels_of,
    owner_reference,
)
from egress_gateway_lab.apiserver.requests import system_request
from egress_gateway_lab.apiserver.storage.selectors import selector_predicate
from egress_gateway_lab.apiserver.storage.store import Event

if TYPE_CHECKING:
    from egress_gateway_lab.apiserver.api import Api

# As rand.SafeEncodeString: a hash without vowels.
_SAFE = "bcdfghjklmnpqrstvwxz2456789"


def template_hash(template: Object) -> str:
    """A short name of a pod template: equal templates have equal names."""
    digest = sha256(msgspec.json.encode(template, order="sorted")).digest()
    return "".join(_SAFE[b % len(_SAFE)] for b in digest[:10])


def is_ready(pod: Object) -> bool:
    found = condition(pod, "Ready")
    return found is not None and found["status"] == "True"


def is_active(pod: Object) -> bool:
    """Neither finished nor on its way out."""
    phase = (pod.get("status") or {}).get("phase")
    return phase not in ("Succeeded", "Failed") and not pod["metadata"].get("deletionTimestamp")


class Workloads(Controller):
    """Controls the objects of one kind. A change of one, or of an object that it owns, marks it."""

    storage: ClassVar[str]
    kind: ClassVar[str]
    owned: ClassVar[str] = "pods"

    def start(self) -> None:
        for obj in self.store.list(self.storage):
            self.mark(key_of(obj))

    def touched(self, event: Event) -> None:
        if event.storage == self.storage:
            self.mark(key_of(event.obj))
        elif event.storage == self.owned:
            owner = controller_of(event.obj)
            if owner is not None and owner["kind"] == self.kind:
                self.mark((event.obj["metadata"]["namespace"], owner["name"]))


class PodIndex:
    """Pods by node and by controller, kept in step with the store: no controller looks through
    all pods to find its own."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._by_node: dict[str, set[Key]] = {}
        self._by_owner: dict[str, set[Key]] = {}
        for pod in api.store.list("pods"):
            self._add(pod)
        api.store.listen(self._follow)

    def _follow(self, event: Event) -> None:
        if event.storage != "pods":
            return
        if event.previous is not None:
            node, owner = _places(event.previous)
            self._by_node.get(node, set()).discard(key_of(event.previous))
            self._by_owner.get(owner, set()).discard(key_of(event.previous))
        if event.type != "DELETED":
            self._add(event.obj)

    def _add(self, pod: Object) -> None:
        node, owner = _places(pod)
        self._by_node.setdefault(node, set()).add(key_of(pod))
        self._by_owner.setdefault(owner, set()).add(key_of(pod))

    def on_node(self, name: str) -> list[Object]:
        return self._pods(self._by_node.get(name, ()))

    def count_on(self, node: str) -> int:
        return len(self._by_node.get(node, ()))

    def siblings(self, pod: Object) -> Counter[str]:
        """How many pods of the same controller each node has."""
        controller = controller_of(pod)
        if controller is None:
            return Counter()
        owned = self._pods(self._by_owner.get(controller["uid"], ()))
        return Counter(p["spec"].get("nodeName") or "" for p in owned)

    def without_node(self) -> list[Object]:
        return self.on_node("")

    def owned(self, owner: Object) -> list[Object]:
        """The pods whose controller the owner is; orphans that match its selector are adopted."""
        meta = owner["metadata"]
        found = self._pods(self._by_owner.get(meta["uid"], ()))
        if meta.get("deletionTimestamp"):
            return found
        select = selector_predicate(owner["spec"].get("selector"))
        for pod in self._pods(self._by_owner.get("", ())):
            inside = pod["metadata"]["namespace"] == meta["namespace"]
            if inside and select(labels_of(pod)) and is_active(pod):
                found.append(_adopt(self._api, owner, pod))
        return found

    def _pods(self, keys: Iterable[Key]) -> list[Object]:
        found = (self._api.store.get("pods", key) for key in sorted(keys))
        return [pod for pod in found if pod is not None]


def _places(pod: Object) -> tuple[str, str]:
    controller = controller_of(pod)
    return pod["spec"].get("nodeName") or "", controller["uid"] if controller else ""


def _adopt(api: Api, owner: Object, pod: Object) -> Object:
    rt = api.registry.find("", "v1", "pods")
    assert rt is not None

    def own(obj: Object) -> None:
        obj["metadata"].setdefault("ownerReferences", []).append(owner_reference(owner))

    return api.crud.modify(rt, key_of(pod), own, system_request("PATCH"))


def create_pod(
    api: Api, owner: Object, *, labels: dict[str, str], node: str = "", component: str
) -> Object:
    """A pod from the owner's template. ``node`` pins it, as a DaemonSet does."""
    rt = api.registry.find("", "v1", "pods")
    assert rt is not None
    meta, template = owner["metadata"], clone(owner["spec"]["template"])
    inner = template.get("metadata") or {}
    pod: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{meta['name']}-",
            "namespace": meta["namespace"],
            "labels": {**(inner.get("labels") or {}), **labels},
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": template["spec"],
    }
    if inner.get("annotations"):
        pod["metadata"]["annotations"] = inner["annotations"]
    if node:
        _pin(pod["spec"], node)
    made = api.crud.create(rt, meta["namespace"], pod, system_request("POST"))
    message = f"Created pod: {made['metadata']['name']}"
    record(api, owner, "Normal", "SuccessfulCreate", message, component)
    return made


def _pin(spec: Object, node: str) -> None:
    """Required affinity to the one node, as the DaemonSet controller writes it."""
    affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {
        "nodeSelectorTerms": [
            {
                "matchFields": [
                    {"key": "metadata.name", "operator": "In", "values": [node]},
                ]
            }
        ]
    }


def delete_pod(api: Api, owner: Object, pod: Object, *, component: str) -> None:
    rt = api.registry.find("", "v1", "pods")
    assert rt is not None
    if api.store.get("pods", key_of(pod)) is None:
        return
    api.crud.delete(rt, key_of(pod), None, system_request("DELETE"))
    message = f"Deleted pod: {pod['metadata']['name']}"
    record(api, owner, "Normal", "SuccessfulDelete", message, component)


def set_status(api: Api, obj: Object, status: Object) -> None:
    """Writes a workload's status where it differs."""
    if obj.get("status") == status:
        return
    rt = api.registry.by_kind(obj["apiVersion"], obj["kind"])
    assert rt is not None

    def put(current: Object) -> None:
        current["status"] = status

    api.crud.modify(rt, key_of(obj), put, system_request("PATCH"), "status")
