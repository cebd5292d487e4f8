"""What of Azure would be in the way of an installation: rights, quota, room, prefixes. Pure.

``check --pre --azure-config FILE`` reads it. Rights are those of whoever asks Azure: the identity
of the file, or the person (``--as-me``), and the findings say which.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from egress_gateway.api.validation import parse_prefix_id
from egress_gateway.cli.diagnosis.checks.findings import Finding

_NETWORK: Final = "Microsoft.Network"
_COMPUTE: Final = "Microsoft.Compute/virtualMachineScaleSets"
IN_GROUP: Final[tuple[str, ...]] = (
    f"{_NETWORK}/loadBalancers/read",
    f"{_NETWORK}/loadBalancers/write",
    f"{_NETWORK}/loadBalancers/delete",
    f"{_NETWORK}/loadBalancers/backendAddressPools/join/action",
    f"{_NETWORK}/publicIPPrefixes/read",
    f"{_NETWORK}/publicIPPrefixes/write",
    f"{_NETWORK}/publicIPPrefixes/delete",
    f"{_NETWORK}/publicIPPrefixes/join/action",
    f"{_NETWORK}/virtualNetworks/subnets/join/action",
    f"{_COMPUTE}/read",
    f"{_COMPUTE}/write",
    f"{_COMPUTE}/virtualMachines/read",
    f"{_COMPUTE}/virtualMachines/write",
    f"{_COMPUTE}/networkInterfaces/read",
)
"""What the controller does in the node resource group (docs/install/aks.md)."""
ON_PREFIX: Final = (f"{_NETWORK}/publicIPPrefixes/read", f"{_NETWORK}/publicIPPrefixes/join/action")
ON_SUBNET: Final = (
    f"{_NETWORK}/virtualNetworks/subnets/read",
    f"{_NETWORK}/virtualNetworks/subnets/join/action",
)
_ROLES: Final = {
    IN_GROUP: ("Network Contributor", "Virtual Machine Contributor"),
    ON_PREFIX: ("Network Contributor",),
}
_RESERVED: Final = 5
"""Addresses that Azure keeps of each subnet."""


class Permission(msgspec.Struct, frozen=True, rename="camel"):
    """One of a caller's permissions at a scope (Microsoft.Authorization/permissions)."""

    actions: list[str] = []
    not_actions: list[str] = []


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """One of a region's quotas (Microsoft.Network usages): how much of ``limit`` is used."""

    name: str
    used: int
    limit: int


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """A subnet's addresses, without those that Azure keeps."""

    subnet: str
    used: int
    size: int


class FoundPrefix(msgspec.Struct, frozen=True, kw_only=True):
    """A public IP prefix as Azure has it; ``document`` None: there is none."""

    id: str
    document: Mapping[str, object] | None


class AzureBefore(msgspec.Struct, frozen=True, kw_only=True):
    """What was read. ``rights``: of each scope, with the actions that are needed there."""

    who: str
    subscription: str
    location: str
    rights: Sequence[tuple[str, tuple[str, ...], Sequence[Permission]]] = ()
    usages: Sequence[Usage] = ()
    rooms: Sequence[Room] = ()
    pools: Mapping[str, int] = {}
    """Of each gateway pool the length of the prefixes that it wants."""
    nodes: int = 0
    """Instances of those pools."""
    prefixes: Sequence[FoundPrefix] = ()
    refused: str = ""
    """Why Azure does not take the credential; empty: it does."""


def before_azure(facts: AzureBefore) -> list[Finding]:
    """What is in the way, as Azure tells it."""
    if facts.refused:
        return [
            Finding(
                code="EG420",
                object=f"Subscription {facts.subscription}",
                evidence=f"Azure does not take the credential of {facts.who}: {facts.refused}",
                mend="az login; or a new secret: az ad app credential reset --id CLIENT; or, for "
                "workload identity: az identity federated-credential list",
            )
        ]
    return [*_rights(facts), *_quota(facts), *_room(facts), *_prefixes(facts)]


def missing(needed: Sequence[str], permissions: Sequence[Permission]) -> list[str]:
    """Of the actions ``needed``, those that no permission grants."""
    return [
        action
        for action in needed
        if not any(
            _any(action, one.actions) and not _any(action, one.not_actions) for one in permissions
        )
    ]


def _any(action: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(action.lower(), p.lower()) for p in patterns)


def _rights(facts: AzureBefore) -> Iterator[Finding]:
    for scope, needed, permissions in facts.rights:
        lacks = missing(needed, permissions)
        if lacks:
            who = facts.who.rpartition(" ")[2]  # "the identity ID", or "you"
            roles = " and ".join(f'"{role}"' for role in _ROLES.get(needed, _ROLES[ON_PREFIX]))
            yield Finding(
                code="EG421",
                object=scope,
                evidence=f"{facts.who} has no right to {', '.join(lacks[:4])}"
                + (f" and {len(lacks) - 4} more" if len(lacks) > 4 else ""),
                mend=f"az role assignment create --assignee {who} --role {roles} --scope {scope}",
            )


def _quota(facts: AzureBefore) -> Iterator[Finding]:
    wanted = max((2 ** (32 - size) for size in facts.pools.values()), default=2)
    for usage in facts.usages:
        # Azure counts addresses in several ways; each of them ends at its own limit.
        addresses = usage.name.lower() in ("publicipaddresses", "staticpublicipaddresses")
        if addresses and usage.limit - usage.used < wanted:
            yield Finding(
                code="EG422",
                object=f"Subscription {facts.subscription}",
                evidence=f"{usage.name} in {facts.location}: {usage.used} of {usage.limit} are in "
                f"use, and a configuration's prefix takes {wanted}",
                mend="ask Azure for more (az quota update), or delete addresses that nobody uses",
            )


def _room(facts: AzureBefore) -> Iterator[Finding]:
    wanted = max(facts.nodes, 2) + 1
    for room in facts.rooms:
        free = room.size - room.used
        if free < wanted:
            yield Finding(
                code="EG423",
                object=room.subnet,
                evidence=f"{max(free, 0)} of {room.size} addresses are free; a configuration takes "
                f"{wanted}: one a gateway node, and the load balancer's",
                mend="put the gateway pool into a larger subnet (az aks nodepool add "
                "--vnet-subnet-id)",
            )


def _prefixes(facts: AzureBefore) -> Iterator[Finding]:
    for prefix in facts.prefixes:
        for evidence, mend in _amiss(prefix, facts):
            yield Finding(code="EG424", object=prefix.id, evidence=evidence, mend=mend)


def _amiss(prefix: FoundPrefix, facts: AzureBefore) -> Iterator[tuple[str, str]]:
    parsed = parse_prefix_id(prefix.id)
    if parsed is None:
        yield "it is no id of a public IP prefix", "az network public-ip prefix show --query id"
        return
    if parsed.subscription.lower() != facts.subscription.lower():
        yield (
            f"it is of the subscription {parsed.subscription}; the cluster's is "
            f"{facts.subscription}",
            "make a prefix in the cluster's subscription",
        )
        return
    if prefix.document is None:
        yield "it does not exist, or is not yours to read", "az network public-ip prefix create"
        return
    found = msgspec.convert(prefix.document, _Document, strict=False)
    if found.location.replace(" ", "").lower() != facts.location.replace(" ", "").lower():
        yield (
            f"it is in {found.location}; the cluster is in {facts.location}",
            f"az network public-ip prefix create --location {facts.location}",
        )
    four = found.properties.public_ip_address_version.lower() != "ipv6"
    length = found.properties.prefix_length + (0 if four else 32 - 128)
    sizes = set(facts.pools.values())
    if sizes and length not in sizes:
        wanted = ", ".join(f"/{size if four else size + 96}" for size in sorted(sizes))
        yield (
            f"it is a /{found.properties.prefix_length}; the gateway pools ask for {wanted}",
            f"az network public-ip prefix create --length {wanted.strip('/').split(',')[0]}",
        )


class _Properties(msgspec.Struct, frozen=True, rename="camel"):
    prefix_length: int = 0
    public_ip_address_version: str = msgspec.field(name="publicIPAddressVersion", default="IPv4")


class _Document(msgspec.Struct, frozen=True):
    location: str = ""
    properties: _Properties = _Properties()


def usable(cidr_sizes: Sequence[int]) -> int:
    """Addresses of a subnet of networks with so many each, that anybody can have."""
    return sum(max(size - _RESERVED, 0) for size in cidr_sizes)
