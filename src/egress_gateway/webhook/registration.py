"""Which pods the API server asks us about, as the two webhooks of one configuration. Pure.

The promise is made here, not in our answers: a pod that neither names a configuration nor lies in a
Namespace that does is never sent to us, so it is created whether or not we are there. For the
others the failure policy is Fail: without us they wait.

An API server decides by labels of Namespaces, never by annotations. So the second webhook names the
Namespaces that carry the annotation, by the label that each has of its name, and follows them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

from egress_gateway.api import names

PATH: Final = "/pods"
ANNOTATED: Final = f"annotated.{names.GROUP}"
DEFAULTED: Final = f"defaulted.{names.GROUP}"
NAME_LABEL: Final = "kubernetes.io/metadata.name"
"""The API server puts it on every Namespace, and lets nobody change it."""
_SECONDS: Final = 5

_HAS_ANNOTATIONS: Final = "has(object.metadata.annotations)"
_NAMES_ONE: Final = f"'{names.POD_ANNOTATION}' in object.metadata.annotations"
_ORDINARY: Final = (
    # Conditions that fail refuse the pod: nothing is looked at before it is known to be there.
    {
        "name": "has-a-network",
        "expression": "!has(object.spec.hostNetwork) || !object.spec.hostNetwork",
    },
    {
        "name": "is-no-mirror",
        "expression": f"!{_HAS_ANNOTATIONS}"
        f" || !('{names.MIRROR_ANNOTATION}' in object.metadata.annotations)",
    },
)
_ANNOTATED: Final = {
    "name": "names-a-configuration",
    "expression": f"{_HAS_ANNOTATIONS} && {_NAMES_ONE}"
    f" && object.metadata.annotations['{names.POD_ANNOTATION}'] != ''",
}
_SILENT: Final = {
    "name": "says-nothing",
    "expression": f"!{_HAS_ANNOTATIONS} || !({_NAMES_ONE})",
}


def client(*, service: str, namespace: str, url: str, trust: bytes) -> dict[str, Any]:
    """Where the API server finds us (``url`` goes before the Service), and whom it believes
    there: ``trust``, in PEM."""
    bundle = {"caBundle": base64.b64encode(trust).decode()}
    if url:
        return {"url": url.rstrip("/") + PATH, **bundle}
    reference = {"name": service, "namespace": namespace, "path": PATH, "port": 443}
    return {"service": reference, **bundle}


def webhooks(
    client_config: Mapping[str, Any], *, system: str, defaulted: Iterable[str]
) -> list[dict[str, Any]]:
    """Both webhooks; ``defaulted`` are the Namespaces that carry the annotation. Pods of the
    namespace ``system`` are never asked about: we are among them."""
    named = sorted(set(defaulted) - {system})
    outside = {"key": NAME_LABEL, "operator": "NotIn", "values": [system]}
    # There is no Namespace without the label.
    inside = (
        {"key": NAME_LABEL, "operator": "In", "values": named}
        if named
        else {"key": NAME_LABEL, "operator": "DoesNotExist"}
    )
    return [
        _webhook(ANNOTATED, client_config, outside, _ANNOTATED),
        _webhook(DEFAULTED, client_config, inside, _SILENT),
    ]


def _webhook(
    name: str, client_config: Mapping[str, Any], where: dict[str, Any], which: dict[str, str]
) -> dict[str, Any]:
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["pods"],
        "scope": "Namespaced",
    }
    return {
        "name": name,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "matchPolicy": "Equivalent",
        # Another policy or webhook may still add the annotation.
        "reinvocationPolicy": "IfNeeded",
        "timeoutSeconds": _SECONDS,
        "rules": [rule],
        "namespaceSelector": {"matchExpressions": [where]},
        "matchConditions": [*_ORDINARY, which],
        "clientConfig": dict(client_config),
    }


def covers(live: Any, wanted: Any) -> bool:
    """Whether ``live`` says all that ``wanted`` does; what the API server has added is its own,
    and so is what it excludes beyond (AKS adds its own namespaces to every webhook)."""
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(
            _expressed(live.get(k), v) if k == "matchExpressions" else covers(live.get(k), v)
            for k, v in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(covers(a, b) for a, b in zip(live, wanted, strict=True))
        )
    return bool(live == wanted)


def _expressed(live: Any, wanted: list[Any]) -> bool:
    """Expressions are all to hold, so more of them only narrow."""
    return isinstance(live, list) and all(expression in live for expression in wanted)
