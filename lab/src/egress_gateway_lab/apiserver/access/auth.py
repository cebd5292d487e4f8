"""Who is asking: bearer tokens and client certificates.

ServiceAccount tokens are JWTs signed by the server's own key (ES256), bound to an audience, to the
account's UID, and where asked to a pod and its node. A token ends with what it is bound to, not
only with its time: deleting the pod revokes it.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from egress_gateway_lab.apiserver.objects import Object
from egress_gateway_lab.apiserver.requests import ADMIN, ANONYMOUS, User
from egress_gateway_lab.apiserver.storage.store import Store
from egress_gateway_lab.pki import signed_claims

WORKLOAD_IDENTITY_AUDIENCE = "api://AzureADTokenExchange"
_AUTHENTICATED = "system:authenticated"


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class TokenError(Exception):
    """The token is not valid; the text says why."""


class Signer:
    """ES256 over compact JWTs (RFC 7515, 7518 section 3.4)."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        public = self._key.public_key()
        der = public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.key_id = _encode(sha256(der).digest())
        self._public = public

    def sign(self, claims: Object) -> str:
        header = {"alg": "ES256", "kid": self.key_id}
        signed = ".".join(_encode(json.dumps(p).encode()) for p in (header, claims))
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def claims(self, token: str) -> Object:
        """The claims of a token that this key signed; raises ``TokenError``."""
        try:
            return signed_claims(token, self._public)
        except PermissionError as error:
            raise TokenError(str(error)) from error

    def jwks(self) -> Object:
        """The public key as RFC 7517 has it, for whoever federates with the cluster."""
        numbers = self._public.public_numbers()
        return {
            "keys": [
                {
                    "use": "sig",
                    "kty": "EC",
                    "kid": self.key_id,
                    "alg": "ES256",
                    "crv": "P-256",
                    "x": _encode(numbers.x.to_bytes(32, "big")),
                    "y": _encode(numbers.y.to_bytes(32, "big")),
                }
            ]
        }


class Authenticator:
    """Turns credentials into a ``User``."""

    def __init__(self, store: Store, issuer: str) -> None:
        self._store = store
        self.issuer = issuer
        self.signer = Signer()
        self._static: list[tuple[str, User]] = []
        self.admin_token = secrets.token_urlsafe(32)
        self.add_token(self.admin_token, ADMIN)

    def add_token(self, token: str, user: User) -> None:
        """A static token, for the identities that no ServiceAccount stands for."""
        self._static.append((token, user))

    def mint(
        self,
        account: Object,
        *,
        audiences: Sequence[str] = (),
        seconds: int = 3600,
        pod: Object | None = None,
        node: Object | None = None,
    ) -> tuple[str, float]:
        """A token of a ServiceAccount and when it ends (seconds since the epoch)."""
        meta = account["metadata"]
        issued = int(time.time())
        claims: Object = {
            "aud": list(audiences) or [self.issuer],
            "exp": issued + seconds,
            "iat": issued,
            "nbf": issued,
            "iss": self.issuer,
            "jti": secrets.token_hex(16),
            "sub": f"system:serviceaccount:{meta['namespace']}:{meta['name']}",
            "kubernetes.io": {
                "namespace": meta["namespace"],
                "serviceaccount": {"name": meta["name"], "uid": meta["uid"]},
                **{
                    name: {"name": bound["metadata"]["name"], "uid": bound["metadata"]["uid"]}
                    for name, bound in (("pod", pod), ("node", node))
                    if bound is not None
                },
            },
        }
        return self.signer.sign(claims), float(claims["exp"])

    def bearer(self, token: str) -> User:
        """Raises ``TokenError``."""
        for known, user in self._static:
            if hmac.compare_digest(known.encode(), token.encode()):
                return user
        return self.review(token, (self.issuer,))

    def review(self, token: str, audiences: Sequence[str]) -> User:
        """The user of a ServiceAccount token for one of the audiences."""
        claims = self._checked(token, audiences)
        return self._user(claims)

    def verify(self, assertion: str) -> tuple[str, str]:
        """``protocols.TokenVerifier``: workload identity federation."""
        try:
            claims = self._checked(assertion, (WORKLOAD_IDENTITY_AUDIENCE,))
        except TokenError as error:
            raise PermissionError(str(error)) from error
        return claims["iss"], claims["sub"]

    def _checked(self, token: str, audiences: Sequence[str]) -> Object:
        claims = self.signer.claims(token)
        if claims.get("iss") != self.issuer:
            raise TokenError("the token is of another issuer")
        if not set(claims["aud"]) & set(audiences):
            raise TokenError(f"the token's audience {claims['aud']} is not {list(audiences)}")
        if not claims["nbf"] <= time.time() < claims["exp"]:
            raise TokenError("the token has expired")
        self._check_bound(claims["kubernetes.io"])
        return claims

    def _check_bound(self, bound: Object) -> None:
        namespace = bound["namespace"]
        wanted = [("serviceaccounts", namespace, bound["serviceaccount"])]
        if "pod" in bound:
            wanted.append(("pods", namespace, bound["pod"]))
        if "node" in bound and "pod" not in bound:
            wanted.append(("nodes", "", bound["node"]))
        for storage, inside, ref in wanted:
            found = self._store.get(storage, (inside, ref["name"]))
            if found is None or found["metadata"]["uid"] != ref["uid"]:
                raise TokenError(f"the token's {storage[:-1]} {ref['name']} is gone")

    def _user(self, claims: Object) -> User:
        bound = claims["kubernetes.io"]
        extra: dict[str, tuple[str, ...]] = {
            "authentication.kubernetes.io/credential-id": (f"JTI={claims['jti']}",)
        }
        for kind in ("pod", "node"):
            if kind in bound:
                prefix = f"authentication.kubernetes.io/{kind}"
                extra[f"{prefix}-name"] = (bound[kind]["name"],)
                extra[f"{prefix}-uid"] = (bound[kind]["uid"],)
        return User(
            name=claims["sub"],
            uid=bound["serviceaccount"]["uid"],
            groups=(
                "system:serviceaccounts",
                f"system:serviceaccounts:{bound['namespace']}",
                _AUTHENTICATED,
            ),
            extra=extra,
        )


def certificate_user(peer: dict[str, Any] | None) -> User:
    """The user of a TLS client certificate: CN is the name, O are the groups."""
    names: list[tuple[str, str]] = [
        (key, value) for part in (peer or {}).get("subject", ()) for key, value in part
    ]
    name = next((v for k, v in names if k == "commonName"), "")
    if not name:
        return ANONYMOUS
    groups = tuple(v for k, v in names if k == "organizationName")
    return User(name=name, groups=(*groups, _AUTHENTICATED))
