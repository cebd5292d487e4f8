"""403 as Azure really says it: its own sentence always, a command only where one can work."""

from __future__ import annotations

from typing import Final

import pytest

from egress_gateway.cloud import errors
from tests.unit.cloud.test_azure_errors import read, refusal

GROUP: Final = "/subscriptions/s/resourceGroups/g/providers"
PREFIXES: Final = [f"{GROUP}/Microsoft.Network/publicIPPrefixes/p{n}" for n in range(3)]
SUBNET: Final = f"{GROUP}/Microsoft.Network/virtualNetworks/v/subnets/s"
IDENTITY: Final = f"{GROUP}/Microsoft.ManagedIdentity/userAssignedIdentities/i"
VAULT: Final = f"{GROUP}/Microsoft.KeyVault/vaults/v"
JOIN: Final = "Microsoft.Network/publicIPPrefixes/join/action"
SUBNET_JOIN: Final = "Microsoft.Network/virtualNetworks/subnets/join/action"
ASSIGN: Final = "Microsoft.ManagedIdentity/userAssignedIdentities/assign/action"


def linked(actions: str, scopes: str, end: str = "") -> str:
    return (
        "The client 'app' with object id 'oid' has permission to perform action "
        "'Microsoft.Compute/virtualMachineScaleSets/write' on scope '/subscriptions/s/vmss'; "
        f"however, it does not have permission to perform {actions} on the {scopes} "
        f"(respectively) or the linked scope(s) are invalid{end}."
    )


def forbidden(message: str, code: str = "LinkedAuthorizationFailed") -> errors.CloudError:
    error = read(refusal(403, code, message))
    assert message in str(error), "Azure's own sentence"
    return error


def commands(error: errors.CloudError) -> list[str]:
    return [part for part in error.mend.split("; ") if "az role assignment create" in part]


@pytest.mark.parametrize(
    ("actions", "scopes"),
    [
        (f"action(s) '{JOIN}'", PREFIXES[:1]),
        (f"action '{JOIN}'", PREFIXES[:1]),
        (f"the action '{JOIN}'", PREFIXES[:1]),
        (f"action(s) '{JOIN}'", PREFIXES[:2]),
        (f"action(s) '{JOIN},{SUBNET_JOIN}'", [PREFIXES[0], SUBNET]),
        (f"action(s) '{JOIN},{SUBNET_JOIN}'", [SUBNET, *PREFIXES]),
    ],
)
def test_each_scope_has_a_command_of_its_own(actions: str, scopes: list[str]) -> None:
    count = f"'{len(scopes)}' " if len(scopes) > 1 else ""
    error = forbidden(linked(actions, f"{count}linked scope(s) '{','.join(scopes)}'"))
    assert isinstance(error, errors.Forbidden)
    assert list(error.related) == scopes
    told = commands(error)
    assert len(told) == len(scopes)
    for scope, command in zip(scopes, told, strict=True):
        assert command.endswith(f"--assignee oid --scope {scope}")
        assert '"Network Contributor"' in command


def test_the_role_is_that_of_what_is_lacking() -> None:
    error = forbidden(linked(f"action(s) '{ASSIGN}'", f"linked scope(s) '{IDENTITY}'"))
    assert '"Managed Identity Operator"' in commands(error)[0]
    lacking = "Microsoft.KeyVault/vaults/read"
    error = forbidden(linked(f"action(s) '{lacking}'", f"linked scope(s) '{VAULT}'"))
    assert commands(error) == []
    assert f"lacks a role on {VAULT}" in str(error)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "DenyAssignmentAuthorizationFailed",
            "The client 'app' with object id 'oid' has permission to perform action 'x' on scope "
            "'/s'; however, the access is denied because of the deny assignment with name 'AKS' "
            "and Id '5f' at scope '/subscriptions/s/resourceGroups/g'.",
        ),
        (
            "LinkedAuthorizationFailed",
            linked(
                f"action(s) '{JOIN}'",
                f"'2' linked scope(s) '{','.join(PREFIXES[:2])}'",
                " and is blocked by deny assignments on '0' linked scope(s)",
            ),
        ),
        ("AuthorizationFailed", "Denied: there is a Deny assignment at the resource group."),
    ],
)
def test_a_deny_assignment_is_told_as_one(code: str, message: str) -> None:
    error = forbidden(message, code)
    assert "deny assignment" in str(error)
    assert "nrg-lockdown" in error.mend
    assert commands(error) == []


def test_another_tenant_is_no_matter_of_roles() -> None:
    error = forbidden(
        "The client has permission to perform action 'Microsoft.Network/publicIPPrefixes/join/"
        f"action' on scope '{PREFIXES[0]}', however the current tenant 't' is not authorized to "
        "access linked subscription 'other'."
    )
    assert isinstance(error, errors.Forbidden)
    assert commands(error) == []
    assert "tenant" in error.mend


@pytest.mark.parametrize("message", ["Forbidden.", "", "Access to the resource is not allowed."])
def test_words_that_nobody_knows_get_no_command_that_cannot_work(message: str) -> None:
    error = forbidden(message, "SomethingNew")
    assert isinstance(error, errors.Forbidden)
    assert commands(error) == []
    assert "PRINCIPAL" not in str(error)
