"""What an attached pod should look like: decided here, purely, from what is known.

``want`` says which configuration a sandbox should be attached to, ``moves.retarget`` where its
tunnel ends, ``pod_desired`` what its namespace then holds. Nothing here reads or changes anything.

When knowledge is missing the answer is always the one that lets nothing leave by the wrong address:
a configuration that was deleted or is not ready keeps its pods held back, never released.
"""

from __future__ import annotations

import functools
import ipaddress
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from egress_gateway.api import keys, names
from egress_gateway.api.conditions import READY, find
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.cni.protocol import Call
from egress_gateway.datapath.addresses import IPNetwork, parse_networks
from egress_gateway.datapath.pod.model import PodDesired, Tunnel, tunnel_name
from egress_gateway.datapath.pod.ruleset import LINKS
from egress_gateway.datapath.wireguard.model import Endpoint
from egress_gateway.datapath.wireguard.mtu import IPV6_MTU, OVERHEAD_V4, OVERHEAD_V6
from egress_gateway.kube.resources import Pod
from egress_gateway.node.attachment.choose import (
    BalancerAddress,
    Destination,
    GatewayNode,
    same_place,
)

VERIFYING_KEEPALIVE: Final = 25
"""Seconds. Setting it makes WireGuard speak at once, so a handshake happens without traffic; it
is cleared when one has, since ten thousand idle pods need not keep talking."""
_address: Final = functools.lru_cache(maxsize=1 << 12)(ipaddress.ip_address)


class ServerKey(NamedTuple):
    """A WireGuard server of a configuration, which every gateway of it is: its public key and its
    UDP port."""

    public_key: str
    port: int


class PodConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a StaticGatewayConfiguration that matters to its pods. Kept with the attachment,
    so that failover works while the API server is away, even across a restart of the agent.

    ``server`` is that of the profile, which new pods use. ``next`` and ``previous`` are the second
    server while the key pair is being changed: one that pods should move to, or one that they
    should leave. ``uid`` and ``server`` are None in an unknown configuration.
    """

    name: str
    uid: str | None = None
    server: ServerKey | None = None
    balancer: BalancerAddress | None = None
    gateways: list[GatewayNode] = []
    default_route: bool = True
    exclude_cidrs: list[str] = []
    next: ServerKey | None = None
    previous: ServerKey | None = None

    @property
    def servers(self) -> set[ServerKey]:
        """What gateways serve at the moment."""
        return {s for s in (self.server, self.next, self.previous) if s}


class TunnelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One of a pod's tunnels, as remembered: where it leads, and by which link of the pod. It keeps
    its own server, since the configuration may change meanwhile."""

    to: Destination
    server: ServerKey
    link: str = LINKS[0]
    listen_port: int
    verified: bool = False
    """A handshake has completed since the tunnel was last set up or moved."""

    @property
    def address(self) -> str:
        """Of the other end."""
        return self.to.address


class Joining(msgspec.Struct, frozen=True, tag="joining"):
    """A standby tunnel to where a planned move goes: connections follow once it has a handshake."""

    tunnel: TunnelRecord


class Parting(msgspec.Struct, frozen=True, tag="parting"):
    """A standby tunnel to where a planned move came from: its connections may finish there
    ``until`` then (seconds since the epoch)."""

    tunnel: TunnelRecord
    until: float


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """One sandbox's attachment, as remembered.

    ``active`` is the tunnel that new connections take; None: none was chosen, and the pod is held
    back. ``standby`` is the second tunnel of a planned move; there is none without an active one.
    """

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
    configuration: PodConfiguration
    network: str = ""
    """The CNI network whose ADD it was; empty in files of earlier agents."""
    active: TunnelRecord | None = None
    standby: Joining | Parting | None = None
    names: dict[str, str] = {}
    """By link, the birth names of tunnels that were made in advance."""

    @property
    def joining(self) -> TunnelRecord | None:
        """The tunnel that becomes the active one when it is verified; None: no move has begun."""
        return self.standby.tunnel if isinstance(self.standby, Joining) else None

    @property
    def parting(self) -> TunnelRecord | None:
        """The tunnel that older connections still use; None: none do."""
        return self.standby.tunnel if isinstance(self.standby, Parting) else None

    @property
    def verified(self) -> bool:
        """Whether the active tunnel has a handshake."""
        return self.active is not None and self.active.verified

    @property
    def listen_port(self) -> int | None:
        """Of the active tunnel; it is another one after every move."""
        return self.active.listen_port if self.active else None

    @property
    def tunnels(self) -> tuple[TunnelRecord, ...]:
        """The active one first."""
        standby = self.standby.tunnel if self.standby else None
        return tuple(t for t in (self.active, standby) if t)

    @property
    def ports(self) -> dict[int, str]:
        """Listen ports of its tunnels, and which gateway's address each belongs to."""
        return {t.listen_port: t.address for t in self.tunnels}

    @property
    def standby_receives_only(self) -> bool:
        """The second tunnel leads to the previous server of the gateway that the active one leads
        to. Both sides translate alike there, so every connection goes on through the active one;
        what the gateway still sends through the second is heard."""
        if (
            self.active is None
            or self.parting is None
            or isinstance(self.active.to, BalancerAddress)
        ):
            return False
        return same_place(self.parting.to, self.active.to)

    def birth_name(self, link: str) -> str:
        """The name that the tunnel on ``link`` was born with, or will be."""
        made = tunnel_name(self.container_id, self.if_name, link)
        return self.names.get(link, made)

    def moved_since(self, before: Attachment) -> bool:
        """Whether the active tunnel was chosen or moved."""
        return self.active is not None and self.listen_port != before.listen_port

    def with_active(self, **changes: Any) -> Attachment:
        """The same with ``changes`` to the active tunnel, if there is one."""
        if self.active is None:
            return self
        return replace(self, active=replace(self.active, **changes))

    def __repr__(self) -> str:
        return f"Attachment({self.id}, {self.namespace}/{self.pod}, {self.configuration.name})"


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all pods of the node."""

    mtu: int
    exceptions: tuple[IPNetwork, ...]


class NotUsable(Exception):
    """Why a pod cannot be attached to the configuration that it names; written for its owner."""


def usable_configuration(sgc: StaticGatewayConfiguration | None, key: str) -> PodConfiguration:
    """``sgc`` as pods can use it. Raises ``NotUsable`` saying why not; ``key`` names it."""
    if sgc is None:
        raise NotUsable(
            f"StaticGatewayConfiguration {key} does not exist; create it in the pod's namespace, "
            f"or correct the pod's annotation {names.POD_ANNOTATION}"
        )
    if sgc.metadata.deletion_timestamp:
        raise NotUsable(f"StaticGatewayConfiguration {key} is being deleted")
    server = sgc.status.gateway_server_profile
    if not (keys.valid(server.public_key) and server.port):
        raise NotUsable(f"StaticGatewayConfiguration {key} is not ready: {_cause(sgc)}")
    gateways = [
        GatewayNode(g.node, g.primary_ip, bool(g.secondary_ip_v6), g.leaving)
        for g in sgc.status.gateways
        if g.primary_ip
    ]
    if not gateways and not server.ip:
        raise NotUsable(f"StaticGatewayConfiguration {key} has no gateway: {_cause(sgc)}")
    return PodConfiguration(
        name=sgc.metadata.name,
        uid=sgc.metadata.uid,
        server=ServerKey(server.public_key, server.port),
        balancer=BalancerAddress(server.ip) if server.ip else None,
        gateways=gateways,
        default_route=sgc.spec.default_route != "azureNetworking",
        exclude_cidrs=valid_cidrs(sgc.spec.exclude_cidrs),
        next=_second(sgc, "Moving"),
        previous=_second(sgc, "Retiring", "Closing"),
    )


def _second(sgc: StaticGatewayConfiguration, *phases: str) -> ServerKey | None:
    rotation = sgc.status.key_rotation
    known = rotation.phase in phases and rotation.port and keys.valid(rotation.public_key)
    return ServerKey(rotation.public_key, rotation.port) if known else None


def held_back(name: str) -> PodConfiguration:
    """Stands for an unknown configuration: everything is held back."""
    return PodConfiguration(name=name)


def ended(last: PodConfiguration) -> PodConfiguration:
    """Stands for a deleted configuration: what left by its gateways is held back, whoever has their
    addresses now. What was excluded keeps the cluster's path."""
    return PodConfiguration(
        name=last.name, default_route=last.default_route, exclude_cidrs=last.exclude_cidrs
    )


def _cause(sgc: StaticGatewayConfiguration) -> str:
    for condition in (find(sgc.status.conditions, READY), *sgc.status.conditions):
        if condition and condition.status != "True" and condition.message:
            return f"{condition.reason}: {condition.message}"
    return "the controller has not provisioned it yet; check that the controller runs"


def valid_cidrs(texts: list[str]) -> list[str]:
    """Those that are CIDRs; the controller's condition complains about the others."""
    return list(map(str, parse_networks(texts)))


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


def pod_desired(attachment: Attachment, facts: NodeFacts) -> PodDesired:
    """The pod's namespace as it should be. Without a gateway the pod is held back."""
    configuration = attachment.configuration
    active, standby = attachment.active, attachment.standby
    second = standby.tunnel if active and standby else None
    return PodDesired(
        netns=Path(attachment.netns),
        addresses=tuple(_address(a) for a in attachment.addresses),
        interface=attachment.if_name,
        default_route=configuration.default_route,
        excluded=tuple(ipaddress.ip_network(c) for c in configuration.exclude_cidrs),
        exceptions=facts.exceptions,
        active=_tunnel(attachment, active, facts) if active else None,
        tunnel_ipv6=_carries_ipv6(attachment, facts),
        standby=_tunnel(attachment, second, facts) if second else None,
        standby_sends=not attachment.standby_receives_only,
    )


def _carries_ipv6(attachment: Attachment, facts: NodeFacts) -> bool:
    """Whether the pod's gateway carries IPv6. Without one that is known by name (the load
    balancer's choice, or none yet) it is enough that some gateway does: one that does not lets
    nothing through."""
    has_ipv6 = any(_address(a).version == 6 for a in attachment.addresses)
    if not has_ipv6 or facts.mtu - OVERHEAD_V4 < IPV6_MTU:
        return False
    carries = {g.name: g.ipv6 for g in attachment.configuration.gateways}
    to = attachment.active.to if attachment.active else None
    some = any(carries.values())
    return carries.get(to.name, some) if isinstance(to, GatewayNode) else some


def _tunnel(attachment: Attachment, record: TunnelRecord, facts: NodeFacts) -> Tunnel:
    address = _address(record.address)
    overhead = OVERHEAD_V4 if address.version == 4 else OVERHEAD_V6
    return Tunnel(
        name=attachment.birth_name(record.link),
        link=record.link,
        private_key=attachment.private_key,
        peer_key=record.server.public_key,
        endpoint=Endpoint(address, record.server.port),
        listen_port=record.listen_port,
        mtu=facts.mtu - overhead,
        keepalive=0 if record.verified else VERIFYING_KEEPALIVE,
    )
