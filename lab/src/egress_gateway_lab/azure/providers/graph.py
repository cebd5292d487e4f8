"""The few Microsoft Graph look-ups that ``az role assignment create`` makes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.identity.directory import Directory, Principal


def answer(
    directory: Directory, method: str, path: str, query: Mapping[str, str], body: Any
) -> dict[str, Any]:
    """The body for a Graph request below ``/v1.0``; raises ``ArmError``."""
    words = [w for w in path.lower().split("/") if w][1:]
    if words == ["serviceprincipals"]:
        return {"value": _filtered(directory, query.get("$filter", ""))}
    if words == ["directoryobjects", "getbyids"] and method == "POST":
        wanted = body.get("ids") if isinstance(body, dict) else None
        wanted = wanted if isinstance(wanted, list) else []
        found = (directory.find(i) for i in wanted if isinstance(i, str))
        return {"value": [_shown(p) for p in found if p]}
    if len(words) == 2 and words[0] in ("serviceprincipals", "directoryobjects"):
        principal = directory.find(words[1])
        if principal:
            return _shown(principal)
    if words == ["users"]:
        return {"value": []}
    raise ArmError(
        404,
        "Request_ResourceNotFound",
        f"Resource '{path}' does not exist or one of its queried reference-property objects are "
        "not present.",
    )


def _filtered(directory: Directory, wanted: str) -> list[dict[str, Any]]:
    if not wanted:
        return [_shown(p) for p in directory.principals()]
    quoted = re.search(r"'([^']+)'", wanted)
    if quoted is None:
        return []
    text = quoted[1].lower()
    if "displayname" in wanted.lower():
        return [_shown(p) for p in directory.principals() if p.display_name.lower() == text]
    # Service principal names are client ids (and URIs): an object id does not match here, and
    # the client asks getByIds next.
    return [_shown(p) for p in directory.principals() if p.client_id == text]


def _shown(principal: Principal) -> dict[str, Any]:
    return {
        "@odata.type": "#microsoft.graph.servicePrincipal",
        "id": principal.object_id,
        "appId": principal.client_id,
        "displayName": principal.display_name,
        "servicePrincipalNames": [principal.client_id],
        "servicePrincipalType": "ManagedIdentity" if principal.managed else "Application",
        "accountEnabled": True,
    }
