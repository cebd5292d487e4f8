"""Who may do what: role definitions, assignments, and the two checks that ARM makes.

Every call needs its action at the resource's scope or above. A write that refers to another
resource (a prefix, subnet, backend pool, …) also needs that one's ``join/action`` at the
referred scope: reading it is not enough. Role definitions are Azure's built-in ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from egress_gateway_lab.azure.arm import ids
from egress_gateway_lab.azure.arm.errors import link_unauthorized, unauthorized
from egress_gateway_lab.azure.arm.store import Document, Store, references
from egress_gateway_lab.azure.identity.directory import Principal

ASSIGNMENT = "Microsoft.Authorization/roleAssignments"
DEFINITION = "Microsoft.Authorization/roleDefinitions"


@dataclass(frozen=True, slots=True)
class Role:
    """A built-in role. https://learn.microsoft.com/azure/role-based-access-control/built-in-roles"""

    guid: str
    name: str
    description: str
    actions: tuple[str, ...]
    not_actions: tuple[str, ...] = ()

    def allows(self, action: str) -> bool:
        """Whether the role's actions, less its notActions, contain the action."""
        return _any(self.actions, action) and not _any(self.not_actions, action)


_COMMON = (
    "Microsoft.Authorization/*/read",
    "Microsoft.Insights/alertRules/*",
    "Microsoft.ResourceHealth/availabilityStatuses/read",
    "Microsoft.Resources/deployments/*",
    "Microsoft.Resources/subscriptions/resourceGroups/read",
    "Microsoft.Support/*",
)

ROLES = (
    Role(
        "8e3af657-a8ff-443c-a75c-2fe8c4bcb635",
        "Owner",
        "Grants full access to manage all resources, including the ability to assign roles.",
        ("*",),
    ),
    Role(
        "b24988ac-6180-42a0-ab88-20f7382dd24c",
        "Contributor",
        "Grants full access to manage all resources, but does not allow you to assign roles.",
        ("*",),
        (
            "Microsoft.Authorization/*/Delete",
            "Microsoft.Authorization/*/Write",
            "Microsoft.Authorization/elevateAccess/Action",
            "Microsoft.Blueprint/blueprintAssignments/write",
            "Microsoft.Blueprint/blueprintAssignments/delete",
            "Microsoft.Compute/galleries/share/action",
        ),
    ),
    Role(
        "acdd72a7-3385-48ef-bd42-f606fba81ae7",
        "Reader",
        "View all resources, but does not allow you to make any changes.",
        ("*/read",),
    ),
    Role(
        "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9",
        "User Access Administrator",
        "Lets you manage user access to Azure resources.",
        ("*/read", "Microsoft.Authorization/*", "Microsoft.Support/*"),
    ),
    Role(
        "4d97b98b-1d4f-4787-a291-c67834d212e7",
        "Network Contributor",
        "Lets you manage networks, but not access to them.",
        (*_COMMON, "Microsoft.Network/*"),
    ),
    Role(
        "9980e02c-c2be-4d73-94e8-173b1dc7cf3c",
        "Virtual Machine Contributor",
        "Lets you manage virtual machines, but not access to them, and not the virtual network "
        "or storage account they're connected to.",
        (
            *_COMMON,
            "Microsoft.Compute/availabilitySets/*",
            "Microsoft.Compute/locations/*",
            "Microsoft.Compute/virtualMachines/*",
            "Microsoft.Compute/virtualMachineScaleSets/*",
            "Microsoft.Compute/cloudServices/*",
            "Microsoft.Compute/disks/write",
            "Microsoft.Compute/disks/read",
            "Microsoft.Compute/disks/delete",
            "Microsoft.Network/applicationGateways/backendAddressPools/join/action",
            "Microsoft.Network/loadBalancers/backendAddressPools/join/action",
            "Microsoft.Network/loadBalancers/inboundNatPools/join/action",
            "Microsoft.Network/loadBalancers/inboundNatRules/join/action",
            "Microsoft.Network/loadBalancers/probes/join/action",
            "Microsoft.Network/loadBalancers/read",
            "Microsoft.Network/locations/*",
            "Microsoft.Network/networkInterfaces/*",
            "Microsoft.Network/networkSecurityGroups/join/action",
            "Microsoft.Network/networkSecurityGroups/read",
            "Microsoft.Network/publicIPAddresses/join/action",
            "Microsoft.Network/publicIPAddresses/read",
            "Microsoft.Network/virtualNetworks/read",
            "Microsoft.Network/virtualNetworks/subnets/join/action",
        ),
    ),
    Role(
        "4abbcc35-e782-43d8-92c5-2d3f1bd2253f",
        "Azure Kubernetes Service Cluster User Role",
        "List cluster user credential action.",
        (
            "Microsoft.ContainerService/managedClusters/listClusterUserCredential/action",
            "Microsoft.ContainerService/managedClusters/read",
        ),
    ),
)
_BY_GUID = {role.guid: role for role in ROLES}

JOINED = frozenset(
    t.lower()
    for t in (
        "Microsoft.Network/publicIPPrefixes",
        "Microsoft.Network/publicIPAddresses",
        "Microsoft.Network/virtualNetworks/subnets",
        "Microsoft.Network/networkSecurityGroups",
        "Microsoft.Network/routeTables",
        "Microsoft.Network/networkInterfaces",
        "Microsoft.Network/loadBalancers/backendAddressPools",
        "Microsoft.Network/loadBalancers/probes",
        "Microsoft.Network/loadBalancers/inboundNatPools",
        "Microsoft.Network/loadBalancers/inboundNatRules",
        "Microsoft.Network/loadBalancers/frontendIPConfigurations",
    )
)
"""Types that need ``join/action`` from whoever refers to them."""


def role_of(definition_id: str) -> Role | None:
    """The role behind a role definition's id, whatever scope the id was written for."""
    return _BY_GUID.get(definition_id.rstrip("/").rpartition("/")[2].lower())


def definition(role: Role, subscription: str) -> Document:
    """A role definition as ARM answers it."""
    return {
        "id": f"/subscriptions/{subscription}/providers/{DEFINITION}/{role.guid}",
        "name": role.guid,
        "type": DEFINITION,
        "properties": {
            "roleName": role.name,
            "type": "BuiltInRole",
            "description": role.description,
            "assignableScopes": ["/"],
            "permissions": [
                {
                    "actions": list(role.actions),
                    "notActions": list(role.not_actions),
                    "dataActions": [],
                    "notDataActions": [],
                }
            ],
        },
    }


class Access:
    """The checks, over the role assignments in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def allows(self, principal: Principal, action: str, scope: str) -> bool:
        """Whether an assignment at the scope or above grants the action."""
        return any(role.allows(action) for role in self.roles(principal, scope))

    def sees_below(self, principal: Principal, scope: str) -> bool:
        """Whether the principal holds any role at, above or below a scope."""
        return any(
            ids.within(scope, at) or ids.within(at, scope) for at, _ in self._assignments(principal)
        )

    def check(self, principal: Principal, action: str, scope: str) -> None:
        """Raises AuthorizationFailed."""
        if not self.allows(principal, action, scope):
            raise unauthorized(principal.client_id, principal.object_id, action, scope)

    def check_links(self, principal: Principal, action: str, scope: str, body: Any) -> None:
        """Raises LinkedAuthorizationFailed for all that the body refers to beyond the resource."""
        lacking = [
            (linked, needed)
            for linked, needed in joins(scope, body)
            if not self.allows(principal, needed, linked)
        ]
        if lacking:
            who = principal.client_id, principal.object_id
            raise link_unauthorized(*who, action, scope, lacking)

    def roles(self, principal: Principal, scope: str) -> Iterator[Role]:
        for at, role in self._assignments(principal):
            if ids.within(scope, at):
                yield role

    def _assignments(self, principal: Principal) -> Iterator[tuple[str, Role]]:
        for assignment in self._store.of_type(ASSIGNMENT):
            properties = assignment["properties"]
            role = role_of(properties["roleDefinitionId"])
            if properties["principalId"] == principal.object_id and role is not None:
                yield properties["scope"], role


def joins(scope: str, body: Any) -> Iterable[tuple[str, str]]:
    """(referred id, action) for each reference in a body that leaves the resource itself."""
    seen: set[str] = set()
    for target, _ in references({"body": body}):
        if target.lower() in seen or ids.within(target, scope):
            continue
        seen.add(target.lower())
        try:
            kind = ids.parse(target).type
        except ValueError:
            continue
        if kind.lower() in JOINED:
            yield target, f"{kind}/join/action"


def _any(patterns: tuple[str, ...], action: str) -> bool:
    return any(_pattern(p).fullmatch(action) for p in patterns)


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.IGNORECASE)
