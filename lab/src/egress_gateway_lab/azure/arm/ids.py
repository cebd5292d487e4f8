"""Resource ids: a sans-IO parser of ARM paths.

Ids compare without regard to case and keep the case of the names as first written; the words
that ARM itself chose (``resourceGroups``, provider namespaces, types) are put into their usual
spelling, because clients parse them.
"""

from __future__ import annotations

from dataclasses import dataclass

_WORDS = """
subscriptions resourceGroups providers locations operations operationResults
Microsoft.Resources Microsoft.Network Microsoft.Compute Microsoft.ContainerService
Microsoft.Authorization Microsoft.ManagedIdentity
virtualNetworks subnets publicIPAddresses publicIPPrefixes loadBalancers networkInterfaces
frontendIPConfigurations backendAddressPools loadBalancingRules probes outboundRules
inboundNatRules inboundNatPools ipConfigurations networkSecurityGroups routeTables natGateways
virtualMachineScaleSets virtualMachines instanceView managedClusters agentPools
roleAssignments roleDefinitions userAssignedIdentities deployments
"""
_CANONICAL = {word.lower(): word for word in _WORDS.split()}


@dataclass(frozen=True, slots=True)
class ResourceId:
    """A path below the root, taken apart.

    ``types`` has one more element than ``names`` for a collection or an action. ``scope`` is
    what stands before the last ``/providers/``: the resource that an extension resource (a role
    assignment) belongs to, else the resource group or subscription.
    """

    scope: str
    namespace: str
    types: tuple[str, ...]
    names: tuple[str, ...]
    subscription: str | None
    group: str | None

    @property
    def text(self) -> str:
        parts = (
            [self.scope] if self.namespace == _BARE else [self.scope, "/providers/", self.namespace]
        )
        for index, word in enumerate(self.types):
            parts.append("/" + word)
            if index < len(self.names):
                parts.append("/" + self.names[index])
        return "".join(parts)

    @property
    def key(self) -> str:
        return self.text.lower()

    @property
    def type(self) -> str:
        """Such as ``Microsoft.Network/virtualNetworks/subnets``."""
        return "/".join(((self.namespace or "Microsoft.Resources"), *self.types))

    @property
    def name(self) -> str:
        return self.names[-1] if self.names else ""

    @property
    def is_resource(self) -> bool:
        return len(self.types) == len(self.names) and bool(self.types)

    @property
    def parent(self) -> ResourceId | None:
        """The resource that this one is a child of; None at the top of its provider."""
        depth = len(self.types) - 1
        if depth < 1:
            return None
        return ResourceId(
            self.scope,
            self.namespace,
            self.types[:depth],
            self.names[:depth],
            self.subscription,
            self.group,
        )

    def child(self, word: str, name: str) -> ResourceId:
        return ResourceId(
            self.scope,
            self.namespace,
            (*self.types, word),
            (*self.names, name),
            self.subscription,
            self.group,
        )


_BARE = ""
"""Namespace of subscriptions, resource groups, tenants: paths without ``/providers/``."""


def canonical(word: str) -> str:
    return _CANONICAL.get(word.lower(), word)


def parse(path: str) -> ResourceId:
    """Takes any ARM path apart; raises ``ValueError`` for an empty or broken one."""
    segments = [s for s in path.split("/") if s]
    if not segments:
        raise ValueError("empty resource id")
    lower = [s.lower() for s in segments]
    subscription = segments[1] if lower[0] == "subscriptions" and len(segments) > 1 else None
    group = None
    if subscription is not None and len(segments) > 3 and lower[2] == "resourcegroups":
        group = segments[3]
    marks = [i for i, s in enumerate(lower) if s == "providers" and i % 2 == 0]
    if not marks:
        return _split("", _BARE, segments, subscription, group)
    mark = marks[-1]
    if mark + 1 >= len(segments):
        raise ValueError(f"no provider namespace in {path}")
    scope = parse("/".join(segments[:mark])).text if mark else ""
    namespace = canonical(segments[mark + 1])
    return _split(scope, namespace, segments[mark + 2 :], subscription, group)


def _split(
    scope: str, namespace: str, rest: list[str], subscription: str | None, group: str | None
) -> ResourceId:
    types = tuple(canonical(s) for s in rest[0::2])
    return ResourceId(scope, namespace, types, tuple(rest[1::2]), subscription, group)


def type_of(target: str) -> str:
    """The resource type that an id is of; empty if it is no resource's id."""
    try:
        found = parse(target)
    except ValueError:
        return ""
    return found.type if found.is_resource else ""


def same(one: str, other: str) -> bool:
    """Whether two ids name the same resource."""
    return one.rstrip("/").lower() == other.rstrip("/").lower()


def within(resource_id: str, scope: str) -> bool:
    """Whether ``resource_id`` is the scope or lies below it."""
    inner, outer = resource_id.rstrip("/").lower(), scope.rstrip("/").lower()
    return inner == outer or inner.startswith(outer + "/")
