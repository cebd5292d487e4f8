"""Subresources that answer at once: binding, scale, token, eviction.

(``status`` is an ordinary update; logs, exec and attach are streams.)
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Protocol

from egress_gateway_lab.apiserver import errors
from egress_gateway_lab.apiserver.access.auth import Authenticator
from egress_gateway_lab.apiserver.crud import Crud
from egress_gateway_lab.apiserver.objects import Object, now
from egress_gateway_lab.apiserver.requests import Reply, Request
from egress_gateway_lab.apiserver.storage.registry import ResourceType
from egress_gateway_lab.apiserver.storage.selectors import selector_predicate
from egress_gateway_lab.apiserver.storage.store import Store
from egress_gateway_lab.apiserver.writes.patch import (
    MERGE_PATCH,
    STRATEGIC_PATCH,
    json_patch,
    merge_patch,
)

_MINIMUM_SECONDS = 600
_MAXIMUM_SECONDS = 1 << 32


class Server(Protocol):
    """Of the API server: its objects, the rules of writing them, and its tokens."""

    store: Store
    crud: Crud
    authenticator: Authenticator


def handle(api: Server, rt: ResourceType, request: Request) -> Reply:
    match request.target.subresource, request.method:
        case "binding", "POST":
            return Reply(201, bind(api, rt, request))
        case "scale", method:
            return Reply(200, _scale(api, rt, request, method))
        case "token", "POST":
            return Reply(201, _token(api, request))
        case "eviction", "POST":
            return Reply(201, _evict(api, rt, request))
    raise errors.method_not_allowed(f"{rt.plural}/{request.target.subresource}")


def _key(request: Request) -> tuple[str, str]:
    return (request.target.namespace, request.target.name)


def _success() -> Object:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def bind(api: Server, rt: ResourceType, request: Request) -> Object:
    """Gives a pod its node, once."""
    node = ((request.body or {}).get("target") or {}).get("name")
    if not node:
        raise errors.bad_request("target.name: Required value")

    def place(pod: Object) -> None:
        current = pod["spec"].get("nodeName")
        if current:
            raise errors.conflict(
                "pods/binding",
                "",
                pod["metadata"]["name"],
                f"pod {pod['metadata']['name']} is already assigned to node {current!r}",
            )
        pod["spec"]["nodeName"] = node
        scheduled = {
            "type": "PodScheduled",
            "status": "True",
            "lastProbeTime": None,
            "lastTransitionTime": now(),
        }
        status = pod.setdefault("status", {})
        others = [c for c in status.get("conditions") or [] if c["type"] != "PodScheduled"]
        status["conditions"] = [*others, scheduled]

    api.crud.modify(rt, _key(request), place, request, "binding")
    return _success()


def _scale_of(obj: Object) -> Object:
    meta, status = obj["metadata"], obj.get("status") or {}
    labels = (obj["spec"].get("selector") or {}).get("matchLabels") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {k: meta[k] for k in kept},
        "spec": {"replicas": obj["spec"].get("replicas", 1)},
        "status": {
            "replicas": status.get("replicas", 0),
            "selector": ",".join(f"{k}={v}" for k, v in labels.items()),
        },
    }


def _scale(api: Server, rt: ResourceType, request: Request, method: str) -> Object:
    current = api.crud.get(rt, _key(request))
    if method == "GET":
        return _scale_of(current)
    match method, request.content_type:
        case "PUT", _:
            wanted: Any = request.body
        case "PATCH", kind if kind in (MERGE_PATCH, STRATEGIC_PATCH):
            wanted = merge_patch(_scale_of(current), request.body)
        case "PATCH", "application/json-patch+json":
            wanted = json_patch(_scale_of(current), request.body)
        case _:
            raise errors.method_not_allowed(f"{rt.plural}/scale")
    replicas = (wanted.get("spec") or {}).get("replicas", 0)
    version = (wanted.get("metadata") or {}).get("resourceVersion")

    def resize(obj: Object) -> None:
        obj["spec"]["replicas"] = replicas
        if version:
            obj["metadata"]["resourceVersion"] = version

    return _scale_of(api.crud.modify(rt, _key(request), resize, request))


def _token(api: Server, request: Request) -> Object:
    """TokenRequest: a bound ServiceAccount token."""
    account = api.store.get("serviceaccounts", _key(request))
    if account is None:
        raise errors.not_found("serviceaccounts", "", request.target.name)
    body = dict(request.body or {})
    spec = body.get("spec") or {}
    seconds = int(spec.get("expirationSeconds") or 3600)
    if not _MINIMUM_SECONDS <= seconds <= _MAXIMUM_SECONDS:
        raise errors.invalid(
            "TokenRequest",
            "authentication.k8s.io",
            "",
            [
                errors.Cause(
                    "spec.expirationSeconds",
                    f"Invalid value: {seconds}: may not specify a duration less than 10 minutes",
                )
            ],
        )
    pod = node = None
    if ref := spec.get("boundObjectRef"):
        if ref.get("kind") != "Pod":
            raise errors.bad_request("the embedded API server binds tokens to pods only")
        pod = api.store.get("pods", (request.target.namespace, ref["name"]))
        if pod is None or (ref.get("uid") and ref["uid"] != pod["metadata"]["uid"]):
            raise errors.not_found("pods", "", ref["name"])
        if node_name := pod["spec"].get("nodeName"):
            node = api.store.get("nodes", ("", node_name))
    token, expires = api.authenticator.mint(
        account, audiences=spec.get("audiences") or (), seconds=seconds, pod=pod, node=node
    )
    until = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": request.target.name, "namespace": request.target.namespace},
        "spec": {
            "audiences": spec.get("audiences") or [api.authenticator.issuer],
            "expirationSeconds": seconds,
            "boundObjectRef": spec.get("boundObjectRef"),
        },
        "status": {"token": token, "expirationTimestamp": until},
    }


def _evict(api: Server, rt: ResourceType, request: Request) -> Object:
    """Deletes a pod unless a PodDisruptionBudget has nothing to spare."""
    pod = api.crud.get(rt, _key(request))
    labels = pod["metadata"].get("labels") or {}
    for budget in api.store.list("poddisruptionbudgets.policy", request.target.namespace):
        if not selector_predicate(budget["spec"].get("selector"))(labels):
            continue
        if _spare(api, budget) < 1:
            raise errors.StatusError(
                429,
                "TooManyRequests",
                "Cannot evict pod as it would violate the pod's disruption budget.",
                {"causes": [{"reason": "DisruptionBudget"}]},
            )
    options = (request.body or {}).get("deleteOptions")
    api.crud.delete(rt, _key(request), options, request)
    return _success()


def _spare(api: Server, budget: Object) -> int:
    """How many of a budget's pods may go now."""
    select = selector_predicate(budget["spec"].get("selector"))
    namespace = budget["metadata"]["namespace"]
    pods = [
        p
        for p in api.store.list("pods", namespace)
        if select(p["metadata"].get("labels") or {}) and not p["metadata"].get("deletionTimestamp")
    ]
    healthy = sum(
        any(
            c["type"] == "Ready" and c["status"] == "True"
            for c in (p.get("status") or {}).get("conditions") or []
        )
        for p in pods
    )
    spec = budget["spec"]
    if (lost := spec.get("maxUnavailable")) is not None:
        return _share(lost, len(pods)) - (len(pods) - healthy)
    return healthy - _share(spec.get("minAvailable", 1), len(pods))


def _share(value: int | str, of: int) -> int:
    if isinstance(value, str) and value.endswith("%"):
        return -(-int(value[:-1]) * of // 100)
    return int(value)
