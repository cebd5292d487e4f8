"""The tenant: principals, how they sign in, and the tokens that say who calls.

People are told to bring any service principal: a client id that nobody knows signs in with any
secret, becomes known by it and gets Owner of the subscription (the lab has no passwords to
protect). Managed identities are different: they have no secret, and sign in either through the
instance metadata service or with a federated token that a verifier has checked.
Tokens are JSON Web Tokens signed with a key that lives as long as the emulator.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from egress_gateway_lab.azure.arm.errors import ArmError
from egress_gateway_lab.protocols import TokenVerifier

LIFETIME = 86399
"""Seconds that a token is valid."""

_SPACE = uuid.UUID("6f5c8a0e-35d0-4d0c-9d0d-1f2f6a3d8f11")
"""Object ids of principals that bring their own client id are derived in this namespace."""


Federation = tuple[str | None, str]
"""(issuer or any, subject) whose tokens sign someone in."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Someone who can hold roles. ``client_id`` is also called application id."""

    client_id: str
    object_id: str
    display_name: str
    managed: bool = False
    """A managed identity: has no secret."""


@dataclass(slots=True)
class Directory:
    """All principals of the tenant and the federated credentials of some."""

    tenant: str
    now: Callable[[], float]
    verifier: TokenVerifier | None = None
    welcome: Callable[[Principal], None] = lambda principal: None
    """Called when a principal becomes known by signing in."""
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _by_client: dict[str, Principal] = field(default_factory=dict)
    _federated: dict[str, set[Federation]] = field(default_factory=dict)

    def add_managed_identity(self, name: str) -> Principal:
        """A new identity without a secret, as a cluster or machine has."""
        principal = Principal(str(uuid.uuid4()), str(uuid.uuid4()), name, managed=True)
        self._by_client[principal.client_id] = principal
        return principal

    def remove(self, principal: Principal) -> None:
        self._by_client.pop(principal.client_id.lower(), None)
        self._federated.pop(principal.client_id.lower(), None)

    def federate(self, client_id: str, subject: str, issuer: str | None = None) -> None:
        """Lets tokens of ``subject`` sign in as ``client_id``. Without an issuer any issuer that
        the verifier vouches for will do."""
        self._federated.setdefault(client_id.lower(), set()).add((issuer, subject))

    def find(self, any_id: str) -> Principal | None:
        """By client id or object id."""
        wanted = any_id.lower()
        by_client = self._by_client.get(wanted)
        if by_client is not None:
            return by_client
        return next((p for p in self._by_client.values() if p.object_id == wanted), None)

    def principals(self) -> list[Principal]:
        return list(self._by_client.values())

    def content(self) -> tuple[bytes, list[Principal], Mapping[str, set[Federation]]]:
        """(key of the tokens, principals, federated credentials by client id)."""
        return self._key, list(self._by_client.values()), self._federated

    def restore(
        self,
        *,
        key: bytes,
        principals: Iterable[Principal],
        federated: Mapping[str, set[Federation]],
    ) -> None:
        """Puts back what ``content`` gave: tokens that were issued then hold on."""
        self._key = key
        self._by_client = {p.client_id: p for p in principals}
        self._federated = {client: set(pairs) for client, pairs in federated.items()}

    def sign_in_with_secret(self, client_id: str, secret: str) -> Principal:
        """Raises ``ArmError`` in the token endpoint's words."""
        if not client_id or not secret:
            raise sign_in_error(
                "invalid_request", 900144, "The request body must contain client_id and a secret."
            )
        known = self._by_client.get(client_id.lower())
        if known is not None:
            if known.managed:
                raise sign_in_error(
                    "invalid_client",
                    7000215,
                    f"Invalid client secret provided for app '{client_id}': a managed identity "
                    "has no secret.",
                )
            return known
        principal = Principal(
            client_id.lower(), str(uuid.uuid5(_SPACE, client_id.lower())), client_id
        )
        self._by_client[principal.client_id] = principal
        self.welcome(principal)
        return principal

    def sign_in_with_assertion(self, client_id: str, assertion: str) -> Principal:
        """A workload identity: the assertion is a token of the cluster."""
        principal = self._by_client.get(client_id.lower())
        if principal is None:
            raise sign_in_error(
                "unauthorized_client",
                700016,
                f"Application with identifier '{client_id}' was not found in the directory "
                f"'{self.tenant}'.",
            )
        if self.verifier is None:
            raise sign_in_error("invalid_client", 700027, "No issuer of assertions is trusted.")
        try:
            issuer, subject = self.verifier.verify(assertion)
        except PermissionError as error:
            raise sign_in_error("invalid_client", 700027, str(error)) from error
        trusted = self._federated.get(client_id.lower(), set())
        if (issuer, subject) not in trusted and (None, subject) not in trusted:
            raise sign_in_error(
                "invalid_client",
                700213,
                "No matching federated identity record found for presented assertion subject "
                f"'{subject}'.",
            )
        return principal

    def token(self, principal: Principal, audience: str) -> str:
        """A signed bearer token."""
        now = int(self.now())
        claims = {
            "aud": audience,
            "iss": f"https://sts.lab.invalid/{self.tenant}/",
            "tid": self.tenant,
            "oid": principal.object_id,
            "sub": principal.object_id,
            "appid": principal.client_id,
            "azp": principal.client_id,
            "idtyp": "app",
            "iat": now,
            "nbf": now - 300,
            "exp": now + LIFETIME,
            "uti": secrets.token_urlsafe(12),
        }
        head = _encode(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
        signed = head + b"." + _encode(json.dumps(claims).encode())
        return (signed + b"." + _encode(self._sign(signed))).decode()

    def identify(self, token: str) -> tuple[Principal, str]:
        """(who, audience) of a bearer token of ours; raises ``PermissionError``."""
        signed, _, signature = token.rpartition(".")
        try:
            given = _decode(signature)
            claims: dict[str, Any] = json.loads(_decode(signed.partition(".")[2]))
        except (ValueError, binascii.Error) as error:
            raise PermissionError("The access token is not a JSON Web Token.") from error
        if not hmac.compare_digest(given, self._sign(signed.encode())):
            raise PermissionError("The access token's signature is invalid.")
        if claims["exp"] <= self.now():
            raise PermissionError("The access token has expired.")
        principal = self._by_client.get(claims["appid"])
        if principal is None:
            raise PermissionError("The access token's principal no longer exists.")
        return principal, claims["aud"]

    def _sign(self, signed: bytes) -> bytes:
        return hmac.digest(self._key, signed, hashlib.sha256)


def sign_in_error(error: str, number: int, message: str) -> ArmError:
    """An error of the token endpoint, whose body has a shape of its own."""
    status = 400 if error in ("invalid_request", "unauthorized_client") else 401
    return ArmError(status, error, f"AADSTS{number}: {message}", target="token")


def _encode(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
