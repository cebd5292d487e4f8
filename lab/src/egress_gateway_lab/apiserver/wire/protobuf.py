"""Kubernetes' protobuf bodies, for the requests in which clients insist on them.

``kubectl create …`` and ``kubectl auth …`` send built-in kinds as ``application/vnd.kubernetes.
protobuf`` and take JSON in return; so does client-go's leader election with its Lease and its
Events. The messages of those are decoded here, by the field
numbers of k8s.io/api's ``generated.proto``; any other is 415. A field that is not listed and not
empty is refused too: an object must not lose a part of itself on the way.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from egress_gateway_lab.apiserver import errors
from egress_gateway_lab.apiserver.objects import Object

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"

_MAGIC = b"k8s\x00"
_TEXT, _INT, _BOOL, _BYTES = "text", "int", "bool", "bytes"
_TIME, _MICRO = "time", "microtime"

# A field is NAME and KIND; KIND is a scalar, a message's name, "[]KIND", "map" or "map:bytes".
_MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    "ObjectMeta": {
        1: ("name", _TEXT),
        2: ("generateName", _TEXT),
        3: ("namespace", _TEXT),
        4: ("selfLink", "ignored"),
        5: ("uid", _TEXT),
        6: ("resourceVersion", _TEXT),
        7: ("generation", _INT),
        8: ("creationTimestamp", "ignored"),
        9: ("deletionTimestamp", "ignored"),
        10: ("deletionGracePeriodSeconds", "ignored"),
        11: ("labels", "map"),
        12: ("annotations", "map"),
        13: ("ownerReferences", "[]OwnerReference"),
        14: ("finalizers", "[]text"),
        17: ("managedFields", "ignored"),  # the server's own, as who updates an object has read it
    },
    "OwnerReference": {
        1: ("kind", _TEXT),
        3: ("name", _TEXT),
        4: ("uid", _TEXT),
        5: ("apiVersion", _TEXT),
        6: ("controller", _BOOL),
        7: ("blockOwnerDeletion", _BOOL),
    },
    "Namespace": {1: ("metadata", "ObjectMeta"), 2: ("spec", "ignored"), 3: ("status", "ignored")},
    "ConfigMap": {
        1: ("metadata", "ObjectMeta"),
        2: ("data", "map"),
        3: ("binaryData", "map:bytes"),
        4: ("immutable", _BOOL),
    },
    "Secret": {
        1: ("metadata", "ObjectMeta"),
        2: ("data", "map:bytes"),
        3: ("type", _TEXT),
        4: ("stringData", "map"),
        5: ("immutable", _BOOL),
    },
    "ServiceAccount": {1: ("metadata", "ObjectMeta"), 4: ("automountServiceAccountToken", _BOOL)},
    "Role": {1: ("metadata", "ObjectMeta"), 2: ("rules", "[]PolicyRule")},
    "ClusterRole": {1: ("metadata", "ObjectMeta"), 2: ("rules", "[]PolicyRule")},
    "PolicyRule": {
        1: ("verbs", "[]text"),
        2: ("apiGroups", "[]text"),
        3: ("resources", "[]text"),
        4: ("resourceNames", "[]text"),
        5: ("nonResourceURLs", "[]text"),
    },
    "RoleBinding": {
        1: ("metadata", "ObjectMeta"),
        2: ("subjects", "[]Subject"),
        3: ("roleRef", "RoleRef"),
    },
    "Subject": {
        1: ("kind", _TEXT),
        2: ("apiGroup", _TEXT),
        3: ("name", _TEXT),
        4: ("namespace", _TEXT),
    },
    "RoleRef": {1: ("apiGroup", _TEXT), 2: ("kind", _TEXT), 3: ("name", _TEXT)},
    "TokenRequest": {
        1: ("metadata", "ObjectMeta"),
        2: ("spec", "TokenRequestSpec"),
        3: ("status", "ignored"),
    },
    "TokenRequestSpec": {
        1: ("audiences", "[]text"),
        3: ("boundObjectRef", "BoundObjectReference"),
        4: ("expirationSeconds", _INT),
    },
    "BoundObjectReference": {
        1: ("kind", _TEXT),
        2: ("apiVersion", _TEXT),
        3: ("name", _TEXT),
        4: ("uid", _TEXT),
    },
    "SelfSubjectReview": {1: ("metadata", "ObjectMeta"), 2: ("status", "ignored")},
    "SelfSubjectAccessReview": {
        1: ("metadata", "ObjectMeta"),
        2: ("spec", "SelfSubjectAccessReviewSpec"),
        3: ("status", "ignored"),
    },
    "SelfSubjectAccessReviewSpec": {
        1: ("resourceAttributes", "ResourceAttributes"),
        2: ("nonResourceAttributes", "NonResourceAttributes"),
    },
    "ResourceAttributes": {
        1: ("namespace", _TEXT),
        2: ("verb", _TEXT),
        3: ("group", _TEXT),
        4: ("version", _TEXT),
        5: ("resource", _TEXT),
        6: ("subresource", _TEXT),
        7: ("name", _TEXT),
    },
    "NonResourceAttributes": {1: ("path", _TEXT), 2: ("verb", _TEXT)},
    "SelfSubjectRulesReview": {
        1: ("metadata", "ObjectMeta"),
        2: ("spec", "SelfSubjectRulesReviewSpec"),
        3: ("status", "ignored"),
    },
    "SelfSubjectRulesReviewSpec": {1: ("namespace", _TEXT)},
    "Deployment": {
        1: ("metadata", "ObjectMeta"),
        2: ("spec", "DeploymentSpec"),
        3: ("status", "ignored"),
    },
    "DeploymentSpec": {
        1: ("replicas", _INT),
        2: ("selector", "LabelSelector"),
        3: ("template", "PodTemplateSpec"),
        4: ("strategy", "ignored"),
        5: ("minReadySeconds", _INT),
        7: ("paused", _BOOL),
    },
    "LabelSelector": {1: ("matchLabels", "map")},
    "PodTemplateSpec": {1: ("metadata", "ObjectMeta"), 2: ("spec", "PodSpec")},
    "PodSpec": {
        2: ("containers", "[]Container"),
        3: ("restartPolicy", _TEXT),
        6: ("dnsPolicy", _TEXT),
        8: ("serviceAccountName", _TEXT),
        9: ("serviceAccount", _TEXT),
        10: ("nodeName", _TEXT),
        11: ("hostNetwork", _BOOL),
        12: ("hostPID", _BOOL),
        13: ("hostIPC", _BOOL),
        16: ("hostname", _TEXT),
        17: ("subdomain", _TEXT),
        19: ("schedulerName", _TEXT),
    },
    "Container": {
        1: ("name", _TEXT),
        2: ("image", _TEXT),
        3: ("command", "[]text"),
        4: ("args", "[]text"),
        5: ("workingDir", _TEXT),
        6: ("ports", "[]ContainerPort"),
        8: ("resources", "ignored"),
        13: ("terminationMessagePath", _TEXT),
        14: ("imagePullPolicy", _TEXT),
        16: ("stdin", _BOOL),
        17: ("stdinOnce", _BOOL),
        18: ("tty", _BOOL),
        20: ("terminationMessagePolicy", _TEXT),
    },
    "ContainerPort": {
        1: ("name", _TEXT),
        2: ("hostPort", _INT),
        3: ("containerPort", _INT),
        4: ("protocol", _TEXT),
        5: ("hostIP", _TEXT),
    },
    "Eviction": {1: ("metadata", "ObjectMeta"), 2: ("deleteOptions", "DeleteOptions")},
    "DeleteOptions": {
        1: ("gracePeriodSeconds", _INT),
        2: ("preconditions", "Preconditions"),
        4: ("propagationPolicy", _TEXT),
        5: ("dryRun", "[]text"),
    },
    "Preconditions": {1: ("uid", _TEXT), 2: ("resourceVersion", _TEXT)},
    "Lease": {1: ("metadata", "ObjectMeta"), 2: ("spec", "LeaseSpec")},
    "LeaseSpec": {
        1: ("holderIdentity", _TEXT),
        2: ("leaseDurationSeconds", _INT),
        3: ("acquireTime", _MICRO),
        4: ("renewTime", _MICRO),
        5: ("leaseTransitions", _INT),
        6: ("strategy", _TEXT),
        7: ("preferredHolder", _TEXT),
    },
    "Event": {
        1: ("metadata", "ObjectMeta"),
        2: ("involvedObject", "ObjectReference"),
        3: ("reason", _TEXT),
        4: ("message", _TEXT),
        5: ("source", "EventSource"),
        6: ("firstTimestamp", _TIME),
        7: ("lastTimestamp", _TIME),
        8: ("count", _INT),
        9: ("type", _TEXT),
        10: ("eventTime", _MICRO),
        11: ("series", "EventSeries"),
        12: ("action", _TEXT),
        13: ("related", "ObjectReference"),
        14: ("reportingComponent", _TEXT),
        15: ("reportingInstance", _TEXT),
    },
    "EventSource": {1: ("component", _TEXT), 2: ("host", _TEXT)},
    "EventSeries": {1: ("count", _INT), 2: ("lastObservedTime", _MICRO)},
    "ObjectReference": {
        1: ("kind", _TEXT),
        2: ("namespace", _TEXT),
        3: ("name", _TEXT),
        4: ("uid", _TEXT),
        5: ("apiVersion", _TEXT),
        6: ("resourceVersion", _TEXT),
        7: ("fieldPath", _TEXT),
    },
}
_MESSAGES["ClusterRoleBinding"] = _MESSAGES["RoleBinding"]


def decode(raw: bytes) -> Object:
    """The object of a request body; raises ``StatusError``."""
    if not raw.startswith(_MAGIC):
        raise errors.bad_request("the request's body is not Kubernetes protobuf")
    try:
        envelope = {number: value for number, value in _fields(raw[len(_MAGIC) :])}
        meta = {number: value for number, value in _fields(envelope.get(1, b""))}
        kind, api_version = meta.get(2, b"").decode(), meta.get(1, b"").decode()
        if kind not in _MESSAGES:
            raise errors.unsupported_media(f"{CONTENT_TYPE} of a {kind}")
        return {"apiVersion": api_version, "kind": kind, **_message(envelope.get(2, b""), kind)}
    except (IndexError, UnicodeDecodeError, AttributeError) as error:
        raise errors.bad_request(f"broken protobuf: {error}") from error


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of every field: an integer or bytes, by its wire type."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        match tag & 7:
            case 0:
                value, at = _varint(raw, at)
                yield tag >> 3, value
            case 2:
                size, at = _varint(raw, at)
                if at + size > len(raw):
                    raise IndexError("a field runs past the end")
                yield tag >> 3, raw[at : at + size]
                at += size
            case wire:
                raise errors.bad_request(f"broken protobuf: wire type {wire}")


def _message(raw: bytes, name: str) -> Object:
    known = _MESSAGES[name]
    found: Object = {}
    for number, value in _fields(raw):
        if number not in known:
            if value in (0, b""):
                continue
            raise errors.unsupported_media(f"{CONTENT_TYPE} with field {number} of {name}")
        field, kind = known[number]
        if kind.startswith("[]"):
            found.setdefault(field, []).append(_value(value, kind[2:]))
        elif kind.startswith("map"):
            key, entry = _entry(value)
            text = base64.b64encode(entry) if kind == "map:bytes" else entry
            found.setdefault(field, {})[key] = text.decode()
        elif kind != "ignored":
            found[field] = _value(value, kind)
    # Go's encoder writes empty strings and zeroes; JSON leaves them out.
    return {k: v for k, v in found.items() if v not in ("", None)}


def _instant(raw: bytes, kind: str) -> str | None:
    """metav1.Time (whole seconds in JSON) or metav1.MicroTime; None for the zero time."""
    if not raw:
        return None
    parts = dict(_fields(raw))
    seconds = parts.get(1, 0)
    moment = datetime.fromtimestamp(seconds - (1 << 64) if seconds >> 63 else seconds, UTC)
    text = moment.replace(tzinfo=None).isoformat(timespec="seconds")
    return f"{text}.{parts.get(2, 0) // 1000:06}Z" if kind == _MICRO else f"{text}Z"


def _entry(raw: bytes) -> tuple[str, bytes]:
    pair = dict(_fields(raw))
    return pair.get(1, b"").decode(), pair.get(2, b"")


def _value(value: Any, kind: str) -> Any:
    match kind:
        case "text":
            return value.decode()
        case "bool":
            return bool(value)
        case "int":
            return value - (1 << 64) if value >= 1 << 63 else value
        case "bytes":
            return base64.b64encode(value).decode()
        case "time" | "microtime":
            return _instant(value, kind)
    return _message(value, kind)
