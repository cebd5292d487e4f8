"""The ways in which Azure says no: its code, what it is for us, what mends it. One table.

Codes: learn.microsoft.com/azure/azure-resource-manager/troubleshooting/common-deployment-errors
and the pages of Network and Compute that it links to; sign-in codes (AADSTS…):
learn.microsoft.com/entra/identity-platform/reference-error-codes.
``docs/reference/azure-errors.md`` shows this table. A code that is not in it is judged by its HTTP
status and told in Azure's words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

from egress_gateway.cloud import errors

Kind = type[errors.CloudError]


@dataclass(frozen=True, slots=True)
class Refusal:
    """``codes`` as Azure spells them (``*`` stands for any letters), ``says`` what it means,
    ``mend`` what a person does; empty when only waiting helps."""

    codes: tuple[str, ...]
    kind: Kind
    says: str
    mend: str = ""


TABLE: Final = (
    Refusal(
        ("AuthorizationFailed", "LinkedAuthorizationFailed"),
        errors.Forbidden,
        "the controller's identity lacks a role; the message names identity, role and scope",
        "az role assignment create, as the message spells it",
    ),
    Refusal(
        ("RequestDisallowedByPolicy", "RequestDisallowedByAzure"),
        errors.Failed,
        "an Azure Policy forbids the resource",
        "exempt the node resource group from the policy that the message names, or ask its owner",
    ),
    Refusal(
        ("ScopeLocked",),
        errors.Failed,
        "a management lock forbids changes",
        "remove the lock (az lock list, az lock delete)",
    ),
    Refusal(
        ("DenyAssignmentAuthorizationFailed",),
        errors.Failed,
        "a deny assignment protects the resource group (AKS: node resource group lockdown)",
        "lift the restriction (az aks update --nrg-lockdown-restriction-level Unrestricted)",
    ),
    Refusal(
        ("ReadOnlyDisabledSubscription", "SubscriptionDisabled", "DisallowedOperation"),
        errors.Failed,
        "the subscription is disabled or read-only",
        "have the subscription enabled again",
    ),
    Refusal(
        (
            "MissingSubscriptionRegistration",
            "SubscriptionNotRegistered",
            "NoRegisteredProviderFound",
        ),
        errors.Failed,
        "the subscription is not registered for the resource provider",
        "az provider register --namespace Microsoft.Network (and Microsoft.Compute)",
    ),
    Refusal(
        (
            "InvalidAuthenticationToken*",
            "ExpiredAuthenticationToken",
            "AuthenticationFailed",
            "NoToken",
        ),
        errors.Unauthenticated,
        "Azure does not accept the controller's token, or gave none",
        "check tenantId, aadClientId and the credential in the Azure configuration",
    ),
    Refusal(
        ("AADSTS7000215", "AADSTS7000222"),
        errors.Unauthenticated,
        "the client secret is wrong or has expired",
        "az ad app credential reset, then write the new secret to aadClientSecretFile",
    ),
    Refusal(
        ("AADSTS700016", "AADSTS90002", "AADSTS900023"),
        errors.Unauthenticated,
        "the tenant or the application does not exist",
        "correct tenantId and aadClientId in the Azure configuration",
    ),
    Refusal(
        ("AADSTS70021", "AADSTS700211", "AADSTS700212", "AADSTS700213", "AADSTS700024"),
        errors.Unauthenticated,
        "no federated credential matches the controller's ServiceAccount token",
        "az identity federated-credential create with the cluster's issuer and the subject "
        "system:serviceaccount:kube-egress-gateway-system:egress-gateway-controller",
    ),
    Refusal(
        ("SubscriptionNotFound", "InvalidSubscriptionId"),
        errors.NotFound,
        "the subscription does not exist, or the identity sees nothing in it",
        "correct subscriptionID in the Azure configuration",
    ),
    Refusal(
        ("ResourceGroupNotFound",),
        errors.NotFound,
        "a resource group of the Azure configuration does not exist",
        "correct resourceGroup or loadBalancerResourceGroup in the Azure configuration",
    ),
    Refusal(
        ("ResourceNotFound", "NotFound", "ParentResourceNotFound"),
        errors.NotFound,
        "the resource is gone; what is ours is made again, what was brought is reported",
        "for a prefix of yours: create it again or correct spec.publicIpPrefixId",
    ),
    Refusal(
        ("InvalidResourceReference",),
        errors.Failed,
        "something that the write refers to (prefix, subnet, backend pool) no longer exists",
        "create what the message names again, or correct the spec",
    ),
    Refusal(
        (
            "PublicIPPrefixOutOfIpAddresses*",
            "PublicIpPrefixOutOfIpAddresses*",
        ),
        errors.Exhausted,
        "every address of the prefix is in use",
        "free addresses of the prefix, or use a prefix that nothing else uses",
    ),
    Refusal(
        ("SubnetIsFull", "InsufficientSubnetSize", "SubnetWithInsufficientAddresses"),
        errors.Quota,
        "the gateway pool's subnet has no private address left",
        "free addresses in the subnet, or use a gateway pool in a larger one",
    ),
    Refusal(
        (
            "QuotaExceeded",
            "*QuotaExceeded",
            "*LimitReached",
            "*LimitExceeded",
            "*CountLimit*",
            "MaxIPConfigurationsPerNicExceeded",
        ),
        errors.Quota,
        "a quota of the subscription or a limit of a resource is reached",
        "raise the quota of the subscription, or delete what is not needed",
    ),
    Refusal(
        ("TooManyRequests", "OperationThrottled", "*RequestsThrottled"),
        errors.Throttled,
        "too many requests; tried again when Azure says (Retry-After)",
    ),
    Refusal(
        (
            "AnotherOperationInProgress",
            "RetryableError*",
            "OperationNotAllowedDuringUpdate",
            "OperationPreempted",
            "CanceledAndSupersededDueToAnotherOperation",
            "ConflictingConcurrentWriteNotAllowed",
            "Conflict",
        ),
        errors.Conflict,
        "another operation is running on the resource; tried again",
    ),
    Refusal(
        ("ReferencedResourceNotProvisioned",),
        errors.Conflict,
        "what the write refers to is being written, or its last write failed; tried again",
        "if Azure says Failed: write that resource again (az resource update --set tags.x=y); "
        "what is ours is written again by itself",
    ),
    Refusal(
        ("PreconditionFailed*",),
        errors.Conflict,
        "somebody else wrote the document meanwhile; read again and tried again",
    ),
    Refusal(
        ("RulesUseSameFrontendPort*", "RulesUseSameBackendPort*"),
        errors.Conflict,
        "a rule that somebody else made took the port; another port is chosen",
    ),
    Refusal(
        (
            "PrivateIPAddressInUse",
            "PrivateIPAddressIsAllocated",
            "PrivateIPAddressNotInSubnet",
            "PublicIPAddressInUse",
        ),
        errors.Conflict,
        "an address was taken by somebody else meanwhile; tried again with another",
    ),
    Refusal(
        ("InUse*", "*InUse", "*CannotBeDeleted"),
        errors.InUse,
        "something still refers to what is to be removed; tried again",
        "if it lasts, remove what the message names from the resource",
    ),
    Refusal(
        (
            "PublicIpPrefixSkuNotSupported",
            "PublicIPAndLBSkuDoNotMatch",
            "DifferentSkuLoadBalancersAndPublicIPAddressNotAllowed",
        ),
        errors.Failed,
        "the SKUs of prefix, load balancer and scale set do not fit each other",
        "use a public IP prefix of SKU Standard, and a scale set without Basic addresses",
    ),
    Refusal(
        ("InvalidResourceLocation", "InvalidLocation", "LocationRequired", "*LocationMismatch"),
        errors.Failed,
        "the resource is in another region than the cluster",
        "bring a prefix of the cluster's region; check location in the Azure configuration",
    ),
    Refusal(
        (
            "VMExtension*",
            "OSProvisioning*",
            "VMStartTimedOut",
            "AllocationFailed",
            "ZonalAllocationFailed",
            "SkuNotAvailable",
            "NetworkingInternalOperationError",
        ),
        errors.Failed,
        "Azure could not bring the machine into the wanted state; tried again, the others serve",
        "see the instance's own status in Azure; reimage or replace it if this lasts",
    ),
    Refusal(
        (
            "VMScaleSetNetworkInterfaceConfigurationMustHaveOneIpConfigAsPrimary",
            "SubnetUnknown",
        ),
        errors.Failed,
        "the scale set's network interface has several ipConfigs and none is primary, or it is in "
        "no subnet",
        "mark one ipConfig of the scale set's model as primary, in a subnet (az vmss update)",
    ),
    Refusal(
        ("*DelegatedSubnet", "SubnetDelegations*"),
        errors.Failed,
        "the subnet is delegated to a service of Azure and takes no addresses of others",
        "use a subnet without delegations: for the load balancer's address subnetName in the "
        "Azure configuration, for gateway nodes another pool",
    ),
    Refusal(
        ("*ZoneConstraint*", "ResourceAvailabilityZonesCannotBeModified"),
        errors.Failed,
        "the zones of prefix, addresses and machines do not fit each other",
        "use a public IP prefix of all zones, or a gateway pool in the prefix's zone",
    ),
    Refusal(
        (
            "InternalServerError",
            "InternalExecutionError",
            "Canceled",
            "ServerBusy",
            "ServiceUnavailable",
            "GatewayTimeout",
            "*TimedOut",
        ),
        errors.Unavailable,
        "Azure is out of order or did not answer in time; tried again",
    ),
)


@lru_cache(maxsize=1024)
def known(code: str) -> Refusal | None:
    """The row of the table for ``code``; the first that fits."""
    for refusal in TABLE:
        if any(_pattern(each).fullmatch(code) for each in refusal.codes):
            return refusal
    return None


@cache
def _pattern(code: str) -> re.Pattern[str]:
    return re.compile(re.escape(code).replace(r"\*", "[A-Za-z0-9]*"))
