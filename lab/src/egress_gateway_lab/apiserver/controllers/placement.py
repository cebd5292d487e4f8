"""Where a pod may run: selectors, affinity, taints. Pure functions on pods and nodes.

https://kubernetes.io/docs/concepts/scheduling-eviction/; resources are not counted, the lab's
nodes have none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from egress_gateway_lab.apiserver.objects import Object, dig, labels_of
from egress_gateway_lab.apiserver.storage.selectors import requirement, selector_predicate

_NAME_LABEL = "metadata.name"


def tolerates(tolerations: Iterable[Object], taint: Object) -> bool:
    return any(_tolerates(t, taint) for t in tolerations)


def _tolerates(toleration: Object, taint: Object) -> bool:
    effect, key = toleration.get("effect"), toleration.get("key")
    if effect and effect != taint.get("effect"):
        return False
    if key and key != taint.get("key"):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    return bool(key) and toleration.get("value", "") == taint.get("value", "")


def untolerated(spec: Object, node: Object, effects: Sequence[str]) -> Object | None:
    """The first taint of those effects that a pod does not tolerate."""
    tolerations = spec.get("tolerations") or []
    for taint in node.get("spec", {}).get("taints") or []:
        if taint.get("effect") in effects and not tolerates(tolerations, taint):
            found: Object = taint
            return found
    return None


def _term_matches(term: Object, node: Object) -> bool:
    expressions = term.get("matchExpressions") or []
    fields = term.get("matchFields") or []
    if not expressions and not fields:
        return False
    labels = labels_of(node)
    named = {_NAME_LABEL: node["metadata"]["name"]}
    return all(
        requirement(e["key"], e["operator"], e.get("values") or [])(labels) for e in expressions
    ) and all(requirement(e["key"], e["operator"], e.get("values") or [])(named) for e in fields)


def selected(spec: Object, node: Object) -> bool:
    """Whether a node matches a pod's node selector and required node affinity."""
    labels = labels_of(node)
    if any(labels.get(k) != v for k, v in (spec.get("nodeSelector") or {}).items()):
        return False
    path = ("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    required = dig(spec, path)
    if not required:
        return True
    return any(_term_matches(t, node) for t in required.get("nodeSelectorTerms") or [])


def _host_ports(spec: Object) -> set[tuple[int, str]]:
    return {
        (port["hostPort"], port.get("protocol", "TCP"))
        for container in spec.get("containers") or []
        for port in container.get("ports") or []
        if port.get("hostPort")
    }


def _repelled(pod: Object, node: Object, others: Sequence[Object]) -> bool:
    """Required anti-affinity between pods, by host name (the one topology a lab has)."""
    path = ("affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    for term in dig(pod["spec"], path) or []:
        if term.get("topologyKey") != "kubernetes.io/hostname":
            continue
        select = selector_predicate(term.get("labelSelector"))
        namespaces = term.get("namespaces") or [pod["metadata"]["namespace"]]
        if any(o["metadata"]["namespace"] in namespaces and select(labels_of(o)) for o in others):
            return True
    return False


def obstacle(pod: Object, node: Object, on_node: Sequence[Object]) -> str | None:
    """Why a pod cannot be put on a node, in the scheduler's words; None when it can."""
    spec = pod["spec"]
    if node.get("spec", {}).get("unschedulable") and not tolerates(
        spec.get("tolerations") or [],
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
    ):
        return "node(s) were unschedulable"
    if untolerated(spec, node, ("NoSchedule", "NoExecute")):
        return "node(s) had untolerated taint(s)"
    if not selected(spec, node):
        return "node(s) didn't match Pod's node affinity/selector"
    wanted = _host_ports(spec)
    if wanted and any(wanted & _host_ports(other["spec"]) for other in on_node):
        return "node(s) didn't have free ports for the requested pod ports"
    if _repelled(pod, node, on_node):
        return "node(s) didn't match pod anti-affinity rules"
    return None


def considers_others(pod: Object) -> bool:
    """Whether ``obstacle`` must know the pods of a node (most pods do not care)."""
    return bool(_host_ports(pod["spec"])) or bool(dig(pod["spec"], ("affinity", "podAntiAffinity")))


def preference(pod: Object, node: Object, *, siblings: int, pods: int) -> tuple[Any, ...]:
    """Smaller is better: few pods of the same owner, preferred affinity, few pods at all."""
    path = ("affinity", "nodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution")
    weight = sum(
        entry.get("weight", 0)
        for entry in dig(pod["spec"], path) or []
        if _term_matches(entry.get("preference") or {}, node)
    )
    return (siblings, -weight, pods, node["metadata"]["name"])
