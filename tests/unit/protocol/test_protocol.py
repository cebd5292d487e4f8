"""All interleavings of a few things that can happen: never a wrong address, never two owners, and
from every state, once things calm down, everybody is served."""

from __future__ import annotations

import ipaddress
import os
from collections import deque
from dataclasses import replace
from typing import Any

import pytest

from egress_gateway.gateway.peers.rules import AcceptedClaim
from egress_gateway.node.attachment.choose import GatewayNode
from egress_gateway.node.attachment.model import Joining
from tests.unit.protocol import model
from tests.unit.protocol.model import (
    GATEWAYS,
    GONE,
    NAMES,
    OF_POD,
    PODS,
    State,
    calmed,
    carries,
    peers,
    steps,
)

MOST = int(os.environ.get("PROTOCOL_STATES", "3000"))
"""States of one story that are looked at, nearest to its beginning first."""
STORIES = {
    "a pod moves to another configuration while a gateway dies": {"annotate": 1, "lose": 1},
    "a pod takes the address of one that was deleted": {"replace": 1, "create": 1},
    "keys are changed": {"rotate": 1},
    "keys are changed while a pod moves": {"rotate": 1, "annotate": 1},
    "keys are changed while a gateway dies": {"rotate": 1, "lose": 1},
    "a gateway is drained while the other one dies": {"drain": 1, "lose": 1},
    "agents begin anew while a gateway dies": {"restart": 2, "lose": 1},
    "keys are changed while a gateway is drained and an agent begins anew": {
        "rotate": 1,
        "drain": 1,
        "restart": 1,
    },
}


def safe(state: State) -> str:
    """What must not be in any state; empty if it is not."""
    for gateway in GATEWAYS:
        owners: dict[tuple[str, str], str] = {}
        for configuration in ("a", "b"):
            view = state.gate_annotation[gateway]
            found = peers(configuration, state.gate_ends[gateway], view)
            for key, addresses in found.items():
                pod = OF_POD.index(key)
                if view[pod] != configuration:
                    return f"g{gateway} lets p{pod} send by {configuration}, which it did not ask"
                for address in addresses:
                    if owners.setdefault((configuration, address), key) != key:
                        return f"g{gateway} knows two owners of {address}"
    for pod in PODS:
        had = state.attached[pod]
        if had is None:
            continue
        heard = state.node_annotation[pod]
        tunnels = [t for t in (had.active, had.standby.tunnel if had.standby else None) if t]
        sends = {"b" if t.server.port == 6002 else "a" for t in tunnels}
        if sends - {had.configuration}:
            return f"p{pod} of {had.configuration} has a tunnel of {sends}"
        if had.active and had.active.verified and had.standby and isinstance(had.standby, Joining):
            continue
        if heard == GONE and state.annotation[pod] not in (GONE, heard):
            return f"p{pod} is taken for gone"
    return ""


def served(state: State) -> str:
    """What must be so once all is calm; empty if it is."""
    for pod in PODS:
        asked, had = state.annotation[pod], state.attached[pod]
        if asked == GONE:
            if had or state.ends[pod]:
                return f"something of p{pod}, which is gone, is left"
            if any(OF_POD[pod] in peers("a", state.gate_ends[g], state.gate_annotation[g])
                   for g in GATEWAYS if state.up[g]):  # fmt: skip
                return f"a gateway still knows p{pod}"
            continue
        if had is None or had.configuration != asked or had.active is None:
            return f"p{pod} is not attached to {asked}"
        if not had.active.verified or not carries(state, pod, had.active):
            return f"p{pod} is not carried: {had.active}"
        if not isinstance(had.active.to, GatewayNode):
            return f"p{pod} is left to the load balancer"
        gateway = NAMES.index(had.active.to.name)
        if state.veto[gateway] and all(state.up):
            return f"p{pod} stays where it was asked to leave"
        if asked == "a" and state.phase == "Done" and had.active.server.port != 6001:
            return f"p{pod} has the former keys"
    if state.phase not in ("", "Done"):
        return f"the keys' change stays at {state.phase}"
    return ""


def explored(first: State) -> tuple[int, list[str]]:
    """How many states, and what led to the first bad one."""
    before: dict[State, tuple[State, str] | None] = {first: None}
    waiting = deque([first])
    rests: dict[State, str] = {}
    while waiting and len(before) < MOST:
        state = waiting.popleft()
        rest = calmed(state)
        if rest not in rests:
            rests[rest] = served(rest)
        wrong = safe(state) or rests[rest]
        if wrong:
            return len(before), [*_path(before, state), wrong]
        for what, after in steps(state):
            if after not in before:
                before[after] = (state, what)
                waiting.append(after)
    return len(before), []


def _path(before: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    path: list[str] = []
    while (came := before[state]) is not None:
        state, what = came
        path.append(what)
    return path[::-1]


def _deaf(record: Any, *_: Any, attached: str, **__: Any) -> str | None:
    """To every change of the annotation."""
    return attached or ("a" if record else None)


def _believed(pod: int, end: model.End, annotation: str) -> AcceptedClaim:
    """Without a look at the pod."""
    network = ipaddress.ip_network(model.ADDRESS[pod])
    return AcceptedClaim(OF_POD[pod], (network,), f"n{model.NODE_OF[pod]}", ("", 0, str(pod)))


@pytest.mark.parametrize("story", STORIES)
def test_whatever_happens_in_whatever_order(story: str) -> None:
    left = tuple(sorted(STORIES[story].items()))
    begin = calmed(State())
    assert not served(begin)
    states, wrong = explored(replace(begin, left=left))
    print(f"{story}: {states} states{', and more' if states >= MOST else ', which are all'}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("part", "broken", "words"),
    [
        ("want", _deaf, "is not attached to b"),
        ("claim", _believed, "which it did not ask"),
        ("vetoes", lambda *_: {}, "stays where it was asked to leave"),
    ],
)
def test_who_does_not_keep_to_it_is_found(
    part: str, broken: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that ignores an annotation, a gateway that believes every claim, a pod that ignores
    a veto."""
    monkeypatch.setattr(model, part, broken)
    for known in (model.peers, model.rested):
        known.cache_clear()
    begin = replace(calmed(State()), left=(("annotate", 1), ("drain", 1)))
    _, wrong = explored(begin)
    for known in (model.peers, model.rested):
        known.cache_clear()
    assert words in wrong[-1], wrong
