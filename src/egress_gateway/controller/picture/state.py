"""What the live map shows, as one value that JSON can hold. Pure.

It is made of the controller's caches alone. It stays small in a large cluster: pods in trouble come
first, and of the rest as many as fit; the number of all is told.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from itertools import chain
from typing import Final

import msgspec

from egress_gateway.api.conditions import DEGRADED, READY, find
from egress_gateway.api.types import (
    Gateway,
    GatewayStatus,
    GatewayVeto,
    PodEndpoint,
    StaticGatewayConfiguration,
)
from egress_gateway.api.unreached import Unreached, unreached

PODS: Final = 500
"""Pods that are shown; a person does not tell more apart, and a state has some 150 KB then."""


class PodState(msgspec.Struct, frozen=True, kw_only=True):
    """One attached pod, as its node's agent reports it."""

    name: str
    """``namespace/name``; so are configurations named."""
    node: str
    configuration: str
    addresses: list[str]
    state: str
    """``Connected``, ``Lost``, ``Waiting``; empty while its agent has not looked."""
    gateway: str
    egress: list[str]
    since: str | None
    reason: str
    message: str


class ServedState(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration on a gateway."""

    configuration: str
    primary: str
    secondary: str
    public: str
    seen: str
    serving: bool
    """Its agent says so."""
    pods: int
    unreached: str
    """Which nodes do not reach it, in words; empty: none says so."""


class GatewayState(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway node."""

    node: str
    heartbeat: str
    vetoes: list[GatewayVeto]
    serves: list[ServedState]


class ConfigurationState(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration: what its conditions say."""

    name: str
    prefix: str
    server: str
    """Address and port of the load balancer's rule."""
    ready: bool
    degraded: bool
    reason: str
    message: str
    attached: int
    connected: int


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Everything."""

    configurations: list[ConfigurationState]
    gateways: list[GatewayState]
    pods: list[PodState]
    attached: int
    """All pods, those that are not shown included."""


def state_of(
    configurations: Iterable[StaticGatewayConfiguration],
    endpoints: Iterable[PodEndpoint],
    statuses: Iterable[GatewayStatus],
    *,
    up: Collection[str] | None = None,
    most: int = PODS,
) -> State:
    """In an order that depends on names alone, but for pods in trouble, which come first. ``up``:
    nodes that are, of which alone it counts what they do not reach; None: all are."""
    known = sorted(configurations, key=lambda c: (c.metadata.namespace, c.metadata.name))
    attached: dict[str, list[PodEndpoint]] = defaultdict(list)
    for endpoint in endpoints:
        attached[endpoint.configuration].append(endpoint)
    every = map(_pod, chain.from_iterable(attached.values()))
    pods = sorted(every, key=lambda p: (p.state == "Connected", p.name))
    reports = {status.metadata.name: status for status in statuses}
    used = Counter((pod.gateway, pod.configuration) for pod in pods)
    served: dict[str, list[ServedState]] = {name: [] for name in reports}
    for configuration in known:
        name = _name(configuration)
        missed = unreached(attached.get(name, ()), up=up)
        for gateway in configuration.status.gateways:
            report, pods_there = reports.get(gateway.node), used[gateway.node, name]
            served.setdefault(gateway.node, []).append(
                _served(gateway, name, report, pods_there, missed.get(gateway.node))
            )
    return State(
        configurations=[_configuration(c) for c in known],
        gateways=[_gateway(node, reports.get(node), served[node]) for node in sorted(served)],
        pods=pods[:most],
        attached=len(pods),
    )


def _name(configuration: StaticGatewayConfiguration) -> str:
    return f"{configuration.metadata.namespace}/{configuration.metadata.name}"


def _configuration(configuration: StaticGatewayConfiguration) -> ConfigurationState:
    status = configuration.status
    ready, degraded = find(status.conditions, READY), find(status.conditions, DEGRADED)
    is_ready = ready is not None and ready.status == "True"
    is_degraded = degraded is not None and degraded.status == "True"
    told = degraded if is_ready and is_degraded else ready
    profile = status.gateway_server_profile
    return ConfigurationState(
        name=_name(configuration),
        prefix=status.egress_ip_prefix,
        server=f"{profile.ip}:{profile.port}" if profile.ip else "",
        ready=is_ready,
        degraded=is_degraded,
        reason=told.reason if told else "",
        message=told.message if told else "no controller has looked at it yet",
        attached=status.pods.attached if status.pods else 0,
        connected=status.pods.connected if status.pods else 0,
    )


def _gateway(node: str, report: GatewayStatus | None, serves: list[ServedState]) -> GatewayState:
    return GatewayState(
        node=node,
        heartbeat=report.spec.heartbeat if report else "",
        vetoes=report.spec.vetoes if report else [],
        serves=serves,
    )


def _served(
    gateway: Gateway,
    name: str,
    report: GatewayStatus | None,
    pods: int,
    missed: Unreached | None,
) -> ServedState:
    ready = report.spec.ready_gateway_configurations if report else []
    return ServedState(
        configuration=name,
        primary=gateway.primary_ip,
        secondary=gateway.secondary_ip,
        public=gateway.public_ip,
        seen=gateway.seen_ip,
        serving=any(one.static_gateway_configuration == name for one in ready),
        pods=pods,
        unreached=missed.evidence if missed else "",
    )


def _pod(endpoint: PodEndpoint) -> PodState:
    spec, status = endpoint.spec, endpoint.status
    namespace = endpoint.metadata.namespace
    return PodState(
        name=f"{namespace}/{endpoint.pod_name}",
        node=spec.node_name,
        configuration=endpoint.configuration,
        addresses=spec.pod_ips or [a for a in [spec.pod_ip_address] if a],
        state=status.state,
        gateway=status.gateway,
        egress=[a for a in (status.egress_ip, status.egress_ip_v6) if a],
        since=status.since,
        reason=status.reason,
        message=status.message,
    )
