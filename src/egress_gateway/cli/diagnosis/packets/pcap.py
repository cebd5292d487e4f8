"""Where ``trace --pcap HOP`` listens: which agent, and with which words. Pure.

``trace`` names more hops than have packets of their own; of the others a person is told which has
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from egress_gateway.api import names
from egress_gateway.api.types import PodEndpoint, StaticGatewayConfiguration
from egress_gateway.cli.diagnosis.overview import Facts

HOPS: Final = ("pod", "tunnel", "gateway", "address")
_ELSEWHERE: Final = {
    "route": "its packets are those of the hop tunnel, or of pod where they go the ordinary way",
    "configuration": "it is an object, through which no packet goes",
    "azure": "it is Azure's network; the last packets before it are those of the hop address",
    "internet": "it is not ours to listen on; the last packets before it are those of address",
    "mtu": "what is too large is missing there: compare the hops tunnel and address",
    "packets": "those of the pod are at the hop tunnel",
}


class CaptureSite(msgspec.Struct, frozen=True, kw_only=True):
    """``component`` of ``node`` is asked for ``arguments``."""

    component: str
    node: str
    arguments: Sequence[str]


def refusal(hop: str) -> str | None:
    """Why there is nothing to be captured at ``hop``; None if there is."""
    if hop in HOPS:
        return None
    why = _ELSEWHERE.get(hop, "trace knows no such hop")
    return f"no packets of the hop {hop!r}: {why}. Hops with packets: {', '.join(HOPS)}"


def place(facts: Facts, key: tuple[str, str], hop: str) -> CaptureSite | str:
    """Where the packets of the pod ``key`` are at ``hop``, or why nowhere."""
    pods = [p for p in facts.pods or () if (p.metadata.namespace, p.metadata.name) == key]
    name = "/".join(key)
    if not pods:
        return f"there is no pod {name}"
    (pod,) = pods
    endpoint = next(
        (e for e in facts.endpoints or () if (e.metadata.namespace, e.pod_name) == key), None
    )
    if endpoint is None:
        return f"{name} is not attached to a gateway: no agent of ours sees its packets"
    if hop in ("pod", "tunnel"):
        arguments = ("--hop", hop, "--pod", name)
        return CaptureSite(component="node", node=pod.spec.node_name, arguments=arguments)
    asked = names.asked_configuration(pod.metadata.annotations)
    sgc = next(
        (
            s
            for s in facts.configurations
            if (s.metadata.namespace, s.metadata.name) == (key[0], asked)
        ),
        None,
    )
    if sgc is None:
        return f"there is no StaticGatewayConfiguration {key[0]}/{asked}"
    return _at_gateway(sgc, endpoint, hop)


def _at_gateway(
    sgc: StaticGatewayConfiguration, endpoint: PodEndpoint, hop: str
) -> CaptureSite | str:
    used = endpoint.status.gateway
    gateway = next((g for g in sgc.status.gateways if g.node == used), None)
    if gateway is None:
        return (
            f"{endpoint.pod_name} uses no gateway of its configuration now "
            f"({endpoint.status.state or 'nothing told'}, {used or 'none'}): see the hop tunnel"
        )
    if hop == "gateway":
        ports = [sgc.status.gateway_server_profile.port, sgc.status.key_rotation.port]
        arguments = [part for port in ports if port for part in ("--port", str(port))]
        addresses = endpoint.spec.pod_ips or [endpoint.spec.pod_ip_address]
    else:
        arguments = []
        addresses = [gateway.secondary_ip, gateway.secondary_ip_v6]
    arguments += [part for ip in addresses if ip for part in ("--address", ip)]
    return CaptureSite(component="gateway", node=used, arguments=("--hop", hop, *arguments))
