"""What an attached pod should look like: decided here, purely, from what is known.

``want`` says which configuration a sandbox should be attached to, ``retarget`` where its tunnel
ends, ``pod_desired`` what its namespace then holds. Nothing here reads or changes anything.

When knowledge is missing the answer is always the one that lets nothing leave by the wrong address:
a configuration that was deleted or is not ready keeps its pods held back, never released.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from egress_gateway.api import names
from egress_gateway.api.conditions import READY, find
from egress_gateway.api.types import StaticGatewayConfiguration
from egress_gateway.cni.protocol import Call
from egress_gateway.datapath import keys
from egress_gateway.datapath.pod import PodDesired, Tunnel, tunnel_name
from egress_gateway.datapath.wireguard import Endpoint, IPNetwork
from egress_gateway.kube.resources import Pod
from egress_gateway.node.choose import Candidate, choose

OVERHEAD_V4: Final = 60
OVERHEAD_V6: Final = 80
"""Bytes that WireGuard adds to a packet, outer IP header included."""
VERIFYING_KEEPALIVE: Final = 25
"""Seconds. Setting it makes WireGuard speak at once, so a handshake happens without traffic; it
is cleared when one has, since ten thousand idle pods need not keep talking."""


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """What of a StaticGatewayConfiguration matters on a pod's node. Kept with the attachment, so
    that failover works while the API server is away, even across a restart of the agent."""

    name: str
    uid: str
    server_key: str
    port: int
    balancer: str
    gateways: list[Candidate]
    default_route: bool
    exclude_cidrs: list[str]


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
    verified: bool = False
    """A handshake has completed since the tunnel was last set up or moved."""

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
    gateways = [Candidate(g.node, g.primary_ip) for g in sgc.status.gateways if g.primary_ip]
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
    )


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


def want(record: Call | None, pod: Pod | None, *, known: bool) -> str | None:
    """The configuration that a sandbox's pod asks for; empty: none; None: its pod is over.

    ``pod`` is the API's Pod of the record's UID if there is one. While the API's state is not
    ``known``, or before the Pod has shown up there, the annotation that the runtime handed over
    counts.
    """
    if record is None:
        return None
    if pod is None or not known:
        return record.configuration
    if pod.finished or pod.spec.host_network:
        return ""
    return pod.metadata.annotations.get(names.POD_ANNOTATION, "")


def retarget(
    attachment: Attachment,
    configuration: Configuration,
    *,
    usable: Callable[[str], bool],
    avoid: Collection[str] = (),
    free_port: Callable[[], int],
) -> Attachment:
    """``attachment`` with ``configuration`` and the gateway that should serve it now.

    Whenever the tunnel's other end changes, so does the listen port: the gateway left behind
    holds the session and would otherwise take the pod back within fifteen seconds.
    """
    if attachment.configuration.uid != configuration.uid:
        attachment = msgspec.structs.replace(attachment, gateway=None)
    before = attachment.configuration
    target = choose(
        attachment.uid,
        attachment.gateway,
        configuration.gateways,
        balancer=configuration.balancer,
        usable=lambda candidate: usable(candidate.address),
        avoid=avoid,
    )
    if target is None:
        return msgspec.structs.replace(attachment, configuration=configuration, gateway=None)
    same_end = (
        attachment.gateway == target.name
        and attachment.address == target.address
        and (before.server_key, before.port) == (configuration.server_key, configuration.port)
    )
    if same_end:
        return msgspec.structs.replace(attachment, configuration=configuration)
    return msgspec.structs.replace(
        attachment,
        configuration=configuration,
        gateway=target.name,
        address=target.address,
        listen_port=free_port(),
        verified=False,
    )


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
        tunnel=_tunnel(attachment, facts) if attachment.gateway is not None else None,
    )


def _tunnel(attachment: Attachment, facts: NodeFacts) -> Tunnel:
    address = ipaddress.ip_address(attachment.address)
    overhead = OVERHEAD_V4 if address.version == 4 else OVERHEAD_V6
    return Tunnel(
        name=tunnel_name(attachment.container_id, attachment.if_name),
        private_key=attachment.private_key,
        peer_key=attachment.configuration.server_key,
        endpoint=Endpoint(address, attachment.configuration.port),
        listen_port=attachment.listen_port,
        mtu=facts.mtu - overhead,
        keepalive=0 if attachment.verified else VERIFYING_KEEPALIVE,
    )
