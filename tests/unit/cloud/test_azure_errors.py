"""Azure's refusals, in its own words, become what a planner and a person can use."""

from __future__ import annotations

import json
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.core.exceptions import ServiceRequestError as Broken

from egress_gateway.cloud import errors
from egress_gateway.cloud.azure.requests.errors import translated

PREFIX = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Network/publicIPPrefixes/pip"


def refusal(status: int, code: str, message: str, **headers: str) -> HttpResponseError:
    class Response:
        status_code = status
        reason = ""
        content_type = "application/json"

        def text(self, encoding: str | None = None) -> str:
            return json.dumps({"error": {"code": code, "message": message}})

        def body(self) -> bytes:
            return self.text().encode()

    response: Any = Response()
    response.headers = headers
    from azure.mgmt.core.exceptions import ARMErrorFormat

    return HttpResponseError(response=response, error_format=ARMErrorFormat)


def read(error: Any) -> errors.CloudError:
    return translated(error, operation="read the prefix", resource=PREFIX)


def test_authorization_failed_names_who_what_where_and_the_command() -> None:
    error = read(
        refusal(
            403,
            "AuthorizationFailed",
            "The client 'app' with object id 'oid' does not have authorization to perform action "
            f"'Microsoft.Network/publicIPPrefixes/read' over scope '{PREFIX}' or the scope is "
            "invalid. If access was recently granted, please refresh your credentials.",
        )
    )
    assert isinstance(error, errors.Forbidden)
    assert error.related == (PREFIX,)
    assert "oid lacks the role Network Contributor" in str(error)
    assert (
        f'az role assignment create --role "Network Contributor" --assignee oid --scope {PREFIX}'
        in str(error)
    )


def test_linked_authorization_failed_blames_the_linked_scope() -> None:
    error = read(
        refusal(
            403,
            "LinkedAuthorizationFailed",
            "The client 'app' with object id 'oid' has permission to perform action "
            "'Microsoft.Compute/virtualMachineScaleSets/write' on scope '/subscriptions/s/vmss'; "
            "however, it does not have permission to perform action(s) "
            f"'Microsoft.Network/publicIPPrefixes/join/action' on the linked scope(s) '{PREFIX}' "
            "(respectively) or the linked scope(s) are invalid.",
        )
    )
    assert isinstance(error, errors.Forbidden)
    assert error.related == (PREFIX,)
    assert f"lacks the role Network Contributor on {PREFIX}" in str(error)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "ResourceNotFound", errors.NotFound),
        (409, "AnotherOperationInProgress", errors.Conflict),
        (412, "PreconditionFailed", errors.Conflict),
        (429, "TooManyRequests", errors.Throttled),
        (400, "PublicIPPrefixOutOfIpAddressesForAllocation", errors.Exhausted),
        (400, "PublicIPPrefixCountLimitReached", errors.Quota),
        (409, "QuotaExceeded", errors.Quota),
        (400, "InUsePublicIpPrefixCannotBeDeleted", errors.InUse),
        (503, "ServerBusy", errors.Unavailable),
        (400, "InvalidResourceReference", errors.Failed),
        (200, "NetworkingInternalOperationError", errors.Failed),
        (400, "PublicIpPrefixOutOfIpAddresses", errors.Exhausted),
        (403, "RequestDisallowedByPolicy", errors.Failed),
        (409, "ScopeLocked", errors.Failed),
        (409, "MissingSubscriptionRegistration", errors.Failed),
        (409, "SomethingNew", errors.Conflict),
        (403, "SomethingNew", errors.Forbidden),
        (500, "SomethingNew", errors.Unavailable),
        (400, "SomethingNew", errors.Failed),
        (400, "SubnetIsFull", errors.Quota),
        (401, "ExpiredAuthenticationToken", errors.Unauthenticated),
    ],
)
def test_kinds(status: int, code: str, kind: type[errors.CloudError]) -> None:
    error = read(refusal(status, code, f"about {PREFIX}."))
    assert type(error) is kind
    assert error.related == (PREFIX,)
    assert code in str(error)


def test_compute_calls_its_quota_operation_not_allowed() -> None:
    words = "Operation could not be completed as it results in exceeding approved Cores quota."
    assert isinstance(read(refusal(409, "OperationNotAllowed", words)), errors.Quota)
    busy = "Operation is not allowed since the scale set is marked for deletion."
    assert isinstance(read(refusal(409, "OperationNotAllowed", busy)), errors.Conflict)


@pytest.mark.parametrize(
    ("words", "mend"),
    [
        ("AADSTS7000222: The provided client secret keys are expired.", "credential reset"),
        ("AADSTS700213: No matching federated identity record found.", "federated-credential"),
        ("ManagedIdentityCredential authentication unavailable.", "Azure configuration"),
    ],
)
def test_a_rejected_credential_says_what_to_mend(words: str, mend: str) -> None:
    error = read(ClientAuthenticationError(message=words))
    assert isinstance(error, errors.Unauthenticated)
    assert words in str(error)
    assert mend in error.mend


def test_a_token_that_azure_refuses_is_told_once() -> None:
    from azure.mgmt.core.exceptions import ARMErrorFormat

    words = "The access token expiry UTC time is earlier than current UTC time."
    refused = refusal(401, "ExpiredAuthenticationToken", words)
    given: Any = {"response": refused.response, "error_format": ARMErrorFormat}
    said = str(read(ClientAuthenticationError(**given)))
    assert said.count(words) == 1
    assert f"no access token that Azure accepts: {words} (ExpiredAuthenticationToken)" in said


def test_throttling_carries_how_long() -> None:
    error = read(refusal(429, "TooManyRequests", "slow down", **{"Retry-After": "17"}))
    assert error.retry_after == 17.0


def test_no_token_and_no_connection_are_for_time_to_mend() -> None:
    for cause in (ClientAuthenticationError(message="no token"), Broken("no route")):
        assert isinstance(read(cause), errors.Unavailable)
