"""What ReplicaSets and DaemonSets share: pods from a template, and which of them count."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from egress_gateway.lab.kube.controllers.events import record
from egress_gateway.lab.kube.objects import (
    Object,
    clone,
    condition,
    controller_of,
    key_of,
    labels_of,
    owner_reference,
)
from egress_gateway.lab.kube.requests import system_request
from egress_gateway.lab.kube.selectors import selector_predicate

if TYPE_CHECKING:
    from egress_gateway.lab.kube.api import Api

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


def owned_pods(api: Api, owner: Object) -> list[Object]:
    """The pods whose controller the owner is; orphans that match its selector are adopted."""
    meta = owner["metadata"]
    select = selector_predicate(owner["spec"].get("selector"))
    found = []
    for pod in list(api.store.list("pods", meta["namespace"])):
        controller = controller_of(pod)
        if controller is not None:
            if controller["uid"] == meta["uid"]:
                found.append(pod)
        elif select(labels_of(pod)) and is_active(pod) and not meta.get("deletionTimestamp"):
            found.append(_adopt(api, owner, pod))
    return found


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
