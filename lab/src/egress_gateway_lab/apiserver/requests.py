"""A request to the API as the handlers see it, whichever way it came.

Paths follow https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-uris.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who asks. ``extra`` carries the claims of a bound ServiceAccount token."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


ANONYMOUS = User(name="system:anonymous", groups=("system:unauthenticated",))
ADMIN = User(name="kubernetes-admin", groups=("system:masters", "system:authenticated"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a path names. An empty ``plural`` is a path that is no resource."""

    path: str
    group: str = ""
    version: str = ""
    plural: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def namespace_filter(self) -> str:
        """Where a list looks: a namespace lies in none, whatever authorization thinks."""
        return "" if (self.group, self.plural) == ("", "namespaces") else self.namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    method: str
    target: Target
    query: Mapping[str, str]
    body: Any = None
    content_type: str = "application/json"
    user: User = ANONYMOUS
    agent: str = ""
    """The ``User-Agent``: the field manager of who names none."""
    form: str = ""
    """As which kind of ``meta.k8s.io/v1`` the answer is wanted: ``Table``,
    ``PartialObjectMetadata``, or (empty) as it is."""

    @property
    def dry_run(self) -> bool:
        return "All" in self.query.get("dryRun", "")

    @property
    def manager(self) -> str:
        return self.query.get("fieldManager") or self.agent.partition("/")[0] or "unknown"

    @property
    def watching(self) -> bool:
        return self.method == "GET" and flag(self.query, "watch")

    @property
    def verb(self) -> str:
        """The verb that authorization knows."""
        single = bool(self.target.name)
        match self.method:
            case "GET" | "HEAD":
                if not self.target.plural:
                    return "get"
                if self.watching:
                    return "watch"
                return "get" if single else "list"
            case "POST":
                return "create"
            case "PUT":
                return "update"
            case "PATCH":
                return "patch"
            case "DELETE":
                return "delete" if single else "deletecollection"
        return self.method.lower()


def flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "") in ("1", "true", "True")


def parse_path(path: str) -> Target:
    """Splits ``/api/v1/…`` and ``/apis/GROUP/VERSION/…``."""
    parts = [p for p in path.split("/") if p]
    if parts[:2] == ["api", "v1"]:
        group, version, rest = "", "v1", parts[2:]
    elif len(parts) >= 3 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return Target(path=path)
    namespace = ""
    # /namespaces/NAME[/status] is the namespace itself, anything longer is inside it.
    if len(rest) >= 3 and rest[0] == "namespaces" and rest[2] != "status":
        namespace, rest = rest[1], rest[2:]
    if not rest:
        return Target(path=path)
    padded = [*rest, "", ""]
    plural, name, subresource = padded[0], padded[1], "/".join(rest[2:])
    if (group, plural) == ("", "namespaces"):
        namespace = name
    return Target(
        path=path,
        group=group,
        version=version,
        plural=plural,
        namespace=namespace,
        name=name,
        subresource=subresource,
    )


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: Any
    content_type: str = "application/json"
    warnings: tuple[str, ...] = field(default=())


def system_request(
    method: str, *, query: Mapping[str, str] | None = None, manager: str = "kube-controller-manager"
) -> Request:
    """A request of the control plane itself, for controllers that call ``Crud`` directly."""
    return Request(
        method=method,
        target=Target(path=""),
        query={"fieldManager": manager, **(query or {})},
        user=ADMIN,
    )


def user_info(user: User) -> dict[str, Any]:
    """``authentication.k8s.io/v1`` UserInfo."""
    found: dict[str, Any] = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        found["uid"] = user.uid
    if user.extra:
        found["extra"] = {k: list(v) for k, v in user.extra.items()}
    return found
