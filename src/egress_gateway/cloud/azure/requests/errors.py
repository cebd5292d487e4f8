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
from egress_gateway.cloud.azure.requests.pacing import pause_of
from egress_gateway.cloud.azure.requests.refusals import known

_AUTHORIZATION: Final = re.compile(
    r"client '(?P<client>[^']*)' with object id '(?P<object>[^']*)' does not have authorization "
    r"to perform action '(?P<action>[^']*)' over scope '(?P<scope>[^']*)'"
)
_LINKED: Final = re.compile(
    r"client(?: '(?P<client>[^']*)')?(?: with object id '(?P<object>[^']*)')?.*?does not have "
    r"permission to perform (?:the )?(?:'\d+' )?action(?:\(s\))? '(?P<action>[^']*)' on the "
    r"(?:'\d+' )?linked scope(?:\(s\))? '(?P<scope>[^']*)'",
    re.DOTALL,
)
_DENY: Final = re.compile(r"deny assignment", re.IGNORECASE)
_TENANT: Final = re.compile(r"tenant .*?is not authorized to access linked subscription")
_ROLES: Final = {
    "microsoft.network": "Network Contributor",
    "microsoft.compute": "Virtual Machine Contributor",
    "microsoft.managedidentity": "Managed Identity Operator",
}
"""The least built-in role that allows what we do, by resource provider. For others we know none,
so we offer none."""
_IDS: Final = re.compile(r"/subscriptions/[^\s'\",;()]+", re.IGNORECASE)
_PLAIN: Final = frozenset({412, 429})
"""What an answer's status says without a code: a lost race, too many."""
_SIGN_IN: Final = re.compile(r"AADSTS[0-9]+")


def translated(error: AzureError, *, operation: str, resource: str) -> errors.CloudError:
    """``error`` as one of ours. ``operation`` and ``resource`` say what was tried on what."""
    if isinstance(error, ClientAuthenticationError):
        return _unauthenticated(error, operation, resource)
    if not isinstance(error, HttpResponseError):
        return errors.Unavailable(f"{operation}: {_one_line(str(error))}", resource=resource)
    code, message = _words(error)
    status = error.status_code or 0
    if not code and 200 <= status < 300:
        message = "Azure took the write and gave it up, and says no reason"
    elif not code and status not in _PLAIN:
        return _not_azure(operation, message, status, resource, error)
    text = f"{operation}: {message}"
    kind = _kind(status, code, message)
    if kind is errors.Forbidden:
        return _forbidden(text, code, message, resource)
    row = known(code) or (known("QuotaExceeded") if kind is errors.Quota else None)
    return kind(
        f"{text} ({code})" if code else text,
        code=code,
        resource=resource,
        related=_ids(message),
        retry_after=_retry_after(error),
        hint=row.mend if row and row.kind is kind else "",
    )


def _not_azure(
    operation: str, message: str, status: int, resource: str, error: HttpResponseError
) -> errors.Unavailable:
    """Azure gives every refusal a code. What has none comes from something in between, and says
    nothing of the resource: not that it is gone, and not that a role is missing."""
    return errors.Unavailable(
        f"{operation}: {message} (HTTP {status}, without a word of Azure)",
        resource=resource,
        retry_after=_retry_after(error),
        hint="if it lasts, see what answers in Azure's place: a proxy, a firewall, a front door",
    )


def _unauthenticated(
    error: ClientAuthenticationError, operation: str, resource: str
) -> errors.CloudError:
    text = _one_line(error.message)
    code, message = _words(error)
    if found := _SIGN_IN.search(text):
        code = found[0]
    elif code:  # of Azure Resource Manager: the library's text has the sentence twice
        text = f"{message} ({code})"
    row = known(code) or known("NoToken")
    return errors.Unauthenticated(
        f"{operation}: no access token that Azure accepts: {text}",
        code=code,
        resource=resource,
        hint=row.mend if row else "",
    )


def _kind(status: int, code: str, message: str) -> type[errors.CloudError]:
    """The table's, else what the status says."""
    if code == "OperationNotAllowed" and "quota" in message.lower():
        return errors.Quota  # Compute's word for both
    row = known(code)
    if row is not None:
        return row.kind
    by_status = {
        403: errors.Forbidden,
        404: errors.NotFound,
        408: errors.Unavailable,
        409: errors.Conflict,
        412: errors.Conflict,
        429: errors.Throttled,
    }
    if status >= 500:
        return errors.Unavailable
    return by_status.get(status, errors.Failed)


def _forbidden(text: str, code: str, message: str, resource: str) -> errors.CloudError:
    """Azure's sentence always; a command for each scope, only where a role is what is missing."""
    if _DENY.search(message):
        return _denied(text, code, message, resource)
    if _TENANT.search(message):
        return errors.Forbidden(
            f"{text} ({code})",
            code=code,
            resource=resource,
            related=_ids(message),
            hint="use resources of the cluster's own tenant; no role assignment fixes this",
        )
    return missing_role(text, code, message, resource)


def missing_role(text: str, code: str, message: str, resource: str) -> errors.Forbidden:
    """``text`` is what the condition tells, ``message`` Azure's sentence in it."""
    match = _LINKED.search(message) or _AUTHORIZATION.search(message)
    if match is None:
        return errors.Forbidden(
            f"{text} ({code})" if code else text,
            code=code,
            resource=resource,
            related=_ids(message) or [resource],
            hint="check the role assignments of the controller's identity: az role assignment list "
            "--all --assignee, with the identity of the Azure configuration",
        )
    principal = match["object"] or match["client"] or ""
    scopes, actions = _split(match["scope"]), _split(match["action"])
    pairs = [(scope, _action_on(scope, actions)) for scope in scopes]
    lacks = "; ".join(_lack(principal, action, scope) for scope, action in pairs)
    commands = [c for scope, action in pairs if (c := _grant(principal, action, scope))]
    return errors.Forbidden(
        f"{lacks}; Azure says: {text} ({code})",
        code=code,
        resource=resource,
        related=scopes,
        hint=f"grant it with: {'; '.join(dict.fromkeys(commands))}" if commands else "",
    )


def _denied(text: str, code: str, message: str, resource: str) -> errors.Failed:
    row = known("DenyAssignmentAuthorizationFailed")
    return errors.Failed(
        f"a deny assignment forbids it, which no role overrides; {text} ({code})",
        code=code,
        resource=resource,
        related=_ids(message),
        hint=row.mend if row else "",
    )


def _split(listed: str) -> list[str]:
    return [part.strip() for part in listed.split(",") if part.strip()]


def _action_on(scope: str, actions: list[str]) -> str:
    """Of the actions that Azure names (each once, whatever the number of scopes): the one of the
    scope's own kind, else the first."""
    kinds = ((action, action.lower().split("/")[:2]) for action in actions)
    fits = (a for a, kind in kinds if "/".join(kind) in scope.lower())
    return next(fits, actions[0] if actions else "")


def _role(action: str) -> str:
    """Empty if we know none."""
    return _ROLES.get(action.partition("/")[0].lower(), "")


def _lack(principal: str, action: str, scope: str) -> str:
    role = f"the role {_role(action)}" if _role(action) else "a role"
    return f"{principal or 'the controller'} lacks {role} on {scope}: {action} was refused"


def _grant(principal: str, action: str, scope: str) -> str:
    """Empty where a command could not work: nobody or nothing to grant it to, no role known."""
    if not (principal and _role(action) and scope.startswith("/")):
        return ""
    return (
        f'az role assignment create --role "{_role(action)}" --assignee {principal} --scope {scope}'
    )


def _ids(message: str) -> list[str]:
    return [found.rstrip(".") for found in _IDS.findall(message)]


def _words(error: HttpResponseError) -> tuple[str, str]:
    """ARM's code and message, of the innermost detail that has both."""
    body = error.error
    if body is None or not body.code:
        return "", _one_line(error.message)
    code, message = str(body.code), body.message or ""
    for detail in body.details or ():
        if detail.code and detail.message:
            code, message = str(detail.code), detail.message
            break
    return code, _one_line(message)


def _retry_after(error: HttpResponseError) -> float | None:
    headers = getattr(error.response, "headers", None) or {}
    return pause_of(headers.get("Retry-After"))


def _one_line(text: str) -> str:
    return " ".join(str(text).split())
