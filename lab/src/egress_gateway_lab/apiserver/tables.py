"""What ``kubectl get`` prints: objects as ``meta.k8s.io/v1`` Tables.

Columns are those of kube-apiserver's printers (pkg/printers/internalversion/printers.go); custom
resources bring theirs as JSON paths.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from egress_gateway_lab.apiserver.objects import Object, condition, dig, labels_of, parse_time
from egress_gateway_lab.apiserver.storage.registry import ResourceType

TABLE: Final = "Table"
METADATA: Final = "PartialObjectMetadata"
Row = Callable[[Object], list[Any]]
Column = tuple[str, int]
"""Name and priority; columns of priority 1 are shown with ``-o wide`` only."""


def age(timestamp: Any) -> str:
    """``duration.HumanDuration`` since a time, as kubectl shows it."""
    if not timestamp:
        return "<unknown>"
    seconds = int((datetime.now(UTC) - parse_time(str(timestamp))).total_seconds())
    if seconds < 0:
        return "0s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    return f"{days}d" if days < 730 else f"{days // 365}y"


def _age(obj: Object) -> str:
    return age(obj["metadata"].get("creationTimestamp"))


def _name(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def _joined(values: Iterable[Any]) -> str:
    return ",".join(str(v) for v in values) or "<none>"


def _selector_text(selector: Any) -> str:
    pairs = (selector or {}).get("matchLabels", selector) or {}
    return _joined(f"{k}={v}" for k, v in pairs.items() if not isinstance(v, list | dict))


def _containers(obj: Object) -> list[Object]:
    found: list[Object] = dig(obj, ("spec", "template", "spec", "containers")) or []
    return found


def _pod_reason(pod: Object) -> str:
    """The one word that says what a pod is doing (printPod)."""
    status = pod.get("status") or {}
    reason = status.get("reason") or status.get("phase", "Unknown")
    for kind in ("initContainerStatuses", "containerStatuses"):
        for entry in status.get(kind) or []:
            state = entry.get("state") or {}
            waiting, ended = state.get("waiting"), state.get("terminated")
            if waiting and waiting.get("reason"):
                prefix = "Init:" if kind.startswith("init") else ""
                reason = prefix + waiting["reason"]
            elif ended and ended.get("reason") and kind == "containerStatuses":
                reason = ended["reason"]
    if pod["metadata"].get("deletionTimestamp"):
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return str(reason)


def _pod(pod: Object) -> list[Any]:
    status, spec = pod.get("status") or {}, pod["spec"]
    entries = status.get("containerStatuses") or []
    ready = sum(bool(e.get("ready")) for e in entries)
    restarts = sum(e.get("restartCount", 0) for e in entries)
    return [
        _name(pod),
        f"{ready}/{len(spec.get('containers') or [])}",
        _pod_reason(pod),
        restarts,
        _age(pod),
        status.get("podIP") or "<none>",
        spec.get("nodeName") or "<none>",
        status.get("nominatedNodeName") or "<none>",
        "<none>",
    ]


def _node(node: Object) -> list[Any]:
    ready = condition(node, "Ready") or {}
    state = {"True": "Ready", "False": "NotReady"}.get(ready.get("status", ""), "NotReady")
    if node["spec"].get("unschedulable"):
        state += ",SchedulingDisabled"
    roles = [
        key.partition("node-role.kubernetes.io/")[2]
        for key in labels_of(node)
        if key.startswith("node-role.kubernetes.io/")
    ]
    status = node.get("status") or {}
    info = status.get("nodeInfo") or {}
    addresses = {a["type"]: a["address"] for a in status.get("addresses") or []}
    return [
        _name(node),
        state,
        _joined(roles),
        _age(node),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP", "<none>"),
        addresses.get("ExternalIP", "<none>"),
        info.get("osImage", "<unknown>"),
        info.get("kernelVersion", "<unknown>"),
        info.get("containerRuntimeVersion", "<unknown>"),
    ]


def _workload(obj: Object, *numbers: Any) -> list[Any]:
    containers = _containers(obj)
    return [
        _name(obj),
        *numbers,
        _age(obj),
        _joined(c["name"] for c in containers),
        _joined(c.get("image", "") for c in containers),
        _selector_text(obj["spec"].get("selector")),
    ]


def _deployment(obj: Object) -> list[Any]:
    status = obj.get("status") or {}
    return _workload(
        obj,
        f"{status.get('readyReplicas', 0)}/{obj['spec'].get('replicas', 1)}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
    )


def _replica_set(obj: Object) -> list[Any]:
    status = obj.get("status") or {}
    return _workload(
        obj,
        obj["spec"].get("replicas", 1),
        status.get("replicas", 0),
        status.get("readyReplicas", 0),
    )


def _daemon_set(obj: Object) -> list[Any]:
    status = obj.get("status") or {}
    node_selector = dig(obj, ("spec", "template", "spec", "nodeSelector"))
    return _workload(
        obj,
        status.get("desiredNumberScheduled", 0),
        status.get("currentNumberScheduled", 0),
        status.get("numberReady", 0),
        status.get("updatedNumberScheduled", 0),
        status.get("numberAvailable", 0),
        _selector_text(node_selector),
    )


def _service(obj: Object) -> list[Any]:
    spec = obj["spec"]
    ports = [f"{p.get('port')}/{p.get('protocol', 'TCP')}" for p in spec.get("ports") or []]
    return [
        _name(obj),
        spec.get("type", "ClusterIP"),
        spec.get("clusterIP", "<none>"),
        "<none>",
        _joined(ports),
        _age(obj),
        _selector_text(spec.get("selector")),
    ]


def _event(obj: Object) -> list[Any]:
    involved = obj.get("involvedObject") or {}
    last = obj.get("lastTimestamp") or obj.get("eventTime") or obj["metadata"]["creationTimestamp"]
    first = obj.get("firstTimestamp") or last
    count = obj.get("count") or dig(obj, ("series", "count")) or 1
    source = dig(obj, ("source", "component")) or obj.get("reportingComponent", "")
    host = dig(obj, ("source", "host"))
    seen = age(last) + (f" (x{count} over {age(first)})" if count > 1 else "")
    return [
        seen,
        obj.get("type", ""),
        obj.get("reason", ""),
        f"{involved.get('kind', '').lower()}/{involved.get('name', '')}",
        involved.get("fieldPath", ""),
        f"{source}, {host}" if host else source,
        (obj.get("message") or "").strip(),
        age(first),
        count,
        _name(obj),
    ]


def _role_binding(obj: Object) -> list[Any]:
    ref = obj["roleRef"]
    subjects = obj.get("subjects") or []

    def of(kind: str) -> str:
        return ", ".join(
            "/".join(p for p in (s.get("namespace"), s.get("name")) if p)
            for s in subjects
            if s.get("kind") == kind
        )

    return [
        _name(obj),
        f"{ref['kind']}/{ref['name']}",
        _age(obj),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]


def _created(obj: Object) -> list[Any]:
    return [_name(obj), obj["metadata"]["creationTimestamp"]]


def _columns(names: str) -> list[Column]:
    """Columns by name, comma-separated; those with a ``+`` are of priority 1."""
    return [(name.removeprefix("+"), int(name.startswith("+"))) for name in names.split(", ")]


_WORKLOAD_END: Final = "Age, +Containers, +Images, +Selector"
_CREATED: Final = (_columns("Name, Created At"), _created)
_ROLE_BINDING: Final = (
    _columns("Name, Role, Age, +Users, +Groups, +ServiceAccounts"),
    _role_binding,
)
_TABLES: dict[str, tuple[Sequence[Column], Row]] = {
    "pods": (
        _columns(
            "Name, Ready, Status, Restarts, Age, +IP, +Node, +Nominated Node, +Readiness Gates"
        ),
        _pod,
    ),
    "nodes": (
        _columns(
            "Name, Status, Roles, Age, Version, +Internal-IP, +External-IP, +OS-Image, "
            "+Kernel-Version, +Container-Runtime"
        ),
        _node,
    ),
    "deployments.apps": (
        _columns(f"Name, Ready, Up-to-date, Available, {_WORKLOAD_END}"),
        _deployment,
    ),
    "replicasets.apps": (
        _columns(f"Name, Desired, Current, Ready, {_WORKLOAD_END}"),
        _replica_set,
    ),
    "daemonsets.apps": (
        _columns(
            f"Name, Desired, Current, Ready, Up-to-date, Available, Node Selector, {_WORKLOAD_END}"
        ),
        _daemon_set,
    ),
    "services": (
        _columns("Name, Type, Cluster-IP, External-IP, Port(s), Age, +Selector"),
        _service,
    ),
    "events": (
        _columns(
            "Last Seen, Type, Reason, Object, +Subobject, +Source, Message, +First Seen, +Count, "
            "+Name"
        ),
        _event,
    ),
    "namespaces": (
        _columns("Name, Status, Age"),
        lambda o: [_name(o), dig(o, ("status", "phase")) or "", _age(o)],
    ),
    "secrets": (
        _columns("Name, Type, Data, Age"),
        lambda o: [_name(o), o.get("type", ""), len(o.get("data") or {}), _age(o)],
    ),
    "configmaps": (
        _columns("Name, Data, Age"),
        lambda o: [_name(o), len(o.get("data") or {}) + len(o.get("binaryData") or {}), _age(o)],
    ),
    "serviceaccounts": (
        _columns("Name, Secrets, Age"),
        lambda o: [_name(o), len(o.get("secrets") or []), _age(o)],
    ),
    "leases.coordination.k8s.io": (
        _columns("Name, Holder, Age"),
        lambda o: [_name(o), dig(o, ("spec", "holderIdentity")) or "", _age(o)],
    ),
    "roles.rbac.authorization.k8s.io": _CREATED,
    "clusterroles.rbac.authorization.k8s.io": _CREATED,
    "rolebindings.rbac.authorization.k8s.io": _ROLE_BINDING,
    "clusterrolebindings.rbac.authorization.k8s.io": _ROLE_BINDING,
    "customresourcedefinitions.apiextensions.k8s.io": _CREATED,
}
_PLAIN: tuple[Sequence[Column], Row] = (_columns("Name, Age"), lambda o: [_name(o), _age(o)])


def table(
    rt: ResourceType, objects: Sequence[Object], metadata: Object, include: str = ""
) -> Object:
    """A Table of objects; ``include`` is the ``includeObject`` parameter."""
    if rt.custom is not None:
        columns, row = _custom(rt)
    else:
        listed, row = _TABLES.get(rt.storage, _PLAIN)
        columns = [_column(name, priority) for name, priority in listed]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": [{"cells": row(obj), "object": _included(obj, include)} for obj in objects],
    }


def _column(name: str, priority: int) -> Object:
    numeric = name in ("Desired", "Current", "Up-to-date", "Available", "Data", "Secrets", "Count")
    return {
        "name": name,
        "type": "integer" if numeric else "string",
        "format": "name" if name == "Name" else "",
        "description": name,
        "priority": priority,
    }


def _included(obj: Object, include: str) -> Object | None:
    match include:
        case "None":
            return None
        case "Object":
            return obj
    return metadata_alone(obj)


def metadata_alone(obj: Object) -> Object:
    """What who asks for metadata gets of an object (client-go's metadata informers)."""
    return {"kind": METADATA, "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def _custom(rt: ResourceType) -> tuple[list[Object], Row]:
    given = rt.columns or (
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    )
    columns = [_column("Name", 0)]
    for column in given:
        columns.append(
            {
                "name": column["name"],
                "type": column["type"],
                "format": column.get("format", ""),
                "description": column.get("description", ""),
                "priority": column.get("priority", 0),
            }
        )

    def row(obj: Object) -> list[Any]:
        cells: list[Any] = [_name(obj)]
        for column in given:
            value = json_path(obj, column["jsonPath"])
            cells.append(age(value) if column["type"] == "date" and value else value)
        return cells

    return columns, row


_PART = re.compile(
    r"""\.(?P<name>[^.\[\]]+)|\[(?P<index>-?\d+|\*)\]
    |\['(?P<quoted>[^']+)'\]
    |\[\?\(@\.(?P<field>[\w.]+)\s*==\s*["'](?P<value>[^"']*)["']\)\]""",
    re.VERBOSE,
)


def json_path(obj: Any, path: str) -> Any:
    """The first match of a simple JSON path (fields, indices, ``[?(@.type=="Ready")]``)."""
    values = [obj]
    # ``\.`` inside a field name is a dot of the name (labels and annotations).
    path = path.replace(r"\.", "\0")
    for match in _PART.finditer(path if path.startswith((".", "[")) else "." + path):
        values = [v for value in values for v in _follow(value, match)]
    return values[0] if values else None


def _follow(value: Any, match: re.Match[str]) -> list[Any]:
    name = match.group("name") or match.group("quoted")
    if name is not None:
        name = name.replace("\0", ".")
        return [value[name]] if isinstance(value, dict) and value.get(name) is not None else []
    if not isinstance(value, list):
        return []
    if (index := match.group("index")) is not None:
        if index == "*":
            return value
        return value[int(index) :][:1]
    field = match.group("field").split(".")
    return [v for v in value if str(dig(v, field)) == match.group("value")]
