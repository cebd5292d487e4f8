"""The Events that the agent writes: on configurations, on pods, on its own Node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from egress_gateway.api import names
from egress_gateway.api.types import PodEndpoint, StaticGatewayConfiguration
from egress_gateway.datapath.gateway.ruleset import FOREIGN_TUNNEL, FORGED, HANDSHAKE_RATE
from egress_gateway.gateway.peers.rules import ClaimRejection
from egress_gateway.kube.events import Recorder
from egress_gateway.kube.informer.cache import Cache
from egress_gateway.kube.resources import NODES, POD_ENDPOINTS, PODS, SGCS, Key, Node, Pod

_COUNTED: Final = "egress_gateway_dropped_packets_total counts them"
_SUSPICIOUS: Final = {
    names.FORGED_PACKETS: (
        FORGED,
        "a pod or process on this gateway node used a configuration's address in packets of its "
        "own; the gateway dropped them; keep foreign pods off gateway nodes",
    ),
    names.FOREIGN_TUNNEL: (
        (FOREIGN_TUNNEL,),
        "packets to this node's WireGuard ports came from no InternalIP of a Node, or not to the "
        "primary address; the gateway dropped them; if they are your nodes', list their networks "
        "in tunnel_sources",
    ),
    names.HANDSHAKE_FLOOD: (
        (HANDSHAKE_RATE,),
        "a node sent more WireGuard handshakes than handshake_rate; the gateway dropped them; look "
        "for processes with hostNetwork on it",
    ),
}
"""Reasons of Events on this Node, the counters behind them, and what they say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnNode:
    """The node that the agent runs on: its object, its own IPv4 address, and the MTU (bytes) of
    the link that tunnels' packets use."""

    node: Node
    primary: IPv4Address
    mtu: int

    @property
    def name(self) -> str:
        """As ``status.gateways[].node`` names it."""
        return self.node.metadata.name


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayEvents:
    """Writes warnings, and names this node in each. What an Event would be about may be gone: then
    nothing is written."""

    recorder: Recorder
    machine: OwnNode
    configurations: Cache[StaticGatewayConfiguration]
    pods: Cache[Pod]
    endpoints: Cache[PodEndpoint]

    def warn(self, name: str, reason: str, text: str) -> None:
        """On the configuration ``name`` (``namespace/name``)."""
        sgc = self.configurations.get(*name.split("/", 1))
        if sgc is not None:
            self.recorder.event(SGCS.reference(sgc), "Warning", reason, self._here(text))

    def connections_limited(self, key: Key | None, text: str) -> None:
        """Tells a pod's owner that it cannot open further connections."""
        if key is not None:
            self._warn_pod(key, "EgressConnectionLimit", text)

    def claim_refused(self, key: Key, refused: ClaimRejection) -> None:
        """On the pod whose claim does not count, or on the claim if there is no pod."""
        self._warn_pod(key, "EgressClaimRefused", f"{refused.reason}: {refused.message}")

    def packets_dropped(self, before: Mapping[str, int], now: Mapping[str, int]) -> None:
        """On this Node, about packets that nobody honest sends; counts by reason."""
        for reason, (counters, text) in _SUSPICIOUS.items():
            if any(now.get(name, 0) > before.get(name, 0) for name in counters):
                node = NODES.reference(self.machine.node)
                self.recorder.event(node, "Warning", reason, f"{text} ({_COUNTED})")

    def _warn_pod(self, key: Key, reason: str, text: str) -> None:
        if (pod := self.pods.get(*key)) is not None:
            self.recorder.event(PODS.reference(pod), "Warning", reason, self._here(text))
        elif (endpoint := self.endpoints.get(*key)) is not None:
            reference = POD_ENDPOINTS.reference(endpoint)
            self.recorder.event(reference, "Warning", reason, self._here(text))

    def _here(self, text: str) -> str:
        return f"node {self.machine.name}: {text}"
