"""Azure's refusals, read: from the SDK's exceptions to the few types that a planner tells apart.

Codes and wordings: https://learn.microsoft.com/azure/azure-resource-manager/troubleshooting/
common-deployment-errors, and what Azure's own clients were seen to get.
"""

from __future__ import annotations

import re
from typing import Final

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
)

from egress_gateway.cloud import errors

_AUTHORIZATION: Final = re.compile(
    r"client '(?P<client>[^']*)' with object id '(?P<object>[^']*)' does not have authorization "
    r"to perform action '(?P<action>[^']*)' over scope '(?P<scope>[^']*)'"
)
_LINKED: Final = re.compile(
    r"client(?: '(?P<client>[^']*)')?(?: with object id '(?P<object>[^']*)')?.*?does not have "
    r"permission to perform (?:the )?action(?:\(s\))? '(?P<action>[^']*)' on the linked scope"
    r"(?:\(s\))? '(?P<scope>[^']*)'",
    re.DOTALL,
)
_IDS: Final = re.compile(r"/subscriptions/[^\s'\",;()]+", re.IGNORECASE)
_FORBIDDEN: Final = frozenset({"AuthorizationFailed", "LinkedAuthorizationFailed"})
_CONFLICT: Final = frozenset(
    {
        "AnotherOperationInProgress",
        "RetryableError",
        "RetryableErrorDueToAnotherOperation",
        "OperationNotAllowedDuringUpdate",
        "PreconditionFailed",
        "ReferencedResourceNotProvisioned",
        "CanceledAndSupersededDueToAnotherOperation",
        "OperationPreempted",
    }
)
_EXHAUSTED: Final = frozenset(
    {"PublicIPPrefixOutOfIpAddressesForAllocation", "PublicIpPrefixOutOfIpAddressesForAllocation"}
)


def translated(error: AzureError, *, operation: str, resource: str) -> errors.CloudError:
    """``error`` as one of ours. ``operation`` and ``resource`` say what was tried on what."""
    if isinstance(error, ClientAuthenticationError):
        return errors.Unavailable(
            f"{operation}: no access token: {_one_line(error.message)}", resource=resource
        )
    if not isinstance(error, HttpResponseError):
        return errors.Unavailable(f"{operation}: {_one_line(str(error))}", resource=resource)
    code, message = _words(error)
    status = error.status_code or 0
    text = f"{operation}: {message}"
    ids = [found.rstrip(".") for found in _IDS.findall(message)]
    if code in _FORBIDDEN or status == 403:
        return _forbidden(text, code, message, resource)
    kind = _kind(status, code)
    return kind(
        f"{text} ({code})" if code else text,
        code=code,
        resource=resource,
        related=ids,
        retry_after=_retry_after(error),
    )


def _kind(status: int, code: str) -> type[errors.CloudError]:
    if code in _EXHAUSTED or "OutOfIpAddresses" in code:
        return errors.Exhausted
    if "Quota" in code or code.endswith("LimitReached") or "CountLimit" in code:
        return errors.Quota
    if code.startswith("InUse") or code.endswith("InUse") or "CannotBeDeleted" in code:
        return errors.InUse
    if status == 429 or code in ("TooManyRequests", "OperationThrottled"):
        return errors.Throttled
    if status == 412 or code in _CONFLICT or (status == 409 and "InProgress" in code):
        return errors.Conflict
    if status == 404 or code in ("ResourceNotFound", "NotFound", "ResourceGroupNotFound"):
        return errors.NotFound
    if status >= 500 or status == 408:
        return errors.Unavailable
    return errors.Conflict if status == 409 else errors.Failed


def _forbidden(text: str, code: str, message: str, resource: str) -> errors.Forbidden:
    match = _LINKED.search(message) or _AUTHORIZATION.search(message)
    action = match["action"] if match else ""
    return errors.Forbidden(
        text,
        principal=(match["object"] or match["client"] or "") if match else "",
        action=action,
        scope=(match["scope"] if match else "") or resource,
        role=_role(action, resource),
        code=code,
        resource=resource,
    )


def _role(action: str, resource: str) -> str:
    """The least built-in role that allows what we do there."""
    where = action or resource
    if "microsoft.compute" in where.lower() and "microsoft.network" not in action.lower():
        return "Virtual Machine Contributor"
    return "Network Contributor"


def _words(error: HttpResponseError) -> tuple[str, str]:
    """ARM's code and message, of the innermost detail that has both."""
    body = error.error
    if body is None or not body.code:
        return "", _one_line(error.message)
    code, message = body.code, body.message or ""
    for detail in body.details or ():
        if detail.code and detail.message:
            code, message = detail.code, detail.message
            break
    return code, _one_line(message)


def _retry_after(error: HttpResponseError) -> float | None:
    headers = getattr(error.response, "headers", None) or {}
    try:
        return float(headers.get("Retry-After", ""))
    except ValueError:
        return None


def _one_line(text: str) -> str:
    return " ".join(str(text).split())
