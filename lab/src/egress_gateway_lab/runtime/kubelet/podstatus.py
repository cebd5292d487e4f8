"""What a kubelet reports of a pod (pure): phase, conditions, container statuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from egress_gateway_lab.runtime.containers.containers import Container

Object = dict[str, Any]

_OURS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")


def phase(containers: Sequence[Container], inits: Sequence[Container], *, created: bool) -> str:
    """The pod's phase from its containers."""
    if any(c.finished and c.exit_code != 0 for c in inits):
        return "Failed"
    if containers and all(c.finished for c in containers):
        return "Failed" if any(c.exit_code for c in containers) else "Succeeded"
    started = any("waiting" not in c.state or c.last_state for c in containers)
    return "Running" if created and started else "Pending"


def conditions(
    previous: Sequence[Object], states: dict[str, tuple[bool, str]], time: str
) -> list[Object]:
    """Conditions of others stay; a transition time moves when the status does.
    ``states``: type -> (status, reason)."""
    known = {condition["type"]: condition for condition in previous}
    result = [condition for condition in previous if condition["type"] not in _OURS]
    for kind, (holds, reason) in states.items():
        status = "True" if holds else "False"
        before = known.get(kind) or {}
        same = before.get("status") == status
        entry: Object = {
            "type": kind,
            "status": status,
            "lastProbeTime": None,
            "lastTransitionTime": before["lastTransitionTime"] if same else time,
        }
        if reason and not holds:
            entry["reason"] = reason
        result.append(entry)
    return result


def contradicted(posted: Object, shown: Object) -> bool:
    """Whether somebody else has written another state of our conditions over what we posted, as the
    node controller does with a node that is silent. A kubelet writes its own again."""
    ours, theirs = (
        {c["type"]: c["status"] for c in one.get("conditions") or [] if c["type"] in _OURS}
        for one in (posted, shown)
    )
    return any(theirs.get(kind, status) != status for kind, status in ours.items())


def condition_states(
    now_phase: str,
    containers: Sequence[Container],
    inits: Sequence[Container],
    *,
    network: bool,
) -> dict[str, tuple[bool, str]]:
    """Type -> (status, reason) of the kubelet's own conditions."""
    done = now_phase in ("Succeeded", "Failed")
    initialized = all(c.exit_code == 0 for c in inits)
    ready = not done and bool(containers) and all(c.ready for c in containers)
    unready = "PodCompleted" if now_phase == "Succeeded" else "ContainersNotReady"
    return {
        "PodReadyToStartContainers": (network, ""),
        "Initialized": (initialized, "ContainersNotInitialized"),
        "Ready": (ready, unready),
        "ContainersReady": (ready, unready),
    }
