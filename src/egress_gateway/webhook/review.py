"""Decides about a pod that is being created: a pure function over AdmissionReview documents.

The same as the MutatingAdmissionPolicy of the chart does inside newer API servers. A pod that
names a configuration gets a node selector by the label that a node earns and, if an image is given
for it, an init container that waits for its tunnel. A pod that says nothing gets its Namespace's
annotation, and an empty annotation means none. Everything else is left as it is, and no pod is ever
refused. Format: Kubernetes' reference, "Dynamic Admission Control".
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from egress_gateway.api import names
from egress_gateway.service.errors import ExpectedError

API_VERSION: Final = "admission.k8s.io/v1"

Operation = dict[str, Any]
"""One of RFC 6902."""


class ReviewError(ExpectedError, ValueError):
    """The document is no review of a pod; the text says what is wrong with it."""


def asks_default(document: Any) -> str:
    """The Namespace whose annotation decides, "" if none does. Raises ``ReviewError``."""
    request = _request(document)
    if not _is_new_pod(request):
        return ""
    metadata, _, annotations = _parts(request)
    if _left_alone(request, annotations) or names.POD_ANNOTATION in annotations:
        return ""
    return str(request.get("namespace") or metadata.get("namespace") or "")


def review(document: Any, *, default: str = "", wait_image: str = "") -> dict[str, Any]:
    """The AdmissionReview that answers ``document``. ``default`` is the annotation of the
    Namespace that ``asks_default`` named, ``wait_image`` the image of the container that waits for
    the tunnel ("": there is none). Raises ``ReviewError``."""
    request = _request(document)
    operations = _changes(request, default, wait_image)
    response: dict[str, Any] = {"uid": request["uid"], "allowed": True}
    if operations:
        patch = json.dumps(operations).encode()
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}
    return {
        "apiVersion": document["apiVersion"],
        "kind": "AdmissionReview",
        "response": response,
    }


def _changes(request: Mapping[str, Any], default: str, wait_image: str) -> list[Operation]:
    if not _is_new_pod(request):
        return []
    metadata, spec, annotations = _parts(request)
    if _left_alone(request, annotations):
        return []
    stamp = "" if names.POD_ANNOTATION in annotations else default
    operations = []
    if stamp:
        operations.append(
            _member(metadata, "/metadata", "annotations", names.POD_ANNOTATION, stamp)
        )
    if stamp or annotations.get(names.POD_ANNOTATION):
        operations.append(_member(spec, "/spec", "nodeSelector", names.NODE_READY_LABEL, "true"))
        if wait_image:
            operations += _wait_first(spec, wait_image)
    return operations


def _wait_first(spec: Mapping[str, Any], image: str) -> list[Operation]:
    """Puts the container that waits before all others, unless it is there already."""
    present = spec.get("initContainers") or []
    if not isinstance(present, Sequence) or isinstance(present, str):
        raise ReviewError("spec.initContainers is not a list")
    if any(isinstance(c, Mapping) and c.get("name") == names.WAIT_CONTAINER for c in present):
        return []
    path, value = "/spec/initContainers", wait_container(image)
    if present:
        return [{"op": "add", "path": f"{path}/0", "value": value}]
    return [{"op": "add", "path": path, "value": [value]}]


def wait_container(image: str) -> dict[str, Any]:
    """The init container that waits for the pod's tunnel. Pod Security "restricted" lets it
    through; requests equal limits, so that a pod of class Guaranteed stays one."""
    share = {"cpu": "100m", "memory": "64Mi"}
    return {
        "name": names.WAIT_CONTAINER,
        "image": image,
        "command": ["egress-gateway", "wait"],
        "resources": {"requests": share, "limits": share},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _request(document: Any) -> Mapping[str, Any]:
    whole = _mapping(document, "the document")
    if (whole.get("apiVersion"), whole.get("kind")) != (API_VERSION, "AdmissionReview"):
        raise ReviewError(f"the document is no AdmissionReview of {API_VERSION}")
    request = _mapping(whole.get("request"), "request")
    if not isinstance(request.get("uid"), str) or not request["uid"]:
        raise ReviewError("request.uid is missing")
    return request


def _is_new_pod(request: Mapping[str, Any]) -> bool:
    """We register for nothing else. But who may write the registration may add to it, and pods that
    run cannot get a node selector: each write of theirs would be refused."""
    kind = _mapping(request.get("kind") or {}, "request.kind").get("kind", "Pod")
    asked = (request.get("operation") or "CREATE", request.get("subResource") or "", kind)
    return asked == ("CREATE", "", "Pod")


def _parts(
    request: Mapping[str, Any],
) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]:
    """Metadata, spec and annotations of the pod."""
    pod = _mapping(request.get("object"), "request.object")
    metadata = _mapping(pod.get("metadata") or {}, "metadata")
    spec = _mapping(pod.get("spec") or {}, "spec")
    annotations = _mapping(metadata.get("annotations") or {}, "metadata.annotations")
    return metadata, spec, annotations


def _left_alone(request: Mapping[str, Any], annotations: Mapping[str, Any]) -> bool:
    """Pods in their node's network have no way out of their own; mirrors are only a view."""
    spec = request["object"].get("spec") or {}
    return bool(spec.get("hostNetwork")) or names.MIRROR_ANNOTATION in annotations


def _member(parent: Mapping[str, Any], path: str, field: str, key: str, value: str) -> Operation:
    """Adds ``key`` to the map ``field``, which may not be there yet."""
    if parent.get(field) is None:
        return {"op": "add", "path": f"{path}/{field}", "value": {key: value}}
    escaped = key.replace("~", "~0").replace("/", "~1")
    return {"op": "add", "path": f"{path}/{field}/{escaped}", "value": value}


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ReviewError(f"{what} is not an object")
    return value
