"""Questions that are asked by creating an object: who am I, may I, is this token good."""

from __future__ import annotations

from typing import Protocol

from egress_gateway_lab.apiserver import errors
from egress_gateway_lab.apiserver.access.auth import Authenticator, TokenError
from egress_gateway_lab.apiserver.access.rbac import Rbac
from egress_gateway_lab.apiserver.objects import Object
from egress_gateway_lab.apiserver.requests import Request, User, parse_path, user_info
from egress_gateway_lab.apiserver.storage.registry import ResourceType


class Server(Protocol):
    """Of the API server: who somebody is, and what they may."""

    rbac: Rbac
    authenticator: Authenticator


def handle(api: Server, rt: ResourceType, request: Request) -> Object:
    body = request.body if isinstance(request.body, dict) else {}
    spec: Object = body.get("spec") or {}
    match rt.kind:
        case "SelfSubjectAccessReview":
            status = _access(api, request.user, spec)
        case "SubjectAccessReview":
            user = User(name=spec.get("user", ""), groups=tuple(spec.get("groups") or ()))
            status = _access(api, user, spec)
        case "SelfSubjectRulesReview":
            status = _rules(api, request.user, spec)
        case "SelfSubjectReview":
            status = {"userInfo": user_info(request.user)}
        case "TokenReview":
            status = _token(api, spec)
        case _:
            raise errors.unsupported(rt.kind)
    return {
        "kind": rt.kind,
        "apiVersion": rt.api_version,
        "metadata": {"creationTimestamp": None},
        "spec": spec,
        "status": status,
    }


def _access(api: Server, user: User, spec: Object) -> Object:
    if (asked := spec.get("resourceAttributes")) is not None:
        allowed = api.rbac.allows(
            user,
            asked.get("verb", ""),
            group=asked.get("group", ""),
            resource=asked.get("resource", ""),
            subresource=asked.get("subresource", ""),
            name=asked.get("name", ""),
            namespace=asked.get("namespace", ""),
        )
    elif (path := spec.get("nonResourceAttributes")) is not None:
        probe = Request(
            method=path.get("verb", "get").upper(),
            target=parse_path(path.get("path", "/")),
            query={},
            user=user,
        )
        try:
            api.rbac.check(probe)
            allowed = True
        except errors.StatusError:
            allowed = False
    else:
        raise errors.bad_request("exactly one of nonResourceAttributes or resourceAttributes")
    return {"allowed": allowed}


def _rules(api: Server, user: User, spec: Object) -> Object:
    rules = list(api.rbac.rules(user, spec.get("namespace", "")))
    return {
        "resourceRules": [
            {
                "verbs": r.get("verbs", []),
                "apiGroups": r.get("apiGroups", []),
                "resources": r["resources"],
                "resourceNames": r.get("resourceNames", []),
            }
            for r in rules
            if r.get("resources")
        ],
        "nonResourceRules": [
            {"verbs": r.get("verbs", []), "nonResourceURLs": r["nonResourceURLs"]}
            for r in rules
            if r.get("nonResourceURLs")
        ],
        "incomplete": False,
    }


def _token(api: Server, spec: Object) -> Object:
    audiences = spec.get("audiences") or [api.authenticator.issuer]
    try:
        user = api.authenticator.review(spec.get("token", ""), audiences)
    except TokenError as error:
        return {"authenticated": False, "error": str(error), "user": {}}
    return {"authenticated": True, "user": user_info(user), "audiences": audiences}
