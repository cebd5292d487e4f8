"""Asks the API server whose token it is, and whether that account may read metrics.

https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/ and
https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access.
"""

from __future__ import annotations

from typing import Any

import msgspec

from egress_gateway.kube.client import Client


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    uid: str = ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}


class _TokenStatus(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()


class _TokenReview(msgspec.Struct, frozen=True):
    status: _TokenStatus = _TokenStatus()


class _AccessStatus(msgspec.Struct, frozen=True):
    allowed: bool = False


class _AccessReview(msgspec.Struct, frozen=True):
    status: _AccessStatus = _AccessStatus()


class MetricsReader:
    """Needs the right to create TokenReviews and SubjectAccessReviews."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def __call__(self, token: str) -> bool | None:
        """Whether the bearer may get /metrics; None: the token is not valid. Raises
        ``ApiError``."""
        made = await self._post(
            "/apis/authentication.k8s.io/v1/tokenreviews", "TokenReview", {"token": token}
        )
        who = msgspec.json.decode(made, type=_TokenReview).status
        if not who.authenticated:
            return None
        spec = {
            "user": who.user.username,
            "uid": who.user.uid,
            "groups": who.user.groups,
            "extra": who.user.extra,
            "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
        }
        made = await self._post(
            "/apis/authorization.k8s.io/v1/subjectaccessreviews", "SubjectAccessReview", spec
        )
        return msgspec.json.decode(made, type=_AccessReview).status.allowed

    async def _post(self, path: str, kind: str, spec: dict[str, Any]) -> bytes:
        group = path.split("/")[2]
        body = {"apiVersion": f"{group}/v1", "kind": kind, "spec": spec}
        return await self._client.request("POST", path, body=body)
