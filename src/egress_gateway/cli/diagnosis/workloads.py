"""The workloads of ours: which of their pods are not ready, and why."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from egress_gateway.api import names
from egress_gateway.cli.diagnosis.overview import ComponentView
from egress_gateway.cli.diagnosis.selection import selected
from egress_gateway.kube import resources
from egress_gateway.kube.errors import Forbidden
from egress_gateway.kube.resources import Event, Node, Pod, Untyped

if TYPE_CHECKING:
    from egress_gateway.cli.once import Lists

_EVERY: Final = ("controller", "gateway", "node")
"""Components that each installation has."""
_NAMED: Final = 3
"""Pods that are named; of more only the number is told."""
_WORDS: Final = 300
"""Characters of a container's last line that are told."""
_OFF: Final = ("its node is not ready", "look at the machine, and at its kubelet")
_IMAGE: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName"})
"""Reasons of a kubelet."""


async def components(
    client: Lists, namespace: str, nodes: Sequence[Node] | None = None
) -> list[ComponentView]:
    """Our Deployments and DaemonSets, by the label that the chart gives them. Pods are read only
    where some are not ready, and may be read; Nodes too, unless the caller has them. Raises
    ``ApiError``."""
    found = [
        workload
        for kind in (resources.DEPLOYMENTS, resources.DAEMON_SETS)
        for workload in (
            await client.list(kind.untyped(), namespace=namespace, labels=names.COMPONENTS)
        ).items
    ]
    pods: Sequence[Untyped] = ()
    down: frozenset[str] = frozenset()
    refused: Sequence[Event] = ()
    if any(map(_unsettled, found)):
        with contextlib.suppress(Forbidden):
            everything = client.list(resources.PODS.untyped(), namespace, labels=names.COMPONENTS)
            pods = (await everything).items
        with contextlib.suppress(Forbidden):
            known = nodes or (await client.list(resources.NODES)).items
            down = frozenset(node.metadata.name for node in known if not node.ready)
        with contextlib.suppress(Forbidden):
            events = client.list(resources.EVENTS, namespace, fields="reason=FailedCreate")
            refused = (await events).items
    seen = [component(obj, pods, down, refused) for obj in found]
    return sorted([*seen, *_gone(found)], key=lambda c: c.name)


def _gone(found: Sequence[Untyped]) -> Iterator[ComponentView]:
    """Components that have no workload although others have: pods run on without them."""
    there = {(w["metadata"].get("labels") or {}).get(names.COMPONENT) for w in found}
    for name in _EVERY if found else ():
        if name not in there:
            yield ComponentView(
                name=f"egress-gateway-{name}",
                ready=0,
                wanted=1,
                message="there is no such workload: somebody has deleted it",
                mend="helm upgrade with the values of the installation makes it again",
            )


async def elsewhere(client: Lists, namespace: str) -> ComponentView:
    """Of a namespace that has none of our workloads: it is another one, or all are deleted. Raises
    ``ApiError``."""
    where = "--system-namespace names the one that has them"
    with contextlib.suppress(Forbidden):
        found = (await client.list(resources.DAEMON_SETS.untyped(), labels=names.COMPONENTS)).items
        others = sorted({w["metadata"]["namespace"] for w in found})
        where = f"--system-namespace {others[0]}" if others else "helm install makes them again"
    message = f"namespace {namespace} has none of the components"
    return ComponentView(name="egress-gateway", ready=0, wanted=1, message=message, mend=where)


async def agents(client: Lists, component: str, namespace: str) -> list[Pod]:
    """The pods of a component that have not ended. Raises ``ApiError``."""
    labels = f"{names.COMPONENTS},{names.COMPONENT}={component}"
    found = (await client.list(resources.PODS, namespace, labels=labels)).items
    return [pod for pod in found if not pod.finished]


def _unsettled(workload: Untyped) -> bool:
    """Pods are not ready, those of a rollout among them: what it replaces stays until they are."""
    seen, state = component(workload), workload.get("status") or {}
    return seen.ready < seen.wanted or state.get("replicas", 0) > state.get("readyReplicas", 0)


def component(
    workload: Untyped,
    pods: Sequence[Untyped] = (),
    down: Container[str] = (),
    refused: Sequence[Event] = (),
) -> ComponentView:
    """A Deployment's or DaemonSet's pods, ready and wanted (apps/v1). ``pods``: those of all our
    workloads. Wanted are also those of a rollout that cannot go on by itself. ``down``: names of
    Nodes that are not ready. ``refused``: Events about pods that could not be made."""
    state: dict[str, Any] = workload.get("status") or {}
    spec: dict[str, Any] = workload.get("spec") or {}
    name = workload["metadata"]["name"]
    where = workload["metadata"].get("namespace", "")
    if "replicas" not in spec:  # a DaemonSet
        ready, wanted = state.get("numberReady", 0), state.get("desiredNumberScheduled", 0)
    elif not spec["replicas"]:
        mend = f"kubectl -n {where} scale deployment {name} --replicas 2"
        return ComponentView(name=name, ready=0, wanted=1, message="scaled to zero", mend=mend)
    else:
        ready, wanted = state.get("readyReplicas", 0), spec["replicas"]
    own = [p for p in pods if _belongs(p, spec.get("selector")) and not _ends(p)]
    if ready >= wanted:
        wanted = ready + sum(not _ready(p) and _stuck(p, where) is not None for p in own)
    if ready >= wanted:
        return ComponentView(name=name, ready=ready, wanted=wanted)
    kind = "deployment" if "replicas" in spec else "daemonset"
    describe = f"kubectl -n {where} describe {kind} {name}"
    message, mend = _amiss(own, wanted, describe, where, down)
    if len(own) < wanted and (why := _refused(refused, name)):
        message = f"{message}: {why}"
    return ComponentView(name=name, ready=ready, wanted=wanted, message=message, mend=mend)


def _belongs(pod: Untyped, selector: Untyped | None) -> bool:
    return selected(selector, pod["metadata"].get("labels") or {})


def _amiss(
    pods: Sequence[Untyped], wanted: int, describe: str, where: str, down: Container[str]
) -> tuple[str, str]:
    """What is the matter, and what mends it. ``describe``: the command for the workload."""
    broken = [(p, *(_OFF if _node(p) in down else _why(p, where))) for p in pods if not _ready(p)]
    told = [f"{p['metadata']['name']}{_on(p)}: {why}" for p, why, _ in broken[:_NAMED]]
    if len(broken) > _NAMED:
        told.append(f"and {len(broken) - _NAMED} more")
    mends = list(dict.fromkeys(mend for _, _, mend in broken))[:1]
    if not broken:
        told.append(f"{len(pods)} of {wanted} pods are there")
        mends.append(describe)
    return "; ".join(told), mends[0]


def _refused(events: Sequence[Event], name: str) -> str:
    """The last words about pods of a workload, or of its ReplicaSet, that could not be made."""
    about = [
        e
        for e in events
        if e.involved_object.name == name or e.involved_object.name.startswith(f"{name}-")
    ]
    last = max(about, key=lambda e: e.last_timestamp or "", default=None)
    return last.message[:_WORDS] if last else ""


def _ends(pod: Untyped) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))


def _ready(pod: Untyped) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in _conditions(pod))


def _conditions(pod: Untyped) -> list[Untyped]:
    return (pod.get("status") or {}).get("conditions") or []


def _node(pod: Untyped) -> str:
    return (pod.get("spec") or {}).get("nodeName") or ""


def _on(pod: Untyped) -> str:
    return f" on {node}" if (node := _node(pod)) else ""


def _why(pod: Untyped, where: str) -> tuple[str, str]:
    """Why a pod is not ready, and what mends it."""
    describe = f"kubectl -n {where} describe pod {pod['metadata']['name']}"
    if stuck := _stuck(pod, where):
        return stuck
    if (pod.get("status") or {}).get("phase") == "Pending":
        return "it has not started", f"{describe} shows what it waits for"
    return "it runs, and does not say that it is ready", f"{describe} shows what its probe answers"


def _stuck(pod: Untyped, where: str) -> tuple[str, str] | None:
    """Why a pod will not be ready by itself, and what mends it. None: it may be yet."""
    name = pod["metadata"]["name"]
    describe = f"kubectl -n {where} describe pod {name}"
    for one in _conditions(pod):
        if one["type"] == "PodScheduled" and one["status"] == "False":
            return f"no node takes it: {one.get('message', '')}", describe
    for container in _containers(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, said = waiting.get("reason", ""), _last_words(container)
        if reason in _IMAGE:
            image = container.get("image", "its image")
            return f"{reason}: {image}", "correct the chart's image, or let the nodes pull it"
        if reason == "CrashLoopBackOff" or (said and not container.get("ready")):
            logs = f"kubectl -n {where} logs {name} -c {container['name']} --previous"
            return ": ".join(filter(None, (reason or "it ended", said))), f"{logs} says why"
        if reason not in ("", "ContainerCreating", "PodInitializing"):
            return f"{reason}: {waiting.get('message', '')}", describe
    return None


def _containers(pod: Untyped) -> Iterator[Untyped]:
    state = pod.get("status") or {}
    yield from state.get("initContainerStatuses") or ()
    yield from state.get("containerStatuses") or ()


def _last_words(container: Untyped) -> str:
    """The last line of a container that has ended: the chart's containers leave their log."""
    for state in (container.get("state") or {}, container.get("lastState") or {}):
        text = str((state.get("terminated") or {}).get("message") or "").strip()
        if text:
            return _said(text.rpartition("\n")[2])[:_WORDS]
    return ""


def _said(line: str) -> str:
    """Of a line of a log of ours: what it says."""
    try:
        return str(msgspec.json.decode(line, type=dict[str, Any])["msg"])
    except (ValueError, KeyError, RecursionError):
        return line
