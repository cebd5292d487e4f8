"""The protocol of controller, node agents and gateway agents, small enough to be explored whole.

Every decision is the product's own function: which gateway (``retarget``, ``joined``), what a pod
asks for (``want``, ``usable_configuration``), what its PodEndpoint says (``spec_of``), who may send
(``judge``, ``resolve``), what a gateway asks (``vetoes``), how keys are changed (``following``,
``servers``). Around them is what cannot be relied on: each agent has a view of its own of each
object, brought up to date at any moment or never (messages lost, late, repeated, in any order);
gateways die and come back; agents begin anew.

Two gateways, two nodes, three pods: p0 on n0; p1 and p2 on n1, where p2 gets the address that p1
had. Configuration ``a`` can change its keys, ``b`` is there to be moved to.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, NamedTuple

from msgspec import structs

from egress_gateway.api.types import (
    Gateway as ListedGateway,
)
from egress_gateway.api.types import (
    GatewayServerProfile,
    GatewayStatus,
    GatewayStatusSpec,
    GatewayVeto,
    ObjectMeta,
    OwnerReference,
    PodEndpoint,
    StaticGatewayConfiguration,
    StaticGatewayConfigurationStatus,
)
from egress_gateway.cni.protocol import Call, NetConf
from egress_gateway.controller.rotation import phases
from egress_gateway.controller.rotation.phases import Pairs, Record, RotationFacts
from egress_gateway.gateway.peers.rules import AcceptedClaim, Evidence, judge, resolve
from egress_gateway.kube.resources import Key, Pod, PodSpec, PodStatus
from egress_gateway.node.attachment.choose import GatewayNode
from egress_gateway.node.attachment.model import (
    Attachment,
    Joining,
    Parting,
    PodConfiguration,
    TunnelRecord,
    usable_configuration,
    want,
)
from egress_gateway.node.attachment.moves import joined, retarget
from egress_gateway.node.attachment.vetoes import vetoes
from egress_gateway.node.reporting.endpoints import spec_of

PODS, NODES, GATEWAYS = range(3), range(2), range(2)
NODE_OF: Final = (0, 1, 1)
ADDRESS: Final = ("10.244.0.1", "10.244.1.1", "10.244.1.1")
NAMES: Final = ("g0", "g1")
PLACES: Final = ("10.224.0.10", "10.224.0.11")
GONE: Final = "-"
_PORTS: Final = {1: 6000, 2: 6001, 3: 6002}
_NOW, _LATER = 0.0, 9.0


def _key(number: int) -> str:
    return base64.b64encode(bytes([number]) * 32).decode()


SERVERS: Final = {1: _key(1), 2: _key(2), 3: _key(3)}
"""Of ``a``: the former pair and the next one; of ``b``."""
OF_POD: Final = tuple(_key(10 + pod) for pod in PODS)
KEY_BY_TEXT: Final = {text: number for number, text in SERVERS.items()}


class End(NamedTuple):
    """A PodEndpoint, as far as pods differ: its configuration, and the server key that is used."""

    configuration: str
    server: int


class Attached(NamedTuple):
    """A pod's attachment; see ``Attachment``."""

    configuration: str
    active: TunnelRecord | None
    standby: Joining | Parting | None


@dataclass(frozen=True, slots=True)
class State:
    """Everything that decides what can happen. Tuples go by pod, node or gateway."""

    # What the API server has.
    annotation: tuple[str, ...] = ("a", "a", GONE)
    ends: tuple[End | None, ...] = (None, None, None)
    phase: str = ""
    veto: tuple[bool, ...] = (False, False)
    second: tuple[bool, ...] = (False, False)
    """Whether a gateway reports that it answers by the second pair."""
    # What agents have heard of it.
    node_annotation: tuple[str, ...] = ("a", "a", GONE)
    node_phase: tuple[str, ...] = ("", "")
    node_veto: tuple[tuple[bool, ...], ...] = ((False, False), (False, False))
    gate_annotation: tuple[tuple[str, ...], ...] = (("a", "a", GONE), ("a", "a", GONE))
    gate_ends: tuple[tuple[End | None, ...], ...] = ((None,) * 3, (None,) * 3)
    gate_phase: tuple[str, ...] = ("", "")
    # What is so, and what nodes believe.
    up: tuple[bool, ...] = (True, True)
    believed: tuple[tuple[bool, ...], ...] = ((True, True), (True, True))
    attached: tuple[Attached | None, ...] = (None, None, None)
    # What the world may still do, by kind.
    left: tuple[tuple[str, int], ...] = ()


def put(values: tuple[Any, ...], where: int, value: Any) -> tuple[Any, ...]:
    return (*values[:where], value, *values[where + 1 :])


# -- what the product decides


@cache
def status_of(configuration: str, phase: str) -> StaticGatewayConfiguration:
    """As the controller writes it in that phase of a rotation."""
    swapped = phase in ("Retiring", "Closing", "Settling", "Done")
    first, other = (2, 1) if swapped else (1, 2)
    if configuration == "b":
        first, other = 3, 0
    second = SERVERS[other] if other and phase in phases.TWO_PAIRS else ""
    record = Record(
        request="again" if phase else "",
        phase=phase,  # type: ignore[arg-type]
        port=_PORTS[2] if phase == "Settling" else 0,
    )
    usual = _PORTS[2] if phase == "Done" else _PORTS[3 if configuration == "b" else 1]
    pairs = Pairs(record=record, public=SERVERS[first], second=second)
    before = GatewayServerProfile()
    port, rotation = phases.servers(pairs, usual, _PORTS[2] if phase else 0, before)
    return StaticGatewayConfiguration(
        metadata=ObjectMeta(name=configuration, namespace="default", uid=f"uid-{configuration}"),
        status=StaticGatewayConfigurationStatus(
            gateway_server_profile=GatewayServerProfile(
                ip="10.224.0.9", port=port, public_key=SERVERS[first]
            ),
            key_rotation=rotation,
            gateways=[
                ListedGateway(node=NAMES[g], primary_ip=PLACES[g], secondary_ip=f"10.224.1.{g}")
                for g in GATEWAYS
            ],
        ),
    )


@cache
def usable(configuration: str, phase: str) -> PodConfiguration:
    return usable_configuration(status_of(configuration, phase), f"default/{configuration}")


@cache
def statuses(veto: tuple[bool, ...]) -> tuple[GatewayStatus, ...]:
    draining = [GatewayVeto(reason="Draining", message="cordoned")]
    return tuple(
        GatewayStatus(
            metadata=ObjectMeta(name=NAMES[g]),
            spec=GatewayStatusSpec(vetoes=draining if veto[g] else []),
        )
        for g in GATEWAYS
    )


def attachment_of(
    pod: int, attached: Attached | None, configuration: PodConfiguration
) -> Attachment:
    return Attachment(
        id=f"c{pod}-eth0",
        container_id=f"c{pod}",
        if_name="eth0",
        netns=f"/run/netns/{pod}",
        namespace="default",
        pod=f"p{pod}",
        uid=f"uid-{pod}",
        addresses=[ADDRESS[pod]],
        private_key="",
        public_key=OF_POD[pod],
        configuration=configuration,
        active=attached.active if attached else None,
        standby=attached.standby if attached else None,
    )


@cache
def pod_object(pod: int, annotation: str) -> Pod | None:
    if annotation == GONE:
        return None
    named = {"kubernetes.azure.com/static-gateway-configuration": annotation} if annotation else {}
    return Pod(
        metadata=ObjectMeta(
            name=f"p{pod}", namespace="default", uid=f"uid-{pod}", annotations=named
        ),
        spec=PodSpec(node_name=f"n{NODE_OF[pod]}"),
        # The kubelet writes the address after the network is up, which waits for the gateway.
        status=PodStatus(phase="Running"),
    )


@cache
def claim(pod: int, end: End, annotation: str) -> AcceptedClaim | None:
    """The gateway's verdict on an endpoint, by what it has heard of the pod."""
    attached = attachment_of(pod, None, usable(end.configuration, ""))
    spec = spec_of(attached, f"n{NODE_OF[pod]}")
    endpoint = PodEndpoint(
        metadata=ObjectMeta(
            name=f"p{pod}",
            namespace="default",
            uid=f"end-{pod}",
            creation_timestamp=f"2026-01-01T00:00:0{pod}Z",
            owner_references=[
                OwnerReference(api_version="v1", kind="Pod", name=f"p{pod}", uid=f"uid-{pod}")
            ],
        ),
        spec=spec,
    )
    known = pod_object(pod, annotation)
    named = {annotation} if annotation not in ("", GONE) else set()
    verdict = judge(endpoint, Evidence(pod=known, named=named))
    return verdict if isinstance(verdict, AcceptedClaim) else None


@cache
def peers(
    configuration: str, ends: tuple[End | None, ...], annotation: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    """What a gateway lets send through a configuration: addresses by public key."""
    accepted = {
        Key("default", f"p{pod}"): found
        for pod in PODS
        if (end := ends[pod]) and end.configuration == configuration
        if (found := claim(pod, end, annotation[pod]))
    }
    return {k: tuple(map(str, n)) for k, n in resolve(accepted).peers.items()}


@cache
def served(configuration: str, phase: str) -> frozenset[int]:
    """Server keys that a gateway answers by, at that view of the status."""
    status = status_of(configuration, phase).status
    found = {status.gateway_server_profile.public_key}
    if status.key_rotation.port and status.key_rotation.phase != "Closing":
        found.add(status.key_rotation.public_key)
    return frozenset(KEY_BY_TEXT[key] for key in found if key)


def carries(state: State, pod: int, tunnel: TunnelRecord) -> bool:
    """Whether the other end of a pod's tunnel takes its packets. Of the load balancer: whether any
    gateway that is up does, which is more than it promises and enough for safety."""
    ends = [g for g in GATEWAYS if state.up[g]]
    if isinstance(tunnel.to, GatewayNode):
        ends = [g for g in ends if NAMES[g] == tunnel.to.name]
    key = KEY_BY_TEXT[tunnel.server.public_key]
    configuration = "b" if key == 3 else "a"
    return any(
        key in served(configuration, state.gate_phase[g])
        and OF_POD[pod] in peers(configuration, state.gate_ends[g], state.gate_annotation[g])
        for g in ends
    )


# -- what agents do


def looked(state: State, pod: int, now: float) -> State:
    """A pass of the node agent over one pod."""
    node, annotation = NODE_OF[pod], state.node_annotation[pod]
    had = state.attached[pod]
    asked = want(
        _record(pod) if annotation != GONE else None,
        pod_object(pod, annotation),
        known=True,
        attached=had.configuration if had else "",
    )
    if not asked:
        return replace(state, attached=put(state.attached, pod, None))
    configuration = usable(asked, state.node_phase[node] if asked == "a" else "")
    # What is written already is what a restarted agent reads back.
    old = usable(had.configuration, "") if had else configuration
    before = attachment_of(pod, had, old)
    after = retarget(
        before,
        configuration,
        doubt=lambda address: (
            math.inf if address in PLACES and not state.believed[node][PLACES.index(address)] else 0
        ),
        vetoes=vetoes(statuses(state.node_veto[node]), f"default/{asked}"),
        free_port=lambda: next(p for p in range(1, 9) if p not in before.ports),
        now=now,
    )
    found = Attached(asked, after.active, after.standby)
    return replace(state, attached=put(state.attached, pod, found))


@cache
def _record(pod: int) -> Call:
    return Call(
        command="ADD",
        container_id=f"c{pod}",
        if_name="eth0",
        netns=f"/run/netns/{pod}",
        args=f"K8S_POD_NAMESPACE=default;K8S_POD_NAME=p{pod};K8S_POD_UID=uid-{pod}",
        config=NetConf(),
    )


def shook_hands(state: State, pod: int) -> State:
    """WireGuard's handshakes of a pod that can complete now, and what follows from them."""
    had = state.attached[pod]
    if had is None or had.active is None:
        return state
    joining = had.standby.tunnel if isinstance(had.standby, Joining) else None
    if joining is not None and carries(state, pod, joining):
        configuration = usable(had.configuration, "")
        after = joined(attachment_of(pod, had, configuration), until=_LATER - 1)
        found = Attached(had.configuration, after.active, after.standby)
    elif not had.active.verified and carries(state, pod, had.active):
        found = had._replace(active=structs.replace(had.active, verified=True))
    else:
        return state
    return replace(state, attached=put(state.attached, pod, found))


def published(state: State, pod: int) -> State:
    """The node agent writes, or withdraws, the pod's endpoint."""
    had = state.attached[pod]
    end = None
    if had is not None and state.annotation[pod] != GONE:
        number = KEY_BY_TEXT[had.active.server.public_key] if had.active else 0
        end = End(had.configuration, number)
    return replace(state, ends=put(state.ends, pod, end))


def reported(state: State, gateway: int) -> State:
    """The gateway agent writes whether it answers by the second pair."""
    rotation = status_of("a", state.gate_phase[gateway]).status.key_rotation
    answers = bool(rotation.port) and rotation.phase in ("Preparing", "Moving", "Retiring")
    return replace(state, second=put(state.second, gateway, answers))


def controlled(state: State, *, asked: bool) -> State:
    """A pass of the controller over the rotation of ``a``."""
    users = phases.Users()
    if state.phase in ("Moving", "Retiring"):
        moved = sum(1 for e in state.ends if e and e.configuration == "a" and e.server == 2)
        late = {
            f"n{NODE_OF[p]}": 1
            for p, e in enumerate(state.ends)
            if e and e.configuration == "a" and e.server != 2
        }
        users = phases.Users(moved=moved, lagging=late)
    port, second = (_PORTS[2], 0) if state.phase == "Settling" else (_PORTS[1], _PORTS[2])
    settling = state.phase == "Settling"
    alive = frozenset(NAMES[g] for g in GATEWAYS if state.up[g])
    record = Record(
        request="again" if state.phase else "",
        phase=state.phase,  # type: ignore[arg-type]
        port=_PORTS[2] if settling else 0,
    )
    facts = RotationFacts(
        now=5.0,
        request="again" if asked else "",
        in_service=True,
        port=port,
        second_port=second,
        gateways=alive,
        prepared=frozenset(NAMES[g] for g in GATEWAYS if state.second[g]) & alive,
        users=users,
    )
    return replace(state, phase=phases.following(record, facts).phase)


# -- what can happen next


def spent(state: State, kind: str) -> State | None:
    """The state with one thing of that kind less to come; None if there is none."""
    left = dict(state.left)
    if not left.get(kind):
        return None
    left[kind] -= 1
    return replace(state, left=tuple(sorted((k, n) for k, n in left.items() if n)))


def steps(state: State) -> Iterator[tuple[str, State]]:
    """Every state that can follow, with what led there."""
    for what, after in (*_heard(state), *_worked(state), *_happened(state)):
        if after != state:
            yield what, after


def _heard(state: State) -> Iterator[tuple[str, State]]:
    for pod in PODS:
        known = put(state.node_annotation, pod, state.annotation[pod])
        yield f"n{NODE_OF[pod]} hears of p{pod}", replace(state, node_annotation=known)
    for node in NODES:
        known = put(state.node_phase, node, state.phase)
        yield f"n{node} hears of the configuration", replace(state, node_phase=known)
        for gateway in GATEWAYS:
            seen = put(state.node_veto[node], gateway, state.veto[gateway])
            known = put(state.node_veto, node, seen)
            yield f"n{node} hears of g{gateway}'s veto", replace(state, node_veto=known)
            seen = put(state.believed[node], gateway, state.up[gateway])
            known = put(state.believed, node, seen)
            yield f"n{node} finds out about g{gateway}", replace(state, believed=known)
    for gateway in GATEWAYS:
        if state.up[gateway]:
            yield from _gateway_heard(state, gateway)


def _gateway_heard(state: State, gateway: int) -> Iterator[tuple[str, State]]:
    for pod in PODS:
        seen = put(state.gate_annotation[gateway], pod, state.annotation[pod])
        known = put(state.gate_annotation, gateway, seen)
        yield f"g{gateway} hears of p{pod}", replace(state, gate_annotation=known)
        seen = put(state.gate_ends[gateway], pod, state.ends[pod])
        known = put(state.gate_ends, gateway, seen)
        yield f"g{gateway} hears of p{pod}'s endpoint", replace(state, gate_ends=known)
    known = put(state.gate_phase, gateway, state.phase)
    yield f"g{gateway} hears of the configuration", replace(state, gate_phase=known)


def _worked(state: State) -> Iterator[tuple[str, State]]:
    for pod in PODS:
        yield f"n{NODE_OF[pod]} looks at p{pod}", looked(state, pod, _NOW)
        had = state.attached[pod]
        if had is not None and isinstance(had.standby, Parting):
            yield f"n{NODE_OF[pod]} looks at p{pod} later", looked(state, pod, _LATER)
        yield f"p{pod} shakes hands", shook_hands(state, pod)
        yield f"n{NODE_OF[pod]} writes p{pod}'s endpoint", published(state, pod)
    for gateway in GATEWAYS:
        if state.up[gateway]:
            yield f"g{gateway} reports", reported(state, gateway)
    yield "the controller goes on", controlled(state, asked=state.phase != "")


def _happened(state: State) -> Iterator[tuple[str, State]]:
    if after := spent(state, "annotate"):
        changed = put(after.annotation, 0, "b")
        yield "a user annotates p0 with b", replace(after, annotation=changed)
    if (after := spent(state, "replace")) and state.annotation[1] != GONE:
        changed = put(after.annotation, 1, GONE)
        yield "a user deletes p1", replace(after, annotation=changed)
    free = state.annotation[1] == GONE and state.attached[1] is None
    if free and state.annotation[2] == GONE and (after := spent(state, "create")):
        yield "a user creates p2", replace(after, annotation=put(after.annotation, 2, "a"))
    if (after := spent(state, "rotate")) and not state.phase:
        yield "a user asks for new keys", controlled(after, asked=True)
    if after := spent(state, "drain"):
        yield "g0 is cordoned", replace(after, veto=put(after.veto, 0, True))
    for gateway in GATEWAYS:
        if (after := spent(state, "lose")) and all(state.up):
            yield f"g{gateway} dies", replace(after, up=put(after.up, gateway, False))
        if not state.up[gateway]:
            yield f"g{gateway} is back", replace(state, up=put(state.up, gateway, True))
    for node in NODES:
        if after := spent(state, "restart"):
            fresh = put(after.believed, node, (True, True))
            yield f"n{node}'s agent begins anew", replace(after, believed=fresh)


def calmed(state: State) -> State:
    """What comes of it when nothing more happens, all messages arrive and everybody works: gateways
    stay as they are. Raises ``AssertionError`` if that has no end."""
    return rested(_all_heard(state))


@cache
def rested(state: State) -> State:
    for _ in range(60):
        before = state
        for pod in PODS:
            state = published(shook_hands(looked(state, pod, _LATER), pod), pod)
        for gateway in GATEWAYS:
            if state.up[gateway]:
                state = reported(state, gateway)
        state = _all_heard(controlled(state, asked=state.phase != ""))
        if state == before:
            return state
    raise AssertionError(f"it never comes to rest: {state}")


def _all_heard(state: State) -> State:
    return replace(
        state,
        node_annotation=state.annotation,
        node_phase=(state.phase,) * 2,
        node_veto=(state.veto,) * 2,
        believed=(state.up,) * 2,
        gate_annotation=tuple(
            state.annotation if state.up[g] else state.gate_annotation[g] for g in GATEWAYS
        ),
        gate_ends=tuple(state.ends if state.up[g] else state.gate_ends[g] for g in GATEWAYS),
        gate_phase=tuple(state.phase if state.up[g] else state.gate_phase[g] for g in GATEWAYS),
    )
