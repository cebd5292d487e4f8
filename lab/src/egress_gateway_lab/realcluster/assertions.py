"""Workload identity assertions of the real cluster, checked as Azure checks them.

Azure fetches an issuer's public keys once and then decides alone: signature, issuer, audience and
time. Whether the pod still exists it cannot know, and neither does this.
"""

from __future__ import annotations

import time
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from egress_gateway_lab.pki import signed_claims

AUDIENCE: Final = "api://AzureADTokenExchange"


def verify(assertion: str, *, key: ec.EllipticCurvePublicKey, issuer: str) -> tuple[str, str]:
    """(issuer, subject) of a ServiceAccount token signed by ``key``. Raises ``PermissionError``
    saying what is wrong with it."""
    claims = signed_claims(assertion, key)
    if claims.get("iss") != issuer:
        raise PermissionError("the assertion is of another issuer")
    audiences = claims.get("aud") or []
    if AUDIENCE not in audiences:
        raise PermissionError(f"the assertion's audience {audiences} is not {AUDIENCE}")
    if not claims.get("nbf", 0) <= time.time() + 5 < claims.get("exp", 0) + 5:
        raise PermissionError("the assertion has expired")
    return claims["iss"], claims["sub"]
