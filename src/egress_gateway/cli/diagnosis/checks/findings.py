"""Finds what is wrong in a cluster: each finding has a code, evidence and a mend. Pure.

Guarantee: a healthy cluster has no finding, whatever its shape. Nothing is reported twice: a
finding about a gateway or a pod is not repeated for its configuration. Codes are part of the
contract: scripts may look for them, and docs/reference/checks.md has a paragraph on each.
"""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from egress_gateway.api import names
from egress_gateway.api.conditions import (
    ACCEPTED,
    DEGRADED,
    EGRESS_VERIFIED,
    IPV6_READY,
    KEYS_ROTATED,
    READY,
    Reason,
    find,
)
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.cli.diagnosis.overview import (
    NOT_REACHED,
    SERVES_WITH,
    ConfigurationView,
    Facts,
    Overview,
    UnwatchedView,
    silence,
)
from egress_gateway.kube.resources import Event, Node, Pod

_ALIKE: Final = 0.85
"""How like the annotation's key another must be to be a misspelt one (``difflib``)."""
_DELETION: Final = 120.0
"""Seconds that a configuration's deletion may take: Azure's writes."""
_VERIFICATION: Final = 60.0
"""Seconds within which a server that answers has answered some gateway."""
_SHOWN_ELSEWHERE: Final = frozenset({Reason.PODS_WITHOUT_TUNNEL, Reason.REDUNDANCY_LOST})
"""Reasons of ``Degraded`` that pods and gateways are reported for by themselves."""


class Finding(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One thing that is amiss."""

    code: str
    object: str
    """``Kind namespace/name``."""
    evidence: str
    mend: str


TITLES: Final = {
    "EG101": "a pod's annotation has a misspelt key",
    "EG102": "the annotation's key is a label",
    "EG103": "the annotation's value is namespace/name",
    "EG104": "the annotation names a configuration that does not exist",
    "EG105": "an annotated pod uses its node's network",
    "EG106": "an annotated pod is not scheduled",
    "EG107": "an annotated pod runs without a tunnel, or waits for one",
    "EG108": "an attached pod has no working tunnel",
    "EG109": "a gateway does not believe a pod's claim",
    "EG110": "the annotation is on a workload, not on its pods",
    "EG201": "a configuration is not ready",
    "EG202": "a configuration is degraded",
    "EG203": "a configuration sends nothing through its gateway",
    "EG204": "a gateway does not serve a configuration, or not without a problem",
    "EG205": "a configuration does not carry IPv6",
    "EG206": "a change of keys does not end",
    "EG207": "nodes do not reach a gateway",
    "EG208": "a configuration's own verify targets do not answer",
    "EG301": "a component is not ready",
    "EG302": "a node is not prepared for annotated pods",
    "EG303": "a node has no agent",
    "EG304": "clusterCidrs lacks addresses of the cluster",
    "EG305": "nothing keeps annotated pods off nodes without the plugin",
    "EG306": "a component has lost its rights",
    "EG307": "components are of different images",
    "EG308": "what a component needs is gone",
    "EG309": "clusterCidrs takes the Internet",
    "EG310": "nothing bounds what agents' accounts may write",
    "EG311": "no controller leads",
    "EG312": "there are two installations",
    "EG401": "Kubernetes is too old",
    "EG402": "there are too few gateway nodes",
    "EG403": "a gateway node has no taint",
    "EG404": "a gateway node is no machine of Azure",
    "EG405": "a container runtime is too old",
    "EG406": "a right to install is missing",
    "EG407": "the namespace's Pod Security level refuses the agents",
    "EG408": "the Go project runs here",
    "EG411": "a kernel has neither WireGuard nor TUN",
    "EG412": "nftables does not work",
    "EG413": "the MTU is too small",
    "EG414": "the CNI chain cannot take the plugin",
    "EG420": "Azure does not take the credential",
    "EG421": "a right in Azure is missing",
    "EG422": "the quota of public addresses is too small",
    "EG423": "a subnet has too few free addresses",
    "EG424": "a public IP prefix cannot be used",
}


def findings(facts: Facts, overview: Overview) -> list[Finding]:
    """``overview`` is what ``summarize`` makes of ``facts``. Sorted by code and object."""
    deleting = {
        f"{sgc.metadata.namespace}/{sgc.metadata.name}"
        for sgc in facts.configurations
        if (since := sgc.metadata.deletion_timestamp) and silence(since, facts.at) < _DELETION
    }
    found = [
        *_pods(facts),
        *_components(overview),
        *_nodes(facts),
        *_unwatched(overview),
        *_absent(overview),
        *_claims(facts),
        *(
            finding
            for view in overview.configurations
            if view.configuration not in deleting
            for finding in _configuration(view)
        ),
        *(f for sgc in facts.configurations for f in _conditions(sgc, facts.at)),
    ]
    return sorted(set(found), key=lambda f: (f.code, f.object))


def _pods(facts: Facts) -> Iterator[Finding]:
    known = {(s.metadata.namespace, s.metadata.name) for s in facts.configurations}
    for pod in facts.pods or ():
        if not pod.finished:
            yield from _keys(pod)
            yield from _value(pod, known)


def _keys(pod: Pod) -> Iterator[Finding]:
    key, where = names.POD_ANNOTATION, _of_pod(pod)
    mend = f"write the annotation {key}, on the pod's template"
    if key in pod.metadata.labels:
        yield Finding(
            code="EG102",
            object=where,
            evidence=f"it has a label {key}, which nobody reads",
            mend=mend,
        )
    if key in pod.metadata.annotations:
        return
    for other in pod.metadata.annotations:
        if misspelt(other):
            yield Finding(
                code="EG101",
                object=where,
                evidence=f"its annotation {other} is read by nobody",
                mend=mend,
            )


def misspelt(key: str) -> bool:
    """Whether a key looks like the annotation's and is not it."""
    wanted = names.POD_ANNOTATION
    if key == wanted or key.startswith(f"{names.GROUP}/"):
        return False
    ends_alike = key.rpartition("/")[2].lower() == wanted.rpartition("/")[2]
    ratio = difflib.SequenceMatcher(None, key.lower(), wanted).ratio()
    return ends_alike or ratio >= _ALIKE


def _value(pod: Pod, known: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    asked, namespace = names.asked_configuration(pod.metadata.annotations), pod.metadata.namespace
    if not asked or (namespace, asked) in known:
        return
    there = sorted(name for where, name in known if where == namespace)
    listed = f"there are: {', '.join(there)}" if there else f"{namespace} has none"
    if "/" in asked:
        yield Finding(
            code="EG103",
            object=_of_pod(pod),
            evidence=f"its annotation is {asked!r}; a configuration is of the pod's own namespace",
            mend=f"write the name alone ({listed})",
        )
        return
    close = difflib.get_close_matches(asked, there, 1)
    guess = f"; did you mean {close[0]}?" if close else ""
    yield Finding(
        code="EG104",
        object=_of_pod(pod),
        evidence=f"its annotation is {asked!r}, and {namespace} has no such "
        f"StaticGatewayConfiguration ({listed}{guess})",
        mend="correct the annotation, the pod's or its Namespace's, or create the configuration",
    )


def _configuration(view: ConfigurationView) -> Iterator[Finding]:
    where = f"StaticGatewayConfiguration {view.configuration}"
    namespace = view.configuration.partition("/")[0]
    for gateway in view.gateways:
        if gateway.reason == NOT_REACHED:
            yield Finding(
                code="EG207",
                object=f"Node {gateway.node}",
                evidence=f"of {view.configuration}, {gateway.message}",
                mend=gateway.mend,
            )
        elif not gateway.serving or gateway.reason == SERVES_WITH:
            does = "serves" if gateway.serving else "does not serve"
            yield Finding(
                code="EG204",
                object=f"Node {gateway.node}",
                evidence=f"it {does} {view.configuration}: {gateway.reason}: {gateway.message}",
                mend=_GATEWAY_MENDS.get(gateway.reason, "see its GatewayStatus and agent's log"),
            )
    down = [g.node for g in view.gateways if not g.serving and g.reason != NOT_REACHED]
    explained = any(not g.serving for g in view.gateways)
    troubled = view.troubled_pods
    if view.state == "NotReady" and not explained and view.reason != Reason.PODS_WITHOUT_TUNNEL:
        cut_off = [pod for pod in troubled if pod.reason in _OF_GATEWAYS and not view.gateways]
        troubled = [pod for pod in troubled if pod not in cut_off]
        yield Finding(
            code="EG201",
            object=where,
            evidence=f"{view.reason}: {view.message}"
            + (f"; {len(cut_off)} pods have no tunnel for it" if cut_off else ""),
            mend="do what the message says; docs/operate/troubleshooting.md has each reason",
        )
    for pod in troubled:
        code = _POD_CODES.get(pod.reason, "EG108")
        mend = _POD_MENDS.get(code, "kubectl describe pod says what it waits for")
        if down and pod.reason in _OF_GATEWAYS:
            mend = f"first what EG204 says of {', '.join(down)}; then {mend}"
        yield Finding(
            code=code,
            object=f"Pod {namespace}/{pod.pod}",
            evidence=f"{pod.reason}: {pod.message}",
            mend=mend,
        )


def _unverified(sgc: StaticGatewayConfiguration, now: datetime.datetime) -> Finding | None:
    """Servers that a configuration names itself, and that never answer. Those of the gateways'
    settings may be out of reach on purpose."""
    ready, verified = (find(sgc.status.conditions, kind) for kind in (READY, EGRESS_VERIFIED))
    if not sgc.spec.verify_targets or ready is None or ready.status != "True":
        return None
    if verified is None or verified.status != "Unknown":
        return None
    if silence(ready.last_transition_time, now) < _VERIFICATION:
        return None
    return Finding(
        code="EG208",
        object=f"StaticGatewayConfiguration {sgc.metadata.namespace}/{sgc.metadata.name}",
        evidence=f"none of spec.verifyTargets ({', '.join(sgc.spec.verify_targets)}) has answered: "
        "nobody verifies its addresses",
        mend="name STUN servers (host:port, UDP) that answer, or remove verifyTargets",
    )


def _conditions(sgc: StaticGatewayConfiguration, now: datetime.datetime) -> Iterator[Finding]:
    where = f"StaticGatewayConfiguration {sgc.metadata.namespace}/{sgc.metadata.name}"
    degraded = find(sgc.status.conditions, DEGRADED)
    if (
        degraded is not None
        and degraded.status == "True"
        and degraded.reason not in _SHOWN_ELSEWHERE
    ):
        yield Finding(
            code="EG202",
            object=where,
            evidence=f"{degraded.reason}: {degraded.message}",
            mend=_GATEWAY_MENDS.get(
                degraded.reason, "docs/operate/troubleshooting.md has the reason"
            ),
        )
    for kind, code, mend in _MORE:
        said = find(sgc.status.conditions, kind)
        if said is not None and said.status == "False" and said.reason not in _PASSING:
            yield Finding(
                code=code, object=where, evidence=f"{said.reason}: {said.message}", mend=mend
            )
    if (unverified := _unverified(sgc, now)) is not None:
        yield unverified
    for kind in (ACCEPTED, IPV6_READY):
        said = find(sgc.status.conditions, kind)
        if said is not None and said.reason == Reason.NOTHING_SENT:
            yield Finding(
                code="EG203", object=where, evidence=said.message, mend="correct spec.excludeCidrs"
            )


def _claims(facts: Facts) -> Iterator[Finding]:
    for claim in {c.pod: c for g in facts.gateways or () for c in g.spec.refused_claims}.values():
        yield Finding(
            code="EG109",
            object=f"Pod {claim.pod}",
            evidence=f"its PodEndpoint for {claim.static_gateway_configuration} is refused: "
            f"{claim.reason}: {claim.message}",
            mend="docs/operate/troubleshooting.md has the reason; "
            "if the pod is unknown, suspect its node",
        )


def _components(overview: Overview) -> Iterator[Finding]:
    for one in overview.components:
        if one.ready < one.wanted:
            yield Finding(
                code="EG301",
                object=f"Workload {one.name}",
                evidence=": ".join(
                    filter(None, (f"{one.ready} of {one.wanted} pods are ready", one.message))
                ),
                mend=one.mend or "kubectl describe its pods",
            )


def _nodes(facts: Facts) -> Iterator[Finding]:
    """Nodes on which attached or waiting pods could run: all but gateways, those that are down, and
    all of them where no node has the label, as before the node agents have begun."""
    nodes = [n for n in facts.nodes or () if not names.marks_gateway(n.metadata.labels)]
    ready = [n for n in nodes if n.ready and not n.spec.unschedulable]
    if not any(names.NODE_READY_LABEL in n.metadata.labels for n in nodes):
        return
    why = {
        event.involved_object.name: event
        for event in sorted(facts.events, key=lambda e: e.last_timestamp or "")
        if event.reason == names.PLUGIN_NOT_IN_PLACE
    }
    for node in ready:
        name = node.metadata.name
        if names.NODE_READY_LABEL not in node.metadata.labels and not _virtual(node):
            yield _unprepared(name, why.get(name), facts)


def _unprepared(name: str, event: Event | None, facts: Facts) -> Finding:
    """The agent repeats its Event while the cause lasts: an older one is of another cause."""
    mend = "do what the message says"
    if facts.agents is not None and name not in facts.agents:
        told = " (no egress-gateway-node pod is there)"
        mend = "let the DaemonSet egress-gateway-node have the node, if it is to have such pods"
    elif event and silence(event.last_timestamp or "", facts.at) < names.PLUGIN_TOLD_EVERY * 2:
        told = f" ({event.message})"
    else:
        told, mend = "", "the log of its egress-gateway-node pod says why"
    return Finding(
        code="EG302",
        object=f"Node {name}",
        evidence=f"it lacks the label {names.NODE_READY_LABEL}: annotated pods do not come "
        f"there{told}",
        mend=mend,
    )


def _unwatched(overview: Overview) -> Iterator[Finding]:
    for one in overview.unwatched:
        if one.agent == "egress-gateway-gateway":
            yield _unled(one)
            continue
        yield Finding(
            code="EG303",
            object=f"Node {one.node}",
            evidence=f"no egress-gateway-node pod is there: its {one.pods} attached pods are not "
            "moved when their gateway is lost, and annotated pods that come there do not start",
            mend="let the DaemonSet egress-gateway-node have the node (nodeSelector, affinity, "
            "tolerations); until then take the label away: "
            f"kubectl label node {one.node} {names.NODE_READY_LABEL}-",
        )


def _unled(one: UnwatchedView) -> Finding:
    return Finding(
        code="EG303",
        object=f"Node {one.node}",
        evidence=f"no {one.agent} pod is there: the gateway goes on for the {one.pods} pods that "
        "use it and learns of no new ones, and nobody looks whether its Internet side works",
        mend=f"let its DaemonSet have the node: the label {names.GATEWAY_NODE_LABEL}=true (AKS: "
        "kubernetes.azure.com/mode=gateway), and the node's taints; or drain the node",
    )


def _absent(overview: Overview) -> Iterator[Finding]:
    for name in overview.absent:
        yield Finding(
            code="EG308",
            object=f"CustomResourceDefinition {name}",
            evidence="the cluster has no such kind any more, and has lost all objects of it",
            mend="kubectl apply --server-side -f deploy/crds; agents write their objects again by "
            "themselves, StaticGatewayConfigurations you have to apply",
        )


def _virtual(node: Node) -> bool:
    """Not a Linux machine: no agent of ours runs there."""
    labels = node.metadata.labels
    return (
        labels.get("kubernetes.io/os", "linux") != "linux"
        or labels.get("type") == "virtual-kubelet"
    )


def _of_pod(pod: Pod) -> str:
    return f"Pod {pod.metadata.namespace}/{pod.metadata.name}"


_PASSING: Final = frozenset(
    {
        *(Reason.PROVISIONING, Reason.DELETING, Reason.ROTATION_WAITING),
        *(Reason.ROTATION_PREPARING, Reason.ROTATION_MOVING, Reason.ROTATION_RETIRING),
    }
)
"""Reasons that time mends."""
_MORE: Final = (
    (IPV6_READY, "EG205", "IPv4 goes on; docs/operate/troubleshooting.md has the reason"),
    (KEYS_ROTATED, "EG206", "kubectl get podendpoints shows which pods use the former key pair"),
)
"""Conditions that ``Ready`` and ``Degraded`` say nothing of: type, code, fix."""
_OF_GATEWAYS: Final = frozenset({"TunnelsUnanswered", "GatewaysUnreachable", "NoGateway"})
"""Reasons of pods that a gateway's own trouble explains."""
_POD_CODES: Final = {
    "HostNetwork": "EG105",
    "NotScheduled": "EG106",
    "NotAttached": "EG107",
    "Waiting": "EG107",
}
_POD_MENDS: Final = {
    "EG105": "take hostNetwork or the annotation away",
    "EG106": f"is there a node with room and the label {names.NODE_READY_LABEL}?",
    "EG108": "do what the message says; docs/operate/troubleshooting.md has each reason",
}
_GATEWAY_MENDS: Final = {
    "NodeGone": "nothing, if it was scaled down; else look at the pool's machines",
    "NodeNotReady": "look at the machine, and at its kubelet",
    "NoAgent": "is egress-gateway-gateway on that node (kubectl get pods -o wide)? If somebody "
    "deleted its GatewayStatus, it writes another within half a minute",
    "AgentSilent": "look at its egress-gateway-gateway pod: its log, and its way to the API server",
    "Draining": "nothing, if it is to go; else kubectl uncordon",
    "InternetUnreachable": "look at the node's way to the Internet: address, routes, firewall",
    "AddressNotVerified": "look at the public address of the node's network interface",
    "LargePacketsLost": "look at the MTU of the node's way out, and at what drops large packets",
    "Problem": "do what the message says",
    SERVES_WITH: "do what the message says",
    "AzureNotReachable": "do what the message says; if it names a resource group or subscription "
    "that you do not know, correct azure.json",
}
