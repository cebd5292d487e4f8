"""Endpoints that need no token: cloud metadata, OpenID configuration, tokens.

They are what ``az cloud register`` and ``az login`` ask for first, and what azure-identity's
credentials post to, in the Entra form (``/{tenant}/oauth2/v2.0/token``) and in the ADFS form
(``/adfs/oauth2/token``) that ``az`` uses with clouds of one's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.azure.identity.directory import (
    LIFETIME,
    Directory,
    Principal,
    sign_in_error,
)

TOKEN_PATH = re.compile(r"^/.+/oauth2(/v2\.0)?/token$", re.IGNORECASE)
_DISCOVERY = "/.well-known/openid-configuration"


def discover(base: str, path: str, query: Mapping[str, str], tenant: str) -> Any:
    """The body for a GET of a discovery document, or None if the path is not one."""
    lower = path.lower().rstrip("/")
    if lower == "/metadata/endpoints":
        return endpoints(base, query.get("api-version", ""))
    if lower.endswith(_DISCOVERY):
        return openid_configuration(base, path.rstrip("/")[: -len(_DISCOVERY)])
    if lower.endswith("/discovery/instance"):
        url = f"{base}/{tenant}/v2.0{_DISCOVERY}"
        return {"tenant_discovery_endpoint": url, "api-version": "1.1", "metadata": []}
    if lower.endswith("/discovery/keys"):
        return {"keys": []}
    return None


def endpoints(base: str, api_version: str) -> Any:
    """2019-05-01 answers an array, later versions an object."""
    if api_version and api_version < "2020":
        authentication: dict[str, Any] = {"loginEndpoint": base, "audiences": [base]}
        old = {"name": "lab", "resourceManager": base, "authentication": authentication}
        return [{**old, "suffixes": {}}]
    return {
        "name": "lab",
        "portal": base,
        "authentication": {
            "loginEndpoint": f"{base}/adfs",
            "audiences": [base, f"{base}/"],
            "tenant": "adfs",
            "identityProvider": "ADFS",
        },
        "graph": base,
        "graphAudience": base,
        "microsoftGraphResourceId": f"{base}/",
        "resourceManager": base,
        "gallery": base,
        "suffixes": {
            "storage": "storage.lab.invalid",
            "keyVaultDns": "vault.lab.invalid",
            "acrLoginServer": "registry.lab.invalid",
            "sqlServerHostname": "sql.lab.invalid",
        },
    }


def openid_configuration(base: str, authority: str) -> dict[str, Any]:
    """For the authority at path ``authority``, whose endpoints lie next to it."""
    version = "/v2.0" if authority.endswith("/v2.0") else ""
    root = f"{base}{authority.removesuffix('/v2.0')}"
    return {
        "issuer": f"{base}{authority}",
        "authorization_endpoint": f"{root}/oauth2{version}/authorize",
        "token_endpoint": f"{root}/oauth2{version}/token",
        "device_authorization_endpoint": f"{root}/oauth2{version}/devicecode",
        "jwks_uri": f"{root}/discovery/keys",
        "response_types_supported": ["code"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }


def token(directory: Directory, base: str, form: Mapping[str, str]) -> dict[str, Any]:
    """The token endpoint's answer; raises ``ArmError`` whose body ``refusal`` shapes."""
    if form.get("grant_type") != "client_credentials":
        raise sign_in_error(
            "unsupported_grant_type",
            70003,
            f"The app requested an unsupported grant type '{form.get('grant_type')}'. The lab "
            "knows service principals only: az login --service-principal -u ANY -p ANY "
            "--tenant adfs.",
        )
    client_id = form.get("client_id", "")
    if form.get("client_assertion"):
        principal = directory.sign_in_with_assertion(client_id, form["client_assertion"])
    else:
        principal = directory.sign_in_with_secret(client_id, form.get("client_secret", ""))
    return token_body(directory, principal, audience(form, base))


def audience(form: Mapping[str, str], base: str) -> str:
    """What the token is for: v1 names a resource, v2 a scope that ends with ``/.default``."""
    if form.get("resource"):
        return form["resource"]
    scopes = form.get("scope", "").split()
    named = next((s for s in scopes if s.endswith("/.default")), None)
    return named.removesuffix("/.default") if named else base


def token_body(directory: Directory, principal: Principal, resource: str) -> dict[str, Any]:
    """A token as the v1 and v2 endpoints and the instance metadata service answer it."""
    now = int(directory.now())
    return {
        "token_type": "Bearer",
        "expires_in": LIFETIME,
        "ext_expires_in": LIFETIME,
        "expires_on": str(now + LIFETIME),
        "not_before": str(now - 300),
        "resource": resource,
        "access_token": directory.token(principal, resource),
    }


def refusal(error: ArmError) -> dict[str, Any]:
    """An error of the token endpoint in OAuth's shape."""
    number = re.match(r"AADSTS(\d+)", error.message)
    return {
        "error": error.code,
        "error_description": error.message,
        "error_codes": [int(number[1])] if number else [],
    }
