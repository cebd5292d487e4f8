"""Reads an attachment's file, also in the form that agents wrote before a pod's two tunnels had one
model: pods that run while the agent is upgraded keep their tunnels.

The earlier form has the active tunnel as loose fields (``gateway`` null: none; "": the load
balancer's; ``server_key`` "" and ``port`` 0: the configuration's), and the second one as
``joining`` or ``parting``.
"""

from __future__ import annotations

import msgspec

from egress_gateway.datapath.pod.ruleset import LINKS
from egress_gateway.node.attachment.choose import BalancerAddress, Destination, GatewayNode
from egress_gateway.node.attachment.model import (
    Attachment,
    Joining,
    Parting,
    PodConfiguration,
    ServerKey,
    TunnelRecord,
)


class _Gateway(msgspec.Struct, frozen=True):
    name: str
    address: str
    ipv6: bool = False


class _Configuration(msgspec.Struct, frozen=True):
    name: str
    uid: str
    server_key: str
    port: int
    balancer: str
    gateways: list[_Gateway]
    default_route: bool
    exclude_cidrs: list[str]
    next: ServerKey | None = None
    former: ServerKey | None = None


class _Leg(msgspec.Struct, frozen=True):
    gateway: str
    address: str
    listen_port: int
    server_key: str
    port: int
    until: float = 0.0


class _Attachment(msgspec.Struct, frozen=True):
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
    configuration: _Configuration
    gateway: str | None = None
    address: str = ""
    listen_port: int = 0
    server_key: str = ""
    port: int = 0
    verified: bool = False
    names: dict[str, str] = {}
    link: str = LINKS[0]
    joining: _Leg | None = None
    parting: _Leg | None = None


def decode(raw: bytes) -> Attachment:
    """Raises ``msgspec.MsgspecError`` for what is neither form."""
    try:
        fields = msgspec.json.decode(raw)
    except RecursionError:
        raise msgspec.DecodeError("it is nested too deeply") from None
    configuration = fields.get("configuration") if isinstance(fields, dict) else None
    if isinstance(configuration, dict) and "server_key" in configuration:
        return _upgraded(msgspec.convert(fields, _Attachment))
    return msgspec.convert(fields, Attachment)


def _upgraded(old: _Attachment) -> Attachment:
    configuration = _configuration(old.configuration)
    return Attachment(
        id=old.id,
        container_id=old.container_id,
        if_name=old.if_name,
        netns=old.netns,
        namespace=old.namespace,
        pod=old.pod,
        uid=old.uid,
        addresses=old.addresses,
        private_key=old.private_key,
        public_key=old.public_key,
        configuration=configuration,
        active=_active(old, configuration),
        standby=_standby(old, configuration) if old.gateway is not None else None,
        names=old.names,
    )


def _configuration(old: _Configuration) -> PodConfiguration:
    return PodConfiguration(
        name=old.name,
        uid=old.uid or None,
        server=ServerKey(old.server_key, old.port) if old.server_key and old.port else None,
        balancer=BalancerAddress(old.balancer) if old.balancer else None,
        gateways=[GatewayNode(g.name, g.address, g.ipv6) for g in old.gateways],
        default_route=old.default_route,
        exclude_cidrs=old.exclude_cidrs,
        next=old.next,
        previous=old.former,
    )


def _active(old: _Attachment, configuration: PodConfiguration) -> TunnelRecord | None:
    key = old.server_key or old.configuration.server_key
    port = old.port or old.configuration.port
    if old.gateway is None:
        return None
    return TunnelRecord(
        to=_destination(old.gateway, old.address, configuration),
        server=ServerKey(key, port),
        link=old.link,
        listen_port=old.listen_port,
        verified=old.verified,
    )


def _standby(old: _Attachment, configuration: PodConfiguration) -> Joining | Parting | None:
    leg = old.joining or old.parting
    if leg is None:
        return None
    tunnel = TunnelRecord(
        to=_destination(leg.gateway, leg.address, configuration),
        server=ServerKey(leg.server_key, leg.port),
        link=LINKS[1] if old.link == LINKS[0] else LINKS[0],
        listen_port=leg.listen_port,
        verified=old.joining is None,
    )
    return Joining(tunnel) if old.joining else Parting(tunnel, leg.until)


def _destination(name: str, address: str, configuration: PodConfiguration) -> Destination:
    if not name:
        return BalancerAddress(address)
    ipv6 = any(g.ipv6 for g in configuration.gateways if g.name == name)
    return GatewayNode(name, address, ipv6)
