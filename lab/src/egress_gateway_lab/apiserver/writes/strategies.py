"""What is special about built-in kinds: their defaults, and what about them cannot be or change.

Only what the walk-through and the components meet; the rest of an object is kept as it is given.
Messages follow k8s.io/kubernetes/pkg/apis/*/validation.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any

from egress_gateway_lab.apiserver.errors import Cause
from egress_gateway_lab.apiserver.objects import Object, dig, labels_of, now
from egress_gateway_lab.apiserver.storage.selectors import selector_predicate

SUBDOMAIN = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
_LABEL_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_LABEL_KEY = re.compile(
    r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$"
)
_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used "
    "for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_PATH_NAMES = frozenset(
    {"roles", "rolebindings", "clusterroles", "clusterrolebindings", "priorityclasses"}
)


def metadata_causes(storage: str, obj: Object) -> list[Cause]:
    """Names and labels that Kubernetes would not take."""
    meta = obj["metadata"]
    name = meta.get("name", "")
    causes = []
    if not name:
        causes.append(Cause("metadata.name", "Required value: name or generateName is required"))
    elif storage.partition(".")[0] in _PATH_NAMES:
        if "/" in name or "%" in name:
            causes.append(Cause("metadata.name", f"Invalid value: \"{name}\": may not contain '/'"))
    elif not SUBDOMAIN.match(name) or len(name) > 253:
        causes.append(Cause("metadata.name", f'Invalid value: "{name}": {_SUBDOMAIN_RULE}'))
    for key, value in labels_of(obj).items():
        if not _LABEL_KEY.match(key) or not isinstance(value, str) or not _LABEL_VALUE.match(value):
            causes.append(Cause("metadata.labels", f'Invalid value: "{key}={value}": not a label'))
    for key, value in (meta.get("annotations") or {}).items():
        if not _LABEL_KEY.match(key.lower()) or not isinstance(value, str):
            causes.append(Cause("metadata.annotations", f'Invalid value: "{key}": not a string'))
    return causes


def _default(target: Object, **values: Any) -> None:
    for key, value in values.items():
        if target.get(key) is None:
            target[key] = value


def default_pod_spec(spec: Object) -> None:
    """Defaults of a pod and of a pod template."""
    _default(
        spec,
        restartPolicy="Always",
        terminationGracePeriodSeconds=30,
        dnsPolicy="ClusterFirst",
        securityContext={},
        schedulerName="default-scheduler",
    )
    name = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if name:
        _default(spec, serviceAccountName=name, serviceAccount=name)
    for container in (spec.get("initContainers") or []) + (spec.get("containers") or []):
        image = container.get("image", "")
        tag = image.rpartition("/")[2].partition(":")[2]
        _default(
            container,
            resources={},
            terminationMessagePath="/dev/termination-log",
            terminationMessagePolicy="File",
            imagePullPolicy="Always" if tag in ("", "latest") else "IfNotPresent",
        )
        for port in container.get("ports") or []:
            _default(port, protocol="TCP")
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            if container.get(probe):
                _default(
                    container[probe],
                    timeoutSeconds=1,
                    periodSeconds=10,
                    successThreshold=1,
                    failureThreshold=3,
                )
        for env in container.get("env") or []:
            if ref := dig(env, ("valueFrom", "fieldRef")):
                _default(ref, apiVersion="v1")
    for volume in spec.get("volumes") or []:
        _default_volume(volume)


def _default_volume(volume: Object) -> None:
    for source in ("configMap", "secret", "projected", "downwardAPI"):
        if volume.get(source) is not None:
            _default(volume[source], defaultMode=0o644)
    if volume.get("hostPath") is not None:
        _default(volume["hostPath"], type="")


def _pod_create(obj: Object) -> None:
    default_pod_spec(obj["spec"])
    spec = obj["spec"]
    _default(spec, serviceAccountName="default", serviceAccount="default", enableServiceLinks=True)
    _default(spec, preemptionPolicy="PreemptLowerPriority", priority=0)
    tolerations = spec.setdefault("tolerations", None) or []
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(t.get("key") in (key, None) for t in tolerations):
            tolerations.append(
                {
                    "key": key,
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": 300,
                }
            )
    spec["tolerations"] = tolerations
    obj["status"] = {"phase": "Pending", "qosClass": "BestEffort"}


def _template_create(obj: Object) -> None:
    spec = obj["spec"]
    default_pod_spec(spec.setdefault("template", {}).setdefault("spec", {}))
    spec["template"].setdefault("metadata", {})
    match obj["kind"]:
        case "Deployment":
            _default(
                spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600, strategy={}
            )
            _default(spec["strategy"], type="RollingUpdate")
            if spec["strategy"]["type"] == "RollingUpdate":
                _default(spec["strategy"], rollingUpdate={})
                _default(spec["strategy"]["rollingUpdate"], maxUnavailable="25%", maxSurge="25%")
        case "ReplicaSet":
            _default(spec, replicas=1)
        case "DaemonSet":
            _default(spec, revisionHistoryLimit=10, updateStrategy={})
            _default(spec["updateStrategy"], type="RollingUpdate")
            if spec["updateStrategy"]["type"] == "RollingUpdate":
                _default(spec["updateStrategy"], rollingUpdate={})
                _default(spec["updateStrategy"]["rollingUpdate"], maxUnavailable=1, maxSurge=0)


def _secret(obj: Object) -> None:
    for key, text in (obj.pop("stringData", None) or {}).items():
        obj.setdefault("data", {})[key] = base64.b64encode(str(text).encode()).decode()
    _default(obj, type="Opaque")


def _namespace(obj: Object) -> None:
    _default(obj, spec={}, status={})
    _default(obj["spec"], finalizers=["kubernetes"])
    _default(obj["status"], phase="Active")
    labels = obj["metadata"].setdefault("labels", {})
    labels["kubernetes.io/metadata.name"] = obj["metadata"].get("name", "")


def _node(obj: Object) -> None:
    _default(obj, spec={}, status={})
    for taint in obj["spec"].get("taints") or []:
        if taint.get("effect") == "NoExecute":
            _default(taint, timeAdded=now())


def _service(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _default(spec, type="ClusterIP", sessionAffinity="None", internalTrafficPolicy="Cluster")
    for port in spec.get("ports") or []:
        _default(port, protocol="TCP", targetPort=port.get("port"))
    obj.setdefault("status", {"loadBalancer": {}})


def _role_binding(obj: Object) -> None:
    for subject in obj.get("subjects") or []:
        if subject.get("kind") in ("User", "Group"):
            _default(subject, apiGroup="rbac.authorization.k8s.io")


_DEFAULTS: dict[str, Callable[[Object], None]] = {
    "secrets": _secret,
    "namespaces": _namespace,
    "nodes": _node,
    "services": _service,
    "deployments.apps": _template_create,
    "replicasets.apps": _template_create,
    "daemonsets.apps": _template_create,
    "rolebindings.rbac.authorization.k8s.io": _role_binding,
    "clusterrolebindings.rbac.authorization.k8s.io": _role_binding,
}


def prepare_create(storage: str, obj: Object) -> None:
    """Fills in defaults and clears what a client may not set; changes ``obj``."""
    if storage == "pods":
        _pod_create(obj)
        return
    if (fill := _DEFAULTS.get(storage)) is not None:
        fill(obj)


def prepare_update(storage: str, obj: Object) -> None:
    if storage == "pods":
        default_pod_spec(obj.get("spec", {}))
    elif (fill := _DEFAULTS.get(storage)) is not None:
        fill(obj)


def _pod_spec_causes(spec: Object, at: str) -> list[Cause]:
    causes: list[Cause] = []
    containers = spec.get("containers")
    if not isinstance(containers, list) or not containers:
        return [Cause(f"{at}.containers", "Required value", "FieldValueRequired")]
    seen: set[str] = set()
    volumes = {v.get("name") for v in spec.get("volumes") or []}
    for group in ("initContainers", "containers"):
        for i, container in enumerate(spec.get(group) or []):
            field = f"{at}.{group}[{i}]"
            name = container.get("name", "")
            if not name:
                causes.append(Cause(f"{field}.name", "Required value", "FieldValueRequired"))
            elif not LABEL.match(name):
                causes.append(
                    Cause(f"{field}.name", f'Invalid value: "{name}": not an RFC 1123 label')
                )
            elif name in seen:
                causes.append(
                    Cause(f"{field}.name", f'Duplicate value: "{name}"', "FieldValueDuplicate")
                )
            seen.add(name)
            if not container.get("image"):
                causes.append(Cause(f"{field}.image", "Required value", "FieldValueRequired"))
            for j, mount in enumerate(container.get("volumeMounts") or []):
                if mount.get("name") not in volumes:
                    causes.append(
                        Cause(
                            f"{field}.volumeMounts[{j}].name",
                            f'Not found: "{mount.get("name")}"',
                            "FieldValueNotFound",
                        )
                    )
    if spec.get("hostNetwork"):
        for i, container in enumerate(containers):
            for j, port in enumerate(container.get("ports") or []):
                port.setdefault("hostPort", port.get("containerPort"))
                if port["hostPort"] != port.get("containerPort"):
                    causes.append(
                        Cause(
                            f"{at}.containers[{i}].ports[{j}].containerPort",
                            f"Invalid value: {port.get('containerPort')}: must match `hostPort` "
                            "when `hostNetwork` is true",
                        )
                    )
    return causes


_POD_MUTABLE = frozenset(
    {"activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates"}
)


def _pod_update_causes(obj: Object, old: Object) -> list[Cause]:
    def frozen(spec: Object) -> Object:
        kept = {k: v for k, v in spec.items() if k not in _POD_MUTABLE}
        for group in ("containers", "initContainers"):
            if group in kept:
                kept[group] = [{**c, "image": ""} for c in kept[group]]
        return kept

    if frozen(obj["spec"]) != frozen(old["spec"]):
        return [
            Cause(
                "spec",
                "Forbidden: pod updates may not change fields other than "
                "`spec.containers[*].image`,`spec.initContainers[*].image`,"
                "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing "
                "tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it "
                "was previously negative)",
                "FieldValueForbidden",
            )
        ]
    return []


def _workload_causes(obj: Object, old: Object | None) -> list[Cause]:
    spec = obj["spec"]
    selector = spec.get("selector")
    template_labels = dig(spec, ("template", "metadata", "labels")) or {}
    causes = []
    if not selector:
        causes.append(Cause("spec.selector", "Required value", "FieldValueRequired"))
    elif not selector_predicate(selector)(template_labels):
        causes.append(
            Cause(
                "spec.template.metadata.labels",
                "Invalid value: `selector` does not match template `labels`",
            )
        )
    if old is not None and selector != old["spec"].get("selector"):
        causes.append(Cause("spec.selector", "Invalid value: field is immutable"))
    replicas = spec.get("replicas", 0)
    if not isinstance(replicas, int) or replicas < 0:
        causes.append(
            Cause("spec.replicas", f"Invalid value: {replicas}: must be greater than or equal to 0")
        )
    return causes + _pod_spec_causes(spec["template"]["spec"], "spec.template.spec")


def _configmap_causes(obj: Object) -> list[Cause]:
    return [
        Cause(f"data[{key}]", "Invalid value: must be a string")
        for key, value in (obj.get("data") or {}).items()
        if not isinstance(value, str)
    ]


def _immutable_causes(obj: Object, old: Object | None) -> list[Cause]:
    if old is None or not old.get("immutable"):
        return []
    return [
        Cause(field, "Forbidden: field is immutable when `immutable` is set", "FieldValueForbidden")
        for field in ("immutable", "data", "binaryData")
        if obj.get(field) != old.get(field)
    ]


def _secret_causes(obj: Object, old: Object | None) -> list[Cause]:
    causes = []
    for key, value in (obj.get("data") or {}).items():
        try:
            base64.b64decode(value or "", validate=True)
        except (ValueError, TypeError):
            causes.append(Cause(f"data[{key}]", "Invalid value: not base64"))
    if old is not None and old.get("type") != obj.get("type"):
        causes.append(Cause("type", f'Invalid value: "{obj.get("type")}": field is immutable'))
    return causes


def validate(storage: str, obj: Object, old: Object | None) -> list[Cause]:
    """What about the object cannot be; ``old`` is None for a new one."""
    match storage:
        case "pods":
            causes = _pod_spec_causes(obj["spec"], "spec")
            return causes or (_pod_update_causes(obj, old) if old is not None else [])
        case "deployments.apps" | "replicasets.apps" | "daemonsets.apps":
            return _workload_causes(obj, old)
        case "secrets":
            return _secret_causes(obj, old) + _immutable_causes(obj, old)
        case "configmaps":
            return _configmap_causes(obj) + _immutable_causes(obj, old)
        case "rolebindings.rbac.authorization.k8s.io" | (
            "clusterrolebindings.rbac.authorization.k8s.io"
        ):
            if old is not None and old.get("roleRef") != obj.get("roleRef"):
                return [Cause("roleRef", "Invalid value: cannot change roleRef")]
    return []
