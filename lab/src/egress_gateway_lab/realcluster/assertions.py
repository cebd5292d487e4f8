"""Workload identity assertions of the real cluster, checked as Azure checks them.

Azure fetches an issuer's public keys once and then decides alone: signature, issuer, audience and
time. Whether the pod still exists it cannot know, and neither does this.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

AUDIENCE: Final = "api://AzureADTokenExchange"


def verify(assertion: str, *, key: ec.EllipticCurvePublicKey, issuer: str) -> tuple[str, str]:
    """(issuer, subject) of a ServiceAccount token signed by ``key`` (ES256, RFC 7518 section
    3.4). Raises ``PermissionError`` saying what is wrong with it."""
    try:
        signed, _, signature = assertion.rpartition(".")
        raw = _decode(signature)
        pair = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        key.verify(encode_dss_signature(*pair), signed.encode(), ec.ECDSA(hashes.SHA256()))
        claims: dict[str, Any] = json.loads(_decode(signed.partition(".")[2]))
    except (InvalidSignature, ValueError, TypeError) as error:
        raise PermissionError("the assertion's signature is not the cluster's") from error
    if claims.get("iss") != issuer:
        raise PermissionError("the assertion is of another issuer")
    audiences = claims.get("aud") or []
    if AUDIENCE not in audiences:
        raise PermissionError(f"the assertion's audience {audiences} is not {AUDIENCE}")
    if not claims.get("nbf", 0) <= time.time() + 5 < claims.get("exp", 0) + 5:
        raise PermissionError("the assertion has expired")
    return claims["iss"], claims["sub"]


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
