"""Values that several tests of the node agent begin with."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from egress_gateway.api import keys
from egress_gateway.node.attachment.choose import BalancerAddress, Destination, GatewayNode
from egress_gateway.node.attachment.model import (
    Attachment,
    NodeFacts,
    PodConfiguration,
    ServerKey,
    TunnelRecord,
)

KEY = keys.generate().public
SERVER = ServerKey(KEY, 6000)
BALANCER = BalancerAddress("10.224.0.99")
FACTS = NodeFacts(mtu=1500, exceptions=(ipaddress.ip_network("169.254.169.254/32"),))
GW1, GW2 = GatewayNode("gw-1", "10.224.0.10"), GatewayNode("gw-2", "10.224.0.11")


def configuration(**changes: Any) -> PodConfiguration:
    base = PodConfiguration(
        name="egress",
        uid="sgc-1",
        server=SERVER,
        balancer=BALANCER,
        gateways=[GW1, GW2],
        default_route=True,
        exclude_cidrs=["10.0.0.0/8"],
    )
    return msgspec.structs.replace(base, **changes)


def attachment(**changes: Any) -> Attachment:
    pair = keys.generate()
    base = Attachment(
        id="c-eth0",
        container_id="c",
        if_name="eth0",
        netns="/run/netns/c",
        namespace="default",
        pod="web",
        uid="u-1",
        addresses=["10.244.1.2"],
        private_key=pair.private,
        public_key=pair.public,
        configuration=configuration(),
    )
    return msgspec.structs.replace(base, **changes)


def at(gateway: Destination, **changes: Any) -> Attachment:
    """Attached and verified at ``gateway``."""
    active = TunnelRecord(to=gateway, server=SERVER, listen_port=20000, verified=True)
    return attachment(active=active, **changes)


def active(attachment: Attachment) -> TunnelRecord:
    assert attachment.active is not None
    return attachment.active


def silence(lost: Collection[str]) -> Callable[[str], float]:
    """The doubt of checks that hear nothing of these addresses, and always heard of all others."""
    return lambda address: math.inf if address in lost else 0.0
