"""What of an object goes into a bundle: named fields and nothing else. Pure.

A field that Kubernetes invents tomorrow, somebody's annotation, a container's environment or what
it said when it ended are left out because nobody listed them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from egress_gateway.api import names
from egress_gateway.cli.bundle.redact import SECRET_NAME

Object = Mapping[str, Any]
_DOMAINS: Final = ("kubernetes.io", "kubernetes.azure.com", "kubeegressgateway.azure.com")
_META: Final = (
    *("name", "namespace", "uid", "generation", "creationTimestamp", "deletionTimestamp"),
    *("finalizers", "ownerReferences"),
)
_STATES: Final = ("reason", "exitCode", "signal", "startedAt", "finishedAt")
"""Of a container's state. Its message is what the program wrote before it ended."""
_SETTINGS: Final = ("clusterCidrs",)
"""Keys of our ConfigMap that go in."""


def meta(obj: Object) -> dict[str, Any]:
    """Names, times and owners, with labels and annotations of known domains only."""
    found = obj.get("metadata") or {}
    kept = {key: found[key] for key in _META if key in found}
    for kind in ("labels", "annotations"):
        kept[kind] = {k: v for k, v in (found.get(kind) or {}).items() if _listed(kind, k)}
    return {k: v for k, v in kept.items() if v}


def _listed(kind: str, key: str) -> bool:
    if key == names.POD_ANNOTATION:
        return True
    domain = key.partition("/")[0] if "/" in key else ""
    if kind == "annotations":
        return domain == names.GROUP
    return domain in (names.GROUP, *_DOMAINS) or domain.endswith(_DOMAINS) or key == "app"


def ours(obj: Object) -> dict[str, Any]:
    """An object of our kinds: its schema has no room for anything but ours."""
    return _with(obj, **{part: obj.get(part) for part in ("spec", "status")})


def node(obj: Object) -> dict[str, Any]:
    """What says where a Node is and how it is; no labels of strangers."""
    spec = _only(obj, "spec", "providerID", "podCIDRs", "taints", "unschedulable")
    status = _only(obj, "status", "addresses", "conditions", "nodeInfo", "allocatable", "capacity")
    return _with(obj, spec=spec, status=status)


def pod(obj: Object, *, whole: bool = False) -> dict[str, Any]:
    """Where it runs and how it is. ``whole``: one of our components, with its settings."""
    spec = _only(
        obj, "spec", "nodeName", "hostNetwork", "dnsPolicy", "restartPolicy", "serviceAccountName"
    )
    status = _only(
        obj, "status", "phase", "conditions", "podIPs", "hostIP", "startTime", "reason", "qosClass"
    )
    for group in ("initContainers", "containers"):
        spec[group] = [_container(c, whole=whole) for c in (obj.get("spec") or {}).get(group) or []]
    for group in ("initContainerStatuses", "containerStatuses"):
        found = (obj.get("status") or {}).get(group) or []
        status[group] = [_container_status(c) for c in found]
    return _with(obj, spec=spec, status=status)


def workload(obj: Object) -> dict[str, Any]:
    """A Deployment or DaemonSet of ours."""
    spec = _only(obj, "spec", "replicas", "updateStrategy", "strategy")
    spec["template"] = pod((obj.get("spec") or {}).get("template") or {}, whole=True)
    return _with(obj, spec=spec, status=obj.get("status"))


def config_map(obj: Object) -> dict[str, Any]:
    """Its keys; values only of settings that are no secret."""
    data = obj.get("data") or {}
    return _with(obj, data={k: v if k in _SETTINGS else "<left out>" for k, v in data.items()})


def event(obj: Object) -> dict[str, Any]:
    """What an Event says, about what and when."""
    kept = ("type", "reason", "message", "count", "firstTimestamp", "lastTimestamp", "eventTime")
    about = ("kind", "namespace", "name")
    return {
        "involvedObject": _only(obj, "involvedObject", *about),
        **{key: obj[key] for key in kept if obj.get(key) is not None},
        "source": obj.get("reportingComponent") or _only(obj, "source", "component"),
    }


def _container(obj: Object, *, whole: bool) -> dict[str, Any]:
    kept = {"name": obj.get("name"), "image": obj.get("image")}
    if not whole:
        return kept
    env = [_variable(v) for v in obj.get("env") or []]
    # Which component it is. Ours have their settings in the environment.
    return {**kept, "command": (obj.get("command") or [])[:2], "env": env}


def _variable(entry: Object) -> dict[str, Any]:
    """Ours is a setting; of others, and of what sounds secret, the name alone."""
    name = str(entry.get("name"))
    if "valueFrom" in entry:
        return {"name": name, "valueFrom": entry["valueFrom"]}
    plain = name.startswith("EGRESS_GATEWAY_") and not SECRET_NAME.search(name)
    return {"name": name, "value": entry.get("value", "") if plain else "<left out>"}


def _container_status(obj: Object) -> dict[str, Any]:
    kept = {k: obj.get(k) for k in ("name", "ready", "restartCount", "image", "imageID")}
    for when in ("state", "lastState"):
        kept[when] = {
            kind: {k: v for k, v in (found or {}).items() if k in _STATES}
            for kind, found in (obj.get(when) or {}).items()
        }
    return kept


def _only(obj: Object, part: str, *keys: str) -> dict[str, Any]:
    found = obj.get(part) or {}
    return {key: found[key] for key in keys if key in found}


def _with(obj: Object, **parts: Any) -> dict[str, Any]:
    kind = {k: obj[k] for k in ("apiVersion", "kind") if k in obj}
    return {**kind, "metadata": meta(obj), **{k: v for k, v in parts.items() if v}}


# --- what is secret, or public, by where it stands -------------------------------------------


def left_out(objects: Iterable[Object]) -> Iterator[str]:
    """Values of annotations and of environments that do not go in: who wrote them there may have
    written them elsewhere too."""
    for obj in objects:
        annotations = (obj.get("metadata") or {}).get("annotations") or {}
        yield from (v for k, v in annotations.items() if not _listed("annotations", k))
        spec = obj.get("spec") or {}
        if "template" in spec:
            yield from left_out([spec["template"]])
        for group in ("initContainers", "containers"):
            for container in spec.get(group) or []:
                for variable in container.get("env") or []:
                    if _variable(variable).get("value") == "<left out>":
                        yield str(variable.get("value", ""))


def public_keys(value: Any, under: str = "") -> Iterator[str]:
    """Every string in ``value`` under a name that says that it is a public key."""
    if isinstance(value, str) and under.lower().endswith("publickey"):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from public_keys(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from public_keys(item, under)
