"""Assertions of the real cluster, as Azure judges them: signature, issuer, audience, time."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from egress_gateway_lab.realcluster import assertions

ISSUER = "https://kubernetes.default.svc.cluster.local"
KEY = ec.generate_private_key(ec.SECP256R1())


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(key: ec.EllipticCurvePrivateKey = KEY, **changed: Any) -> str:
    claims = {
        "iss": ISSUER,
        "sub": "system:serviceaccount:kube-egress-gateway-system:egress-gateway-controller",
        "aud": [assertions.AUDIENCE],
        "nbf": time.time() - 10,
        "exp": time.time() + 600,
        **changed,
    }
    head = encoded(json.dumps({"alg": "ES256"}).encode())
    signed = f"{head}.{encoded(json.dumps(claims).encode())}"
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def test_a_good_one_says_who_it_is() -> None:
    issuer, subject = assertions.verify(token(), key=KEY.public_key(), issuer=ISSUER)
    assert issuer == ISSUER
    assert subject.endswith("egress-gateway-controller")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (token(ec.generate_private_key(ec.SECP256R1())), "signature"),
        (token(iss="https://elsewhere"), "issuer"),
        (token(aud=["https://kubernetes.default.svc"]), "audience"),
        (token(exp=time.time() - 60), "expired"),
        (token(nbf=time.time() + 600), "expired"),
        ("not.a.token", "signature"),
        ("", "signature"),
    ],
)
def test_a_bad_one_is_refused_with_the_reason(bad: str, why: str) -> None:
    with pytest.raises(PermissionError, match=why):
        assertions.verify(bad, key=KEY.public_key(), issuer=ISSUER)
