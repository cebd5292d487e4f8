"""Asks the API server whose token it is, and whether that account may read metrics.

https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/ and
https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from egress_gateway.kube import wire

if TYPE_CHECKING:
    from egress_gateway.kube.client import Client

T = TypeVar("T")


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


async def allowed(client: Client, spec: dict[str, Any], kind: str = "SubjectAccessReview") -> bool:
    """Whether what a SubjectAccessReview or SelfSubjectAccessReview asks for is allowed. Raises
    ``ApiError``."""
    path = f"/apis/authorization.k8s.io/v1/{kind.lower()}s"
    return (await _posted(client, _AccessReview, path, kind, spec)).status.allowed


async def _posted(client: Client, made: type[T], path: str, kind: str, spec: dict[str, Any]) -> T:
    group = path.split("/")[2]
    body = {"apiVersion": f"{group}/v1", "kind": kind, "spec": spec}
    return wire.decode_answer(made, await client.request("POST", path, body=body), kind)


class MetricsReader:
    """Needs the right to create TokenReviews and SubjectAccessReviews."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def __call__(self, token: str) -> bool | None:
        """Whether the bearer may get /metrics; None: the token is not valid. Raises
        ``ApiError``."""
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        asked = {"token": token}
        who = (await _posted(self._client, _TokenReview, path, "TokenReview", asked)).status
        if not who.authenticated:
            return None
        spec = {
            "user": who.user.username,
            "uid": who.user.uid,
            "groups": who.user.groups,
            "extra": who.user.extra,
            "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
        }
        return await allowed(self._client, spec)
