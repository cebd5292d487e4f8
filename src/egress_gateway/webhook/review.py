"""What becomes of a pod that is being created: a pure function over AdmissionReview documents.

The same as the MutatingAdmissionPolicy of the chart does inside newer API servers: a pod that
names a configuration gets a node selector by the label that a node earns, a pod that says nothing
gets its Namespace's annotation, an empty annotation means none. Everything else is left as it is,
and no pod is ever refused. Format: Kubernetes' reference, "Dynamic Admission Control".
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final

from egress_gateway.api import names
from egress_gateway.service.errors import ExpectedError

API_VERSION: Final = "admission.k8s.io/v1"
MIRROR: Final = "kubernetes.io/config.mirror"
"""On the API's view of a pod that a kubelet runs from a file of its own."""

Operation = dict[str, Any]
"""One of RFC 6902."""


class ReviewError(ExpectedError, ValueError):
    """The document is no review of a pod; the text says what is wrong with it."""


def asks_default(document: Any) -> str:
    """The Namespace whose annotation decides, "" if none does. Raises ``ReviewError``."""
    request = _request(document)
    metadata, _, annotations = _parts(request)
    if _left_alone(request, annotations) or names.POD_ANNOTATION in annotations:
        return ""
    return str(request.get("namespace") or metadata.get("namespace") or "")


def review(document: Any, *, default: str = "") -> dict[str, Any]:
    """The AdmissionReview that answers ``document``. ``default`` is the annotation of the
    Namespace that ``asks_default`` named. Raises ``ReviewError``."""
    request = _request(document)
    operations = _changes(request, default)
    response: dict[str, Any] = {"uid": request["uid"], "allowed": True}
    if operations:
        patch = json.dumps(operations).encode()
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}
    return {
        "apiVersion": document["apiVersion"],
        "kind": "AdmissionReview",
        "response": response,
    }


def _changes(request: Mapping[str, Any], default: str) -> list[Operation]:
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
    return operations


def _request(document: Any) -> Mapping[str, Any]:
    whole = _mapping(document, "the document")
    if (whole.get("apiVersion"), whole.get("kind")) != (API_VERSION, "AdmissionReview"):
        raise ReviewError(f"the document is no AdmissionReview of {API_VERSION}")
    request = _mapping(whole.get("request"), "request")
    if not isinstance(request.get("uid"), str) or not request["uid"]:
        raise ReviewError("request.uid is missing")
    return request


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
    return bool(spec.get("hostNetwork")) or MIRROR in annotations


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
