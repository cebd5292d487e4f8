"""Azure Resource Manager's errors: few constructors, ARM's own codes and words.

Clients (SDKs, ``az``, our controller) decide by ``code`` and show ``message``, so both are
spelled as the service spells them. Whoever raises an ``ArmError`` ends the request with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from egress_gateway_lab.azure.arm import ids


class ArmError(Exception):
    """An answer other than success: HTTP ``status`` and the body ``{"error": …}``."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        target: str | None = None,
        details: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.target = target
        self.details = tuple(details)
        self.headers = dict(headers or {})

    def error(self) -> dict[str, Any]:
        """The object that stands under ``error``, in answers and in failed operations."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.target is not None:
            body["target"] = self.target
        if self.details:
            body["details"] = [dict(d) for d in self.details]
        return body


def group_not_found(name: str) -> ArmError:
    return ArmError(404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found.")


def resource_not_found(resource_type: str, name: str, group: str) -> ArmError:
    return ArmError(
        404,
        "ResourceNotFound",
        f"The Resource '{resource_type}/{name}' under resource group '{group}' was not found. "
        "For more details please go to https://aka.ms/ARMResourceNotFoundFix",
    )


def parent_not_found(resource_type: str, name: str, parent: str) -> ArmError:
    return ArmError(
        404,
        "ParentResourceNotFound",
        f"Can not perform requested operation on nested resource. Parent resource '{parent}' "
        f"not found for '{resource_type}/{name}'.",
    )


def invalid_resource_type(namespace: str, resource_type: str) -> ArmError:
    return ArmError(
        404,
        "InvalidResourceType",
        f"The resource type '{resource_type}' could not be found in the namespace '{namespace}'.",
    )


def missing_reference(reference: str, referrer: str) -> ArmError:
    return ArmError(
        400,
        "InvalidResourceReference",
        f"Resource {reference} referenced by resource {referrer} was not found. Please make sure "
        "that the referenced resource exists, and that both resources are in the same region.",
    )


def not_provisioned(reference: str, referrer: str, state: str) -> ArmError:
    kind = ids.type_of(reference).rpartition("/")[2]
    verb = "Delete" if state == "Deleting" else "Put"
    return ArmError(
        409,
        "ReferencedResourceNotProvisioned",
        f"Cannot proceed with operation because resource {reference} used by resource {referrer} "
        f"is not in Succeeded state. Resource is in {state} state and the last operation that "
        f"updated/is updating the resource is {verb}{kind[:1].upper()}{kind[1:]}Operation.",
        headers={"Retry-After": "1"},
    )


def not_a_reference(reference: str, wanted: str, referrer: str) -> ArmError:
    return ArmError(
        400,
        "LinkedInvalidPropertyId",
        f"Property id '{reference}' of {referrer} is invalid. Expect the fully qualified id of a "
        f"resource of type '{wanted}'.",
    )


def method_not_allowed(method: str, resource_type: str) -> ArmError:
    return ArmError(
        405,
        "MethodNotAllowed",
        f"The emulator does not offer {method} on '{resource_type}'.",
    )


def not_modelled(what: str, only: str) -> ArmError:
    """No answer of Azure's: the lab says so instead of taking what it would not heed."""
    hint = f": only {only}" if only else ""
    return ArmError(400, "NotModelledByLab", f"The lab does not model {what}{hint}.", target=what)


def invalid(message: str, *, target: str | None = None, code: str = "InvalidParameter") -> ArmError:
    return ArmError(400, code, message, target=target)


def precondition_failed_compute(expected: str, actual: str) -> ArmError:
    """As Microsoft.Compute answers If-Match."""
    return ArmError(
        412,
        "PreconditionFailed",
        f"Etag provided in if-match header {expected} does not match etag {actual} of resource.",
    )


def precondition_failed(resource_id: str, expected: str, actual: str) -> ArmError:
    return ArmError(
        412,
        "PreconditionFailed",
        "Precondition failed.",
        details=[
            {
                "code": "PreconditionFailedEtagMismatch",
                "message": f"Etag provided in if-match header {expected} does not match etag "
                f"{actual} of resource {resource_id} in NRP data store.",
            }
        ],
    )


def busy_network(operation_url: str) -> ArmError:
    return ArmError(
        409,
        "AnotherOperationInProgress",
        "Another operation on this or dependent resource is in progress. To retrieve status of "
        f"the operation use uri: {operation_url}.",
        headers={"Retry-After": "1"},
    )


def busy_compute() -> ArmError:
    return ArmError(
        409,
        "Conflict",
        "The request failed due to conflict with a concurrent request. To resolve it, please "
        "refer to https://aka.ms/activitylog to get more details on the conflicting requests.",
    )


def group_being_deleted(name: str) -> ArmError:
    return ArmError(
        409,
        "ResourceGroupBeingDeleted",
        f"The resource group '{name}' is in deprovisioning state and cannot perform this "
        "operation.",
    )


def unauthenticated(why: str, authority: str) -> ArmError:
    return ArmError(
        401,
        "AuthenticationFailed",
        f"Authentication failed. {why}",
        headers={"WWW-Authenticate": f'Bearer authorization_uri="{authority}"'},
    )


def unauthorized(client: str, oid: str, action: str, scope: str) -> ArmError:
    return ArmError(
        403,
        "AuthorizationFailed",
        f"The client '{client}' with object id '{oid}' does not have authorization to perform "
        f"action '{action}' over scope '{scope}' or the scope is invalid. If access was recently "
        "granted, please refresh your credentials.",
    )


def link_unauthorized(
    client: str, oid: str, action: str, scope: str, linked: Sequence[tuple[str, str]]
) -> ArmError:
    """``linked``: each scope that the caller may not use, with the action that it lacks there."""
    actions = ",".join(dict.fromkeys(needed for _, needed in linked))
    scopes = ",".join(target for target, _ in linked)
    return ArmError(
        403,
        "LinkedAuthorizationFailed",
        f"The client '{client}' with object id '{oid}' has permission to perform action "
        f"'{action}' on scope '{scope}'; however, it does not have permission to perform "
        f"action(s) '{actions}' on the linked scope(s) '{scopes}' (respectively) or the "
        "linked scope(s) are invalid.",
    )


def denied(client: str, oid: str, action: str, scope: str) -> ArmError:
    """A deny assignment, such as AKS's node resource group lockdown makes."""
    at = scope.partition("/providers/")[0]
    name = "Deny assignment created by AKS for the node resource group"
    return ArmError(
        403,
        "DenyAssignmentAuthorizationFailed",
        f"The client '{client}' with object id '{oid}' has permission to perform action "
        f"'{action}' on scope '{scope}'; however, the access is denied because of the deny "
        f"assignment with name '{name}' and Id '5f1b5a1de8a1' at scope '{at}'.",
    )


def denied_links(
    client: str, oid: str, action: str, scope: str, linked: Sequence[tuple[str, str]]
) -> ArmError:
    """A deny assignment on what a write refers to."""
    actions = ",".join(dict.fromkeys(needed for _, needed in linked))
    scopes = ",".join(target for target, _ in linked)
    return ArmError(
        403,
        "LinkedAuthorizationFailed",
        f"The client '{client}' with object id '{oid}' has permission to perform action "
        f"'{action}' on scope '{scope}'; however, it does not have permission to perform action "
        f"'{actions}' on the '0' linked scope(s) '' or the linked scope(s) are invalid and is "
        f"blocked by deny assignments on the '{len(linked)}' linked scope(s) '{scopes}'.",
    )


def foreign_tenant(action: str, scope: str, tenant: str, subscription: str) -> ArmError:
    """A reference into a subscription of another tenant; ``action`` is what the reference needs."""
    return ArmError(
        403,
        "LinkedAuthorizationFailed",
        f"The client has permission to perform action '{action}' on scope '{scope}', however the "
        f"current tenant '{tenant}' is not authorized to access linked subscription "
        f"'{subscription}'.",
    )
