"""Who may do what: RBAC over the stored roles and bindings, and the built-in ones.

https://kubernetes.io/docs/reference/access-authn-authz/rbac/. Rules only add; what no rule allows
is refused in kube-apiserver's words, so that a component's message about a missing permission is
the one its users will see.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from egress_gateway_lab.apiserver import errors
from egress_gateway_lab.apiserver.objects import Object
from egress_gateway_lab.apiserver.requests import Request, User
from egress_gateway_lab.apiserver.storage.store import Store

_GROUP = "rbac.authorization.k8s.io"
_READ = ["get", "list", "watch"]


def _role(name: str, *rules: Object) -> Object:
    return {
        "apiVersion": f"{_GROUP}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
        "rules": list(rules),
    }


def _binding(role: str, *groups: str) -> Object:
    return {
        "apiVersion": f"{_GROUP}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": role, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
        "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": _GROUP, "kind": "Group", "name": g} for g in groups],
    }


def _resources(groups: list[str], resources: list[str], verbs: list[str]) -> Object:
    return {"apiGroups": groups, "resources": resources, "verbs": verbs}


_WORKLOADS = (
    _resources(
        [""],
        [
            "pods",
            "pods/log",
            "pods/status",
            "services",
            "configmaps",
            "events",
            "serviceaccounts",
            "endpoints",
        ],
        _READ,
    ),
    _resources(["apps"], ["*"], _READ),
    _resources(["policy", "networking.k8s.io"], ["*"], _READ),
)

DEFAULTS: tuple[Object, ...] = (
    _role(
        "cluster-admin",
        _resources(["*"], ["*"], ["*"]),
        {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ),
    _binding("cluster-admin", "system:masters"),
    _role(
        "system:discovery",
        {
            "nonResourceURLs": [
                "/api",
                "/api/*",
                "/apis",
                "/apis/*",
                "/healthz",
                "/livez",
                "/openapi",
                "/openapi/*",
                "/readyz",
                "/version",
                "/version/",
            ],
            "verbs": ["get"],
        },
    ),
    _binding("system:discovery", "system:authenticated"),
    _role(
        "system:public-info-viewer",
        {
            "nonResourceURLs": ["/healthz", "/livez", "/readyz", "/version", "/version/"],
            "verbs": ["get"],
        },
    ),
    _binding("system:public-info-viewer", "system:authenticated", "system:unauthenticated"),
    _role(
        "system:service-account-issuer-discovery",
        {
            "nonResourceURLs": ["/.well-known/openid-configuration", "/openid/v1/jwks"],
            "verbs": ["get"],
        },
    ),
    _binding("system:service-account-issuer-discovery", "system:serviceaccounts"),
    _role(
        "system:basic-user",
        _resources(
            ["authorization.k8s.io"],
            ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
            ["create"],
        ),
        _resources(["authentication.k8s.io"], ["selfsubjectreviews"], ["create"]),
    ),
    _binding("system:basic-user", "system:authenticated"),
    _role("view", *_WORKLOADS),
    _role(
        "system:node",
        _resources(
            [""], ["nodes", "nodes/status"], ["create", "get", "list", "watch", "update", "patch"]
        ),
        _resources([""], ["pods"], [*_READ, "create", "delete"]),
        _resources([""], ["pods/status"], ["update", "patch"]),
        _resources([""], ["configmaps", "secrets", "services"], _READ),
        _resources([""], ["serviceaccounts"], ["get"]),
        _resources([""], ["serviceaccounts/token"], ["create"]),
        _resources([""], ["events"], ["create", "update", "patch"]),
        _resources(
            ["coordination.k8s.io"], ["leases"], ["get", "create", "update", "patch", "delete"]
        ),
    ),
    _binding("system:node", "system:nodes"),
)
"""Roles and bindings that exist from the start. The real ``system:nodes`` is narrowed further by
the node authorizer; the kubelet emulation is in this process and is trusted with the role."""


class Rbac:
    def __init__(self, store: Store) -> None:
        self._store = store

    def check(self, request: Request) -> None:
        """Raises 403 (also for those who did not say who they are: they are anonymous)."""
        target, user = request.target, request.user
        if not target.plural:
            if not self._allows_path(user, request.verb, target.path):
                raise errors.StatusError(
                    403,
                    "Forbidden",
                    f'forbidden: User "{user.name}" cannot {request.verb} path "{target.path}"',
                )
            return
        if self.allows(
            user,
            request.verb,
            group=target.group,
            resource=target.plural,
            subresource=target.subresource,
            name=target.name,
            namespace=target.namespace,
        ):
            return
        shown = "/".join(p for p in (target.plural, target.subresource) if p)
        where = (
            f'in the namespace "{target.namespace}"' if target.namespace else "at the cluster scope"
        )
        raise errors.forbidden(
            target.plural,
            target.group,
            target.name,
            f'User "{user.name}" cannot {request.verb} resource "{shown}" in API group '
            f'"{target.group}" {where}',
        )

    def allows(
        self,
        user: User,
        verb: str,
        *,
        group: str,
        resource: str,
        subresource: str = "",
        name: str = "",
        namespace: str = "",
    ) -> bool:
        if "system:masters" in user.groups:
            return True
        wanted = f"{resource}/{subresource}" if subresource else resource
        return any(
            _matches(rule, verb, group, wanted, subresource, name)
            for rule in self.rules(user, namespace)
        )

    def rules(self, user: User, namespace: str) -> Iterator[Object]:
        """All rules that hold for a user in a namespace (empty: cluster-wide only)."""
        for binding in self._store.list(f"clusterrolebindings.{_GROUP}"):
            if _bound(binding, user, ""):
                yield from self.role_rules(binding["roleRef"], "")
        if namespace:
            for binding in self._store.list(f"rolebindings.{_GROUP}", namespace):
                if _bound(binding, user, namespace):
                    yield from self.role_rules(binding["roleRef"], namespace)

    def role_rules(self, role_ref: Object, namespace: str) -> list[Object]:
        name = role_ref.get("name", "")
        if role_ref.get("kind") == "ClusterRole":
            role = self._store.get(f"clusterroles.{_GROUP}", ("", name))
        else:
            role = self._store.get(f"roles.{_GROUP}", (namespace, name))
        return (role or {}).get("rules") or []

    def covers(self, user: User, rules: list[Object], namespace: str) -> list[Object]:
        """Those of the rules that the user does not hold."""
        if "system:masters" in user.groups:
            return []
        held = list(self.rules(user, namespace))
        return [rule for rule in rules if not _covered(rule, held)]

    def _allows_path(self, user: User, verb: str, path: str) -> bool:
        if "system:masters" in user.groups:
            return True
        return any(
            _has(rule.get("verbs"), verb)
            and any(_path_matches(p, path) for p in rule.get("nonResourceURLs") or [])
            for rule in self.rules(user, "")
        )


def _path_matches(pattern: str, path: str) -> bool:
    return pattern == path or (pattern.endswith("*") and path.startswith(pattern[:-1]))


def _has(values: Any, wanted: str) -> bool:
    return bool(values) and ("*" in values or wanted in values)


def _matches(
    rule: Object, verb: str, group: str, resource: str, subresource: str, name: str
) -> bool:
    resources = rule.get("resources") or []
    named = rule.get("resourceNames")
    return (
        _has(rule.get("verbs"), verb)
        and _has(rule.get("apiGroups"), group)
        and (_has(resources, resource) or (bool(subresource) and f"*/{subresource}" in resources))
        and (not named or name in named)
    )


def _bound(binding: Object, user: User, namespace: str) -> bool:
    return any(_is(subject, user, namespace) for subject in binding.get("subjects") or [])


def _is(subject: Object, user: User, namespace: str) -> bool:
    match subject.get("kind"):
        case "User":
            return bool(subject.get("name") == user.name)
        case "Group":
            return subject.get("name") in user.groups
        case "ServiceAccount":
            inside = subject.get("namespace") or namespace
            return user.name == f"system:serviceaccount:{inside}:{subject.get('name')}"
    return False


def _covered(rule: Object, held: list[Object]) -> bool:
    """Whether every single permission of a rule is held."""
    if rule.get("nonResourceURLs"):
        return all(
            any(
                _has(h.get("verbs"), verb)
                and any(_path_matches(p, url) for p in h.get("nonResourceURLs") or [])
                for h in held
            )
            for url in rule["nonResourceURLs"]
            for verb in rule.get("verbs") or []
        )
    return all(
        any(_matches(h, verb, group, resource, resource.partition("/")[2], name) for h in held)
        for verb in rule.get("verbs") or []
        for group in rule.get("apiGroups") or []
        for resource in rule.get("resources") or []
        for name in rule.get("resourceNames") or [""]
    )
