"""What an attached pod should look like: decided here, purely, from what is known.

``want`` says which configuration a sandbox should be attached to, ``moves.retarget`` where its
tunnel ends, ``pod_desired`` what its namespace then holds. Nothing here reads or changes anything.

When knowledge is missing the answer is always the one that lets nothing leave by the wrong address:
a configuration that was deleted or is not ready keeps its pods held back, never released.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from egress_gateway.api import keys, names
from egress_gateway.api.conditions import READY, find
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.cni.protocol import Call
from egress_gateway.datapath.addresses import IPNetwork
from egress_gateway.datapath.pod.ruleset import LINKS
from egress_gateway.datapath.pod.side import PodDesired, Tunnel, tunnel_name
from egress_gateway.datapath.wireguard.model import Endpoint
from egress_gateway.kube.resources import Pod
from egress_gateway.node.attachment.choose import BALANCER, Candidate

OVERHEAD_V4: Final = 60
OVERHEAD_V6: Final = 80
"""Bytes that WireGuard adds to a packet, outer IP header included."""
IPV6_MTU: Final = 1280
"""Bytes; a link with less cannot carry IPv6 (RFC 8200, 5)."""
VERIFYING_KEEPALIVE: Final = 25
"""Seconds. Setting it makes WireGuard speak at once, so a handshake happens without traffic; it
is cleared when one has, since ten thousand idle pods need not keep talking."""


class Server(NamedTuple):
    """A configuration's WireGuard server, which every gateway of it is."""

    key: str
    port: int


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """What of a StaticGatewayConfiguration matters on a pod's node. Kept with the attachment, so
    that failover works while the API server is away, even across a restart of the agent.

    ``next`` and ``former`` are the second server while the key pair is being changed: one that
    pods should move to, or one that they should leave.
    """

    name: str
    uid: str
    server_key: str
    port: int
    balancer: str
    gateways: list[Candidate]
    default_route: bool
    exclude_cidrs: list[str]
    next: Server | None = None
    former: Server | None = None

    @property
    def server(self) -> Server:
        """That of the profile: new pods use it."""
        return Server(self.server_key, self.port)

    @property
    def servers(self) -> set[Server]:
        """What gateways serve at the moment."""
        return {self.server} | {s for s in (self.next, self.former) if s}


class Leg(msgspec.Struct, frozen=True, kw_only=True):
    """A second tunnel: to another gateway than the first, or to another server of the same. It
    keeps its own key and port, since the configuration may change meanwhile."""

    gateway: str
    address: str
    listen_port: int
    server_key: str
    port: int
    until: float = 0.0
    """Seconds since the epoch at which it goes; 0: not decided."""

    @property
    def server(self) -> Server:
        return Server(self.server_key, self.port)


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """One sandbox's attachment, as remembered. ``gateway`` None: no tunnel was chosen yet."""

    id: str
    container_id: str
    if_name: str
    netns: str
    namespace: str
    pod: str
    uid: str
    addresses: list[str]
    private_key: str
    public_key: str
    configuration: Configuration
    gateway: str | None = None
    address: str = ""
    listen_port: int = 0
    server_key: str = ""
    port: int = 0
    """Of the server that the tunnel leads to; unset: the configuration's."""
    verified: bool = False
    """A handshake has completed since the tunnel was last set up or moved."""
    names: dict[str, str] = {}
    """By link, the birth names of tunnels that were made in advance."""
    link: str = LINKS[0]
    """The tunnel's link in the pod; the other one is free for ``joining`` or ``parting``."""
    joining: Leg | None = None
    """Where a planned move goes: connections follow once it has a handshake."""
    parting: Leg | None = None
    """Where a planned move came from: its connections may finish there."""

    @property
    def server(self) -> Server:
        """Where the tunnel leads to."""
        known = self.configuration
        return Server(self.server_key or known.server_key, self.port or known.port)

    @property
    def hears_only(self) -> bool:
        """The second tunnel leads to the former server of the gateway that the first one leads to.
        Both sides translate alike there, so every connection goes on through the first; what the
        gateway still sends through the second is heard."""
        leg = self.parting
        return leg is not None and leg.gateway == self.gateway != BALANCER

    def birth_name(self, link: str) -> str:
        """The name that the tunnel on ``link`` was born with, or will be."""
        made = tunnel_name(self.container_id, self.if_name, link)
        return self.names.get(link, made)

    @property
    def ports(self) -> dict[int, str]:
        """Listen ports of its tunnels, and which gateway's address each belongs to."""
        legs = [leg for leg in (self.joining, self.parting) if leg]
        found = {leg.listen_port: leg.address for leg in legs}
        if self.gateway is not None:
            found[self.listen_port] = self.address
        return found

    def __repr__(self) -> str:
        return f"Attachment({self.id}, {self.namespace}/{self.pod}, {self.configuration.name})"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What is the same for all pods of the node."""

    mtu: int
    exceptions: tuple[IPNetwork, ...]


class NotUsable(Exception):
    """Why a pod cannot be attached to the configuration that it names; written for its owner."""


def usable_configuration(sgc: StaticGatewayConfiguration | None, key: str) -> Configuration:
    """``sgc`` as pods can use it. Raises ``NotUsable`` saying why not; ``key`` names it."""
    if sgc is None:
        raise NotUsable(
            f"StaticGatewayConfiguration {key} does not exist; create it in the pod's namespace, "
            f"or correct the pod's annotation {names.POD_ANNOTATION}"
        )
    server = sgc.status.gateway_server_profile
    if not (keys.valid(server.public_key) and server.port):
        raise NotUsable(f"StaticGatewayConfiguration {key} is not ready: {_cause(sgc)}")
    gateways = [
        Candidate(g.node, g.primary_ip, bool(g.secondary_ip_v6))
        for g in sgc.status.gateways
        if g.primary_ip
    ]
    if not gateways and not server.ip:
        raise NotUsable(f"StaticGatewayConfiguration {key} has no gateway: {_cause(sgc)}")
    return Configuration(
        name=sgc.metadata.name,
        uid=sgc.metadata.uid,
        server_key=server.public_key,
        port=server.port,
        balancer=server.ip,
        gateways=gateways,
        default_route=sgc.spec.default_route != "azureNetworking",
        exclude_cidrs=valid_cidrs(sgc.spec.exclude_cidrs),
        next=_second(sgc, "Moving"),
        former=_second(sgc, "Retiring", "Closing"),
    )


def _second(sgc: StaticGatewayConfiguration, *phases: str) -> Server | None:
    rotation = sgc.status.key_rotation
    known = rotation.phase in phases and rotation.port and keys.valid(rotation.public_key)
    return Server(rotation.public_key, rotation.port) if known else None


def held_back(name: str) -> Configuration:
    """Stands for a configuration of which nothing is known: everything is held back."""
    return Configuration(
        name=name,
        uid="",
        server_key="",
        port=0,
        balancer="",
        gateways=[],
        default_route=True,
        exclude_cidrs=[],
    )


def _cause(sgc: StaticGatewayConfiguration) -> str:
    for condition in (find(sgc.status.conditions, READY), *sgc.status.conditions):
        if condition and condition.status != "True" and condition.message:
            return f"{condition.reason}: {condition.message}"
    return "the controller has not provisioned it yet; is the controller running?"


def valid_cidrs(texts: list[str]) -> list[str]:
    """Those that are CIDRs; the controller's condition complains about the others."""
    found = []
    for text in texts:
        try:
            found.append(str(ipaddress.ip_network(text, strict=False)))
        except ValueError:
            continue
    return found


def want(record: Call | None, pod: Pod | None, *, known: bool, attached: str = "") -> str | None:
    """The configuration that a sandbox's pod asks for; empty: none; None: its pod is over.

    ``pod`` is the API's Pod of the record's UID if there is one. While the API's state is not
    ``known``, or before the Pod has shown up there, what it is ``attached`` to counts, else the
    annotation that the runtime handed over: a pod that was annotated while it ran has none there,
    and must not be released because an agent has started anew without the API.
    """
    if record is None:
        return None
    if pod is None or not known:
        return attached or record.configuration
    if pod.finished or pod.spec.host_network:
        return ""
    return names.asked_configuration(pod.metadata.annotations)


def other_link(link: str) -> str:
    return LINKS[1] if link == LINKS[0] else LINKS[0]


def pod_desired(attachment: Attachment, facts: NodeFacts) -> PodDesired:
    """The pod's namespace as it should be. Without a gateway the pod is held back."""
    configuration = attachment.configuration
    addresses = tuple(ipaddress.ip_address(a) for a in attachment.addresses)
    return PodDesired(
        netns=Path(attachment.netns),
        addresses=addresses,
        interface=attachment.if_name,
        default_route=configuration.default_route,
        excluded=tuple(ipaddress.ip_network(c) for c in configuration.exclude_cidrs),
        exceptions=facts.exceptions,
        link=attachment.link,
        tunnel=_tunnel(attachment, facts) if attachment.gateway is not None else None,
        tunnel_ipv6=_carries_ipv6(attachment, facts),
        other=_other(attachment, facts),
        keep_other=not attachment.hears_only,
    )


def _carries_ipv6(attachment: Attachment, facts: NodeFacts) -> bool:
    """Whether the pod's gateway carries IPv6. Without one that is known by name (the load
    balancer's choice, or none yet) it is enough that some gateway does: one that does not lets
    nothing through."""
    has_ipv6 = any(ipaddress.ip_address(a).version == 6 for a in attachment.addresses)
    if not has_ipv6 or facts.mtu - OVERHEAD_V4 < IPV6_MTU:
        return False
    carries = {g.name: g.ipv6 for g in attachment.configuration.gateways}
    return carries.get(attachment.gateway or BALANCER, any(carries.values()))


def _tunnel(attachment: Attachment, facts: NodeFacts) -> Tunnel:
    server = attachment.server
    leg = Leg(
        gateway=attachment.gateway or "",
        address=attachment.address,
        listen_port=attachment.listen_port,
        server_key=server.key,
        port=server.port,
    )
    return _tunnel_to(attachment, leg, attachment.link, facts, settled=attachment.verified)


def _other(attachment: Attachment, facts: NodeFacts) -> Tunnel | None:
    leg = attachment.joining or attachment.parting
    if leg is None or attachment.gateway is None:
        return None
    link = other_link(attachment.link)
    return _tunnel_to(attachment, leg, link, facts, settled=attachment.joining is None)


def _tunnel_to(
    attachment: Attachment, leg: Leg, link: str, facts: NodeFacts, *, settled: bool
) -> Tunnel:
    address = ipaddress.ip_address(leg.address)
    overhead = OVERHEAD_V4 if address.version == 4 else OVERHEAD_V6
    return Tunnel(
        name=attachment.birth_name(link),
        private_key=attachment.private_key,
        peer_key=leg.server_key,
        endpoint=Endpoint(address, leg.port),
        listen_port=leg.listen_port,
        mtu=facts.mtu - overhead,
        keepalive=0 if settled else VERIFYING_KEEPALIVE,
    )
