"""Whether a label selector of Kubernetes selects an object. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from egress_gateway.kube.resources import Untyped


def selected(selector: Untyped | None, labels: Mapping[str, str]) -> bool:
    """Whether a ``metav1.LabelSelector`` selects an object with ``labels``; none selects all."""
    selector = selector or {}
    return all(labels.get(k) == v for k, v in (selector.get("matchLabels") or {}).items()) and all(
        _expression(e, labels) for e in selector.get("matchExpressions") or ()
    )


def _expression(expression: Untyped, labels: Mapping[str, str]) -> bool:
    value, listed = labels.get(expression["key"]), expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return value in listed
        case "NotIn":
            return value not in listed
        case "Exists":
            return value is not None
        case _:
            return value is None
