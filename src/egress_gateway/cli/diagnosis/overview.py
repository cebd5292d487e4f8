"""What ``egress-gateway status`` says, decided from objects alone. Pure.

Guarantee: it calls nothing healthy that some part of the cluster calls broken. A gateway serves a
configuration only if its Node is ready, its agent was heard from within three heartbeats, there is
no veto, and the agent itself lists the configuration. ``unseen`` names what the person may not
read; that never counts as good.
"""

from __future__ import annotations

import datetime
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from egress_gateway.api import names
from egress_gateway.api.conditions import ACCEPTED, DEGRADED, READY, Reason, find
from egress_gateway.api.types import (
    Gateway,
    GatewayStatus,
    GatewayVeto,
    PodEndpoint,
    StaticGatewayConfiguration,
)
from egress_gateway.api.unreached import Unreached, unreached
from egress_gateway.kube.resources import Event, Node, Pod

SILENT_AFTER: Final = 100.0
"""Seconds without a heartbeat (every 30 by default) after which an agent counts as silent."""

UNTOLD_AFTER: Final = 120.0
"""Seconds after which a new PodEndpoint has a state: agents write ten a second."""

State = Literal["Ready", "Degraded", "NotReady"]
NOT_REACHED: Final = "NotReached"
"""Of a gateway: nodes have tried it in vain. It is not serving if that is true of all."""
SERVES_WITH: Final = "ServesWithProblem"
"""Of a gateway that serves, and whose agent complains: ports that run out, a key that is gone."""
_AS_ANSWERED: Final = ("Serving", "Unknown")


class _Value(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A value that is printed as JSON."""


class GatewayView(_Value, frozen=True):
    """One gateway node, as one configuration has it."""

    node: str
    public_ip: str
    public_ip_v6: str
    serving: bool
    reason: str
    """CamelCase: ``Serving``, or why it does not."""
    message: str = ""
    mend: str = ""
    """What mends it, where ``message`` does not say so."""


class PodView(_Value, frozen=True):
    """An annotated pod that does not use its configuration's gateways."""

    pod: str
    reason: str
    message: str


class AttachedView(_Value, frozen=True):
    """An attached pod, as its node's agent last reported. ``state``: ``Connected``, ``Lost``,
    ``Waiting``, or empty before the first report."""

    pod: str
    state: str
    gateway: str
    egress_ip: str
    since: str


class ConfigurationView(_Value, frozen=True):
    """A configuration as ``status`` shows it. ``troubled_pods`` includes pods that are not attached
    yet."""

    configuration: str
    state: State
    ready: bool
    reason: str
    message: str
    prefix: str
    gateways: list[GatewayView]
    pods: list[AttachedView]
    """Attached pods."""
    troubled_pods: list[PodView]


class ComponentView(_Value, frozen=True):
    """A workload of ours; ``ready`` of ``wanted`` pods are ready."""

    name: str
    ready: int
    wanted: int
    message: str = ""
    """Which pods are not ready, and why."""
    mend: str = ""


class AttemptView(_Value, frozen=True):
    """What agents refused, and nobody honest asks for. It harms nothing, so it makes nothing less
    than healthy. ``subject``: a Node, or the pod of a claim."""

    subject: str
    reason: str
    message: str
    seconds_ago: float | None = None
    """Since the last time; None: it goes on."""


class UnwatchedView(_Value, frozen=True):
    """A node without an agent, and how many attached pods are on it or use it."""

    node: str
    pods: int
    agent: Literal["egress-gateway-node", "egress-gateway-gateway"] = "egress-gateway-node"
    """Which one."""


class Overview(_Value, frozen=True):
    """All that ``status`` shows."""

    configurations: list[ConfigurationView]
    components: list[ComponentView]
    attempts: list[AttemptView]
    strays: list[PodView]
    """Pods, as ``namespace/name``, that name a configuration which does not exist."""
    unwatched: list[UnwatchedView]
    """Nodes that annotated pods run on, or may come to, and that have no agent."""
    absent: list[str]
    """Kinds of ours that the cluster no longer has, although components are installed."""
    unseen: list[str]
    """What could not be read, each with the reason."""

    @property
    def healthy(self) -> bool:
        """Whether every configuration is Ready, and every component has the pods that it should."""
        return not self.absent and (
            all(c.state == "Ready" for c in self.configurations)
            and all(c.ready >= c.wanted for c in self.components)
            and not self.unwatched
            and not self.strays
        )


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was read. None: it could not be; ``unseen`` says why. ``at``: the API server's time, by
    which the age of heartbeats counts, since a person's clock may be wrong."""

    at: datetime.datetime
    configurations: Sequence[StaticGatewayConfiguration]
    endpoints: Sequence[PodEndpoint] | None = ()
    gateways: Sequence[GatewayStatus] | None = ()
    nodes: Sequence[Node] | None = ()
    pods: Sequence[Pod] | None = ()
    components: Sequence[ComponentView] = ()
    agents: Container[str] | None = None
    """Nodes that a node agent's pod is on."""
    gateway_agents: Container[str] | None = None
    """The same of gateways' agents."""
    events: Sequence[Event] = ()
    """Warnings on Nodes."""
    absent: Sequence[str] = ()
    """Definitions of kinds that the cluster does not have."""
    unseen: Sequence[str] = ()


def summarize(facts: Facts) -> Overview:
    """Time grows with the number of objects, and not with configurations times pods or nodes."""
    agents = (
        None if facts.gateways is None else {g.metadata.name: _Agent(g) for g in facts.gateways}
    )
    nodes = None if facts.nodes is None else _Nodes(facts.nodes)
    endpoints: dict[Key, list[PodEndpoint]] = defaultdict(list)
    for endpoint in facts.endpoints or ():
        named = endpoint.spec.static_gateway_configuration
        endpoints[endpoint.metadata.namespace, named].append(endpoint)
    pods: dict[Key, list[Pod]] = defaultdict(list)
    for pod in facts.pods or ():
        if asked := pod.metadata.annotations.get(names.POD_ANNOTATION):
            pods[pod.metadata.namespace, asked].append(pod)
    return Overview(
        configurations=[
            _configuration(
                sgc,
                None if facts.endpoints is None else endpoints[_key(sgc)],
                pods[_key(sgc)],
                agents,
                nodes,
                facts.at,
            )
            for sgc in sorted(facts.configurations, key=_name)
        ],
        components=list(facts.components),
        attempts=[*_events(facts), *_claims(facts.gateways or ())],
        strays=list(_strays(facts.configurations, pods)),
        unwatched=[*_unwatched(facts), *_unled(facts, nodes)],
        absent=list(facts.absent) if facts.components else [],
        unseen=list(facts.unseen),
    )


def _strays(
    configurations: Sequence[StaticGatewayConfiguration], pods: Mapping[Key, Sequence[Pod]]
) -> Iterable[PodView]:
    """``pods``: by what they ask for."""
    known = {_key(sgc) for sgc in configurations}
    for (namespace, asked), asking in sorted(pods.items()):
        if (namespace, asked) in known:
            continue
        for pod in asking:
            if not pod.finished:
                yield PodView(
                    pod=f"{namespace}/{pod.metadata.name}",
                    reason="NoConfiguration",
                    message=f"there is no StaticGatewayConfiguration {f'{namespace}/{asked}'!r}",
                )


def _unwatched(facts: Facts) -> Iterable[UnwatchedView]:
    """Nobody takes the label away where no agent runs any more, and what was told of the pods
    there stands."""
    if facts.agents is None:
        return
    pods = Counter(e.spec.node_name for e in facts.endpoints or ())
    for node in facts.nodes or ():
        name = node.metadata.name
        concerned = pods[name] or node.metadata.labels.get(names.NODE_READY_LABEL) == "true"
        if concerned and node.ready and name not in facts.agents:
            yield UnwatchedView(node=name, pods=pods[name])


def _unled(facts: Facts, nodes: _Nodes | None) -> Iterable[UnwatchedView]:
    """Gateways that go on with what their agents have left in the kernel."""
    if facts.gateway_agents is None or nodes is None:
        return
    pods = Counter(e.status.gateway for e in facts.endpoints or ())
    listed = {gateway.node for sgc in facts.configurations for gateway in sgc.status.gateways}
    for name in sorted(listed & nodes.up):
        if name not in facts.gateway_agents:
            yield UnwatchedView(node=name, pods=pods[name], agent="egress-gateway-gateway")


def _events(facts: Facts) -> Iterable[AttemptView]:
    """What agents say on their Nodes, the latest first."""
    found = [
        AttemptView(
            subject=f"node {event.involved_object.name}",
            reason=event.reason,
            message=event.message,
            seconds_ago=max(0.0, silence(event.last_timestamp or "", facts.at)),
        )
        for event in facts.events
        if event.reason in names.ATTEMPTS and event.involved_object.kind == "Node"
    ]
    return sorted(found, key=lambda one: (one.seconds_ago or 0.0, one.subject, one.reason))


def _claims(gateways: Iterable[GatewayStatus]) -> Iterable[AttemptView]:
    """Claims that gateways refuse, each once."""
    found = {
        (one.pod, one.reason): one.message
        for status in gateways
        for one in status.spec.refused_claims
    }
    for (pod, reason), message in sorted(found.items()):
        yield AttemptView(subject=f"claim of pod {pod}", reason=reason, message=message)


Key = tuple[str, str]
"""A configuration's namespace and name."""


class _Nodes:
    """Nodes by name, and the names of those that are ready."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.named = {node.metadata.name: node for node in nodes}
        self.up = {name for name, node in self.named.items() if node.ready}


class _Agent:
    """What a gateway's agent reports, by configuration."""

    def __init__(self, status: GatewayStatus) -> None:
        self.heartbeat = status.spec.heartbeat
        self.vetoes = status.spec.vetoes
        self.problems: dict[str, str] = {}
        for problem in status.spec.problems:
            # Of IPv6 alone: IPv4 is served. The condition ``IPv6Ready`` tells of it.
            if problem.reason != Reason.GATEWAY_WITHOUT_IPV6:
                self.problems.setdefault(problem.static_gateway_configuration, problem.message)
        self.served = {
            r.static_gateway_configuration for r in status.spec.ready_gateway_configurations
        }


def _key(sgc: StaticGatewayConfiguration) -> Key:
    return sgc.metadata.namespace, sgc.metadata.name


def _name(sgc: StaticGatewayConfiguration) -> str:
    return "/".join(_key(sgc))


def _configuration(
    sgc: StaticGatewayConfiguration,
    attached: Sequence[PodEndpoint] | None,
    pods: Sequence[Pod],
    agents: Mapping[str, _Agent] | None,
    nodes: _Nodes | None,
    now: datetime.datetime,
) -> ConfigurationView:
    condition = find(sgc.status.conditions, READY)
    missed = unreached(attached or (), up=None if nodes is None else nodes.up)
    gateways = [
        _gateway(
            g,
            _why_not(_name(sgc), g.node, agents, nodes, now),
            missed.get(g.node),
            sgc.status.gateway_server_profile.port,
        )
        for g in sgc.status.gateways
    ]
    endpoints = sorted(attached or (), key=lambda e: e.pod_name)
    known = None if attached is None else {e.pod_name for e in endpoints}
    lost = [_lost(e) for e in endpoints if e.status.held_back]
    untold = [_untold(e, now) for e in endpoints if _is_untold(e, now)]
    troubled = [*lost, *untold, *_troubled(pods, known)]
    ready = condition is not None and condition.status == "True"
    serving = sum(g.serving for g in gateways)
    reason, message = (
        (condition.reason, condition.message)
        if condition
        else ("NotObserved", "no controller has looked at it yet; check that the controller runs")
    )
    if others := _kept_by_others(sgc):
        reason = Reason.DELETING
        message = (
            "it is deleted, and nothing of it is left in Azure; its finalizers "
            f"{', '.join(others)} keep it: whoever set them has to take them away"
        )
    state: State = "Ready"
    if not ready or not serving:
        state = "NotReady"
        if ready:
            reason, message = "NoGatewayServes", "no gateway serves it; see the gateways' reasons"
    elif serving < len(gateways):
        state, reason = "Degraded", "GatewayLost"
        message = f"{serving} of {len(gateways)} gateways serve"
    elif partly := [g.node for g in gateways if g.reason == NOT_REACHED]:
        state, reason = "Degraded", NOT_REACHED
        message = f"not all nodes reach {', '.join(partly)}"
    elif burdened := [f"{g.node}: {g.message}" for g in gateways if g.reason == SERVES_WITH]:
        state, reason, message = "Degraded", SERVES_WITH, "; ".join(burdened)
    elif troubled:
        state, reason = "Degraded", "PodsWithoutEgress"
        message = f"annotated pods that do not use the gateways: {len(troubled)}"
    elif (degraded := find(sgc.status.conditions, DEGRADED)) and degraded.status == "True":
        state, reason, message = "Degraded", degraded.reason, degraded.message
    elif (said := find(sgc.status.conditions, ACCEPTED)) and said.reason == Reason.NOTHING_SENT:
        state, reason, message = "Degraded", said.reason, said.message
    return ConfigurationView(
        configuration=_name(sgc),
        state=state,
        ready=state != "NotReady",
        reason=reason,
        message=message,
        prefix=sgc.status.egress_ip_prefix,
        gateways=gateways,
        pods=[_attached(e) for e in endpoints],
        troubled_pods=troubled,
    )


def _kept_by_others(sgc: StaticGatewayConfiguration) -> list[str]:
    """Finalizers of a configuration that is deleted and that the controller has let go."""
    left = sgc.metadata.finalizers if sgc.metadata.deletion_timestamp else []
    return [] if names.FINALIZER in left else list(left)


def _gateway(
    gateway: Gateway, why_not: tuple[str, str] | None, missed: Unreached | None, port: int
) -> GatewayView:
    """``missed``: nodes whose agents say that they do not reach it."""
    (reason, message), mend = why_not or ("Serving", ""), ""
    partly = reason in _AS_ANSWERED and missed is not None and not missed.everywhere
    if reason in _AS_ANSWERED and missed is not None:
        reason, message, mend = NOT_REACHED, missed.evidence, missed.mend(port)
    return GatewayView(
        node=gateway.node,
        public_ip=gateway.public_ip,
        public_ip_v6=gateway.public_ip_v6,
        serving=partly or reason in (*_AS_ANSWERED, SERVES_WITH),
        reason=reason,
        message=message,
        mend=mend,
    )


def _why_not(
    name: str,
    node: str,
    agents: Mapping[str, _Agent] | None,
    nodes: _Nodes | None,
    now: datetime.datetime,
) -> tuple[str, str] | None:
    """The first reason, from the machine up, for which the gateway does not serve ``name``."""
    if nodes is not None and node not in nodes.named:
        return "NodeGone", "there is no Node of this name"
    if nodes is not None and node not in nodes.up:
        words = [c.message for c in nodes.named[node].status.conditions if c.type == "Ready"]
        return "NodeNotReady", words[0] if words else "its kubelet has not reported"
    if agents is None:
        return "Unknown", "GatewayStatuses are not to be seen"
    agent = agents.get(node)
    if agent is None:
        return "NoAgent", "no gateway agent has reported from this node"
    silent = silence(agent.heartbeat, now)
    if silent > SILENT_AFTER:
        return "AgentSilent", f"its agent was last heard from {silent:.0f} s ago"
    veto = next((v for v in agent.vetoes if _concerns(v, name)), None)
    if veto:
        return veto.reason, veto.message
    problem, served = agent.problems.get(name), name in agent.served
    if problem is not None:
        return SERVES_WITH if served else "Problem", problem
    return None if served else ("NotServing", "its agent does not list the configuration")


def _concerns(veto: GatewayVeto, name: str) -> bool:
    return veto.static_gateway_configuration in ("", name)


def silence(heartbeat: str, now: datetime.datetime) -> float:
    """Seconds since ``heartbeat`` (RFC 3339); 0 where there is none yet or it is no time."""
    try:
        then = datetime.datetime.fromisoformat(heartbeat)
        return (now - then).total_seconds()
    except (ValueError, TypeError):
        return 0.0


def _attached(endpoint: PodEndpoint) -> AttachedView:
    told = endpoint.status
    return AttachedView(
        pod=endpoint.pod_name,
        state=told.state,
        gateway=told.gateway,
        egress_ip=told.egress_ip,
        since=told.since or "",
    )


def _lost(endpoint: PodEndpoint) -> PodView:
    told = endpoint.status
    since = f" (since {told.since})" if told.since else ""
    return PodView(pod=endpoint.pod_name, reason=told.reason, message=f"{told.message}{since}")


def _is_untold(endpoint: PodEndpoint, now: datetime.datetime) -> bool:
    since = silence(endpoint.metadata.creation_timestamp or "", now)
    return not endpoint.status.state and since > UNTOLD_AFTER


def _untold(endpoint: PodEndpoint, now: datetime.datetime) -> PodView:
    since = silence(endpoint.metadata.creation_timestamp or "", now)
    return PodView(
        pod=endpoint.pod_name,
        reason="NotReported",
        message=f"nothing was reported of it for {since:.0f} s: does egress-gateway-node run on "
        f"{endpoint.spec.node_name}? Is the definition of PodEndpoints an old one? "
        "(kubectl apply --server-side -f deploy/crds)",
    )


def _troubled(pods: Iterable[Pod], attached: Container[str] | None) -> Iterable[PodView]:
    """Of ``pods``, which ask for one configuration, those without an endpoint; ``attached`` None:
    unknown."""
    for pod in sorted(pods, key=lambda p: p.metadata.name):
        if pod.finished or pod.ends or attached is None or pod.metadata.name in attached:
            continue
        if pod.spec.host_network:
            yield _pod(pod, "HostNetwork", "uses its node's network: no gateway can serve it")
        elif not pod.spec.node_name:
            yield _pod(pod, "NotScheduled", "no node takes it; kubectl describe it")
        elif pod.has_network:
            yield _pod(pod, "NotAttached", "runs without a tunnel; kubectl describe it")
        else:
            yield _pod(pod, "Waiting", "has no tunnel yet; kubectl describe it")


def _pod(pod: Pod, reason: str, message: str) -> PodView:
    return PodView(pod=pod.metadata.name, reason=reason, message=message)
