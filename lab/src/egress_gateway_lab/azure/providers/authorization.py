"""Microsoft.Authorization: role definitions and assignments, at any scope."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime

from egress_gateway_lab.azure.arm import errors, ids
from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.arm.kinds import Answer, Azure, Call, Kind
from egress_gateway_lab.azure.arm.store import Document
from egress_gateway_lab.azure.identity import rbac


class RoleDefinitions(Kind):
    """Built-in roles; ``$filter=roleName eq '…'`` as clients use it."""

    type = rbac.DEFINITION
    tracked = False

    async def list(self, call: Call) -> Answer:
        wanted = re.search(r"roleName eq '([^']+)'", call.query.get("$filter", ""), re.IGNORECASE)
        name = wanted[1].lower() if wanted else None
        shown = [
            rbac.definition(role, self.azure.subscription)
            for role in rbac.ROLES
            if name is None or role.name.lower() == name
        ]
        return Answer(200, {"value": shown})

    async def get(self, call: Call) -> Answer:
        role = rbac.role_of(call.id.text)
        if role is None:
            raise ArmError(
                404,
                "RoleDefinitionDoesNotExist",
                f"The specified role definition with ID '{call.id.name}' does not exist.",
            )
        return Answer(200, rbac.definition(role, self.azure.subscription))


class Permissions(Kind):
    """What the caller himself may do at a scope: those of his roles there and above."""

    type = "Microsoft.Authorization/permissions"
    tracked = False

    async def list(self, call: Call) -> Answer:
        found = [
            {"actions": list(role.actions), "notActions": list(role.not_actions)}
            for role in self.azure.access.roles(call.principal, call.id.scope)
        ]
        return Answer(200, {"value": found})


class RoleAssignments(Kind):
    """Who has which role where."""

    type = rbac.ASSIGNMENT
    tracked = False

    async def list(self, call: Call) -> Answer:
        """At, above and (as Azure does without ``atScope()``) below the scope."""
        scope, wanted = call.id.scope, call.query.get("$filter", "")
        principal = re.search(r"(?:principalId eq|assignedTo\()\s*'([^']+)'", wanted)
        shown = []
        for assignment in self.azure.store.of_type(self.type):
            at = assignment["properties"]["scope"]
            below = "atscope()" not in wanted.lower() and ids.within(at, scope)
            if not (below or ids.within(scope, at)):
                continue
            if principal and assignment["properties"]["principalId"] != principal[1]:
                continue
            shown.append(assignment)
        return Answer(200, {"value": shown})

    async def put(self, call: Call) -> Answer:
        given = (call.body or {}).get("properties") or {}
        self._check(given)
        for existing in self.azure.store.of_type(self.type):
            old = existing["properties"]
            if (
                ids.same(old["scope"], call.id.scope)
                and old["principalId"] == given["principalId"]
                and rbac.role_of(old["roleDefinitionId"]) is rbac.role_of(given["roleDefinitionId"])
            ):
                raise ArmError(409, "RoleAssignmentExists", "The role assignment already exists.")
        return Answer(
            201,
            assign(
                self.azure,
                call.id.scope,
                given["roleDefinitionId"],
                given["principalId"],
                given.get("principalType") or "ServicePrincipal",
                name=call.id.name,
                by=call.principal.object_id,
            ),
        )

    def _check(self, given: Document) -> None:
        if rbac.role_of(given.get("roleDefinitionId") or "") is None:
            raise errors.invalid(
                f"The specified role definition with ID '{given.get('roleDefinitionId')}' does "
                "not exist.",
                code="RoleDefinitionDoesNotExist",
            )
        principal = given.get("principalId") or ""
        known = self.azure.directory.find(principal)
        if known is None or known.object_id != principal:
            tenant = self.azure.tenant
            raise errors.invalid(
                f"Principal {principal} does not exist in the directory {tenant}. Check that you "
                "have the correct principal ID.",
                code="PrincipalNotFound",
            )

    async def delete(self, call: Call) -> Answer:
        assignment = self.azure.store.get(call.id.text)
        if assignment is None:
            return Answer(204)
        self.azure.store.delete(call.id.text)
        return Answer(200, assignment)


def assign(
    azure: Azure,
    scope: str,
    role_definition: str,
    principal_id: str,
    principal_type: str = "ServicePrincipal",
    *,
    name: str | None = None,
    by: str = "",
) -> Document:
    """Stores a role assignment; ``role_definition`` is a definition's id or a role's name."""
    role = rbac.role_of(role_definition) or next(r for r in rbac.ROLES if r.name == role_definition)
    name = name or str(uuid.uuid4())
    stamp = datetime.fromtimestamp(azure.clock.time(), UTC).isoformat().replace("+00:00", "Z")
    document: Document = {
        "id": f"{scope}/providers/{rbac.ASSIGNMENT}/{name}",
        "name": name,
        "type": rbac.ASSIGNMENT,
        "properties": {
            "roleDefinitionId": rbac.definition(role, azure.subscription)["id"],
            "principalId": principal_id,
            "principalType": principal_type,
            "scope": scope,
            "createdOn": stamp,
            "updatedOn": stamp,
            "createdBy": by,
            "updatedBy": by,
        },
    }
    azure.store.put(rbac.ASSIGNMENT, document)
    return document


def revoke(azure: Azure, principal_id: str) -> None:
    """Drops every assignment of a principal that goes."""
    for assignment in azure.store.of_type(rbac.ASSIGNMENT):
        if assignment["properties"]["principalId"] == principal_id:
            azure.store.delete(assignment["id"])
