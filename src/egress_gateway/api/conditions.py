"""Conditions of a StaticGatewayConfiguration, and how one is set.

``Ready`` sums the others up. Reasons are part of the contract: scripts wait for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

from egress_gateway.api.types import Condition

READY: Final = "Ready"
"""The configuration serves pods: addresses exist and a gateway node is ready for it."""
ACCEPTED: Final = "Accepted"
"""The spec is valid and its pool exists."""
PROVISIONED: Final = "Provisioned"
"""Azure holds the load balancer rule, the addresses and the prefix that the spec asks for."""
GATEWAYS_READY: Final = "GatewaysReady"
"""How many of the pool's gateway nodes serve the configuration."""
KEYS_ROTATED: Final = "KeysRotated"
"""How the change of the key pair that was asked for last has ended, or how far it is. No part of
``Ready``: traffic does not depend on it. Absent if none was ever asked for."""

EGRESS_VERIFIED: Final = "EgressVerified"
"""Servers on the Internet see the addresses that pods should leave from. Unknown while none has
answered. No part of ``Ready``."""
DEGRADED: Final = "Degraded"
"""True: something is amiss that ``Ready`` does not say, or not alone. ``False`` is good."""
IPV6_READY: Final = "IPv6Ready"
"""Pods' IPv6 is carried. No part of ``Ready``: IPv4 does not wait for it. Absent if the spec asks
for no IPv6."""


class Reason:
    """Machine-readable reasons, CamelCase as Kubernetes wants them."""

    READY: Final = "Ready"
    VALID: Final = "Valid"
    INVALID_SPEC: Final = "InvalidSpec"
    POOL_NOT_FOUND: Final = "GatewayPoolNotFound"
    PREFIX_NOT_FOUND: Final = "PublicIPPrefixNotFound"
    PREFIX_SIZE: Final = "PublicIPPrefixSizeMismatch"
    PREFIX_SUBSCRIPTION: Final = "PublicIPPrefixWrongSubscription"
    PREFIX_NOT_ALLOWED: Final = "PrefixNotAllowed"
    PREFIX_SHARE_USED: Final = "PrefixShareUsed"
    PREFIX_UNUSABLE: Final = "PublicIPPrefixUnusable"
    POOL_UNUSABLE: Final = "GatewayPoolUnusable"
    POOL_NOT_ALLOWED: Final = "GatewayPoolNotAllowed"
    PREFIX_EXHAUSTED: Final = "PublicIPPrefixExhausted"
    AUTHORIZATION_FAILED: Final = "AuthorizationFailed"
    CREDENTIAL_REJECTED: Final = "CredentialRejected"
    THROTTLED: Final = "Throttled"
    CONFLICT: Final = "Conflict"
    QUOTA: Final = "QuotaExceeded"
    AZURE_ERROR: Final = "AzureError"
    NOTHING_SENT: Final = "NothingSentToGateway"
    NOT_KEPT: Final = "WriteNotKept"
    PROVISIONING: Final = "Provisioning"
    PROVISIONED: Final = "Provisioned"
    INSTANCE_FAILED: Final = "GatewayInstanceFailed"
    NO_GATEWAY: Final = "NoGatewayReady"
    SOME_GATEWAYS: Final = "SomeGatewaysReady"
    ALL_GATEWAYS: Final = "AllGatewaysReady"
    NODE_UNKNOWN: Final = "GatewayNodeUnknown"
    DELETING: Final = "Deleting"
    IPV6_CARRIED: Final = "IPv6Carried"
    SUBNET_WITHOUT_IPV6: Final = "SubnetWithoutIPv6"
    IPV6_TAKEN: Final = "IPv6ConfigurationTaken"
    GATEWAY_WITHOUT_IPV6: Final = "GatewayWithoutIPv6"
    ROTATED: Final = "KeysRotated"
    KEYS_REPLACED: Final = "KeyPairReplaced"
    ROTATION_WAITING: Final = "RotationWaiting"
    ROTATION_PREPARING: Final = "RotationPreparing"
    ROTATION_MOVING: Final = "RotationMoving"
    ROTATION_LAGGING: Final = "RotationLagging"
    ROTATION_RETIRING: Final = "RotationRetiring"
    ROTATION_ABANDONED: Final = "RotationAbandoned"
    AS_EXPECTED: Final = "AsExpected"
    REDUNDANCY_LOST: Final = "RedundancyLost"
    PODS_WITHOUT_TUNNEL: Final = "PodsWithoutTunnel"
    CLOUD_NOT_REACHABLE: Final = "AzureNotReachable"
    NOT_VERIFIED: Final = "AddressNotVerified"
    LARGE_LOST: Final = "LargePacketsLost"
    VERIFIED: Final = "AddressesVerified"
    NOT_ASKED: Final = "NotAsked"
    NOT_ANSWERED: Final = "NotAnswered"
    OTHER_CONTROLLER: Final = "OtherControllerRunning"


def with_condition(
    conditions: Sequence[Condition],
    kind: str,
    status: Literal["True", "False", "Unknown"],
    *,
    reason: str,
    message: str,
    now: str,
    generation: int,
) -> list[Condition]:
    """``conditions`` with the one of type ``kind`` set; the transition time moves only when
    its status does. ``now`` is RFC 3339 in UTC."""
    before = next((c for c in conditions if c.type == kind), None)
    since = before.last_transition_time if before and before.status == status else now
    new = Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=since,
        observed_generation=generation,
    )
    return (
        [*(c for c in conditions if c.type != kind), new]
        if before is None
        else [new if c.type == kind else c for c in conditions]
    )


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of type ``kind``, if it was ever set."""
    return next((c for c in conditions if c.type == kind), None)
