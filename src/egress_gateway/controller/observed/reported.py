"""What gateway agents, Nodes and PodEndpoints say about configurations."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from egress_gateway.api import names
from egress_gateway.api.types import (
    GatewayStatus,
    PodEndpoint,
    StaticGatewayConfiguration,
)
from egress_gateway.controller.reporting.status import Gateways
from egress_gateway.kube import resources


def gateways_of(
    sgc: StaticGatewayConfiguration,
    nodes: Iterable[resources.Node],
    statuses: Iterable[GatewayStatus],
) -> Gateways:
    """What Nodes and gateway agents say about ``sgc`` at this moment."""
    nodes, said = list(nodes), {status.metadata.name: status for status in statuses}
    alive = {node.metadata.name for node in nodes if node.ready}
    claimed = frozenset(node for node, status in said.items() if serves(status, sgc))
    full_name = f"{sgc.metadata.namespace}/{sgc.metadata.name}"
    verified = [(node, one) for node in said.keys() & alive for one in said[node].spec.verified]
    return Gateways(
        nodes=by_machine(nodes),
        ready=claimed & alive,
        claimed=claimed,
        problems={
            node: problem
            for node, status in said.items()
            for problem in status.spec.problems
            if problem.static_gateway_configuration == full_name
        },
        seen={node: one for node, one in verified if one.static_gateway_configuration == full_name},
        answered=any(one.seen_ip for _, one in verified),
    )


def serves(status: GatewayStatus, sgc: StaticGatewayConfiguration) -> bool:
    """Whether the agent of ``status`` says that it serves ``sgc``."""
    uid = sgc.metadata.uid
    full_name = f"{sgc.metadata.namespace}/{sgc.metadata.name}"
    return any(
        entry.uid == uid or (not entry.uid and entry.static_gateway_configuration == full_name)
        for entry in status.spec.ready_gateway_configurations
    )


def told(status: GatewayStatus | None) -> tuple[object, ...]:
    """What an agent says, its heartbeat aside."""
    if status is None:
        return (), (), ()
    spec = status.spec
    return spec.ready_gateway_configurations, spec.problems, spec.verified


def mentioned(status: GatewayStatus | None) -> set[str]:
    """UIDs of the configurations that an agent serves."""
    if status is None:
        return set()
    return {entry.uid for entry in status.spec.ready_gateway_configurations if entry.uid}


def carriers(
    uid: str,
    statuses: Iterable[GatewayStatus],
    endpoints_of: Callable[[str], Iterable[PodEndpoint]],
) -> set[str]:
    """Gateways' nodes that may still carry packets of a configuration that is deleted, or gone:
    their agents have not said that they stopped serving it, and some node has not said that it
    holds back its pods of that name. ``endpoints_of``: those of a ``namespace/name``."""
    claimed = {
        status.metadata.name: entry.static_gateway_configuration
        for status in statuses
        for entry in status.spec.ready_gateway_configurations
        if entry.uid == uid
    }
    sending = {
        name
        for name in set(claimed.values())
        if not all(e.status.held_back for e in endpoints_of(name))
    }
    return {node for node, name in claimed.items() if name in sending}


def stands(endpoint: PodEndpoint | None) -> tuple[object, ...]:
    """What of an endpoint a configuration's status counts, and which gateway it uses."""
    if endpoint is None:
        return ()
    return (
        endpoint.configuration,
        endpoint.spec.node_name,
        endpoint.status.state,
        endpoint.status.reason,
        endpoint.status.gateway,
        endpoint.status.unreached_gateways,
    )


def machine(node: resources.Node | None) -> str:
    """The provider id of a Node in lower case; empty for none."""
    return node.spec.provider_id.lower() if node else ""


def by_machine(nodes: Iterable[resources.Node]) -> dict[str, str]:
    """Names of Nodes by machine (provider id in lower case). A kubelet may give its Node any id
    when it registers, and later if there is none. So of several Nodes the gateway's has it, a label
    that a kubelet cannot set later; then the oldest."""
    found: dict[str, resources.Node] = {}
    for node in nodes:
        known = machine(node)
        if known not in found or _standing(node) < _standing(found[known]):
            found[known] = node
    return {known: node.metadata.name for known, node in found.items()}


def _standing(node: resources.Node) -> tuple[bool, str, str]:
    meta = node.metadata
    return not names.marks_gateway(meta.labels), meta.creation_timestamp or "", meta.name


def health(node: resources.Node | None) -> tuple[bool, str]:
    """What of a Node decides whether its agent is believed."""
    return (node.ready, node.spec.provider_id) if node else (False, "")
