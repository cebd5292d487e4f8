"""The API without a network: a request in, an answer out.

Both ways into the server (HTTPS and the in-process transport) end here, so both have the same
authentication result, authorization, semantics and messages.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from ipaddress import IPv4Network
from typing import Any

from egress_gateway_lab.apiserver import discovery, errors, subresources
from egress_gateway_lab.apiserver.access.auth import Authenticator
from egress_gateway_lab.apiserver.access.rbac import DEFAULTS, Rbac
from egress_gateway_lab.apiserver.admission import reviews
from egress_gateway_lab.apiserver.admission.chain import Admission
from egress_gateway_lab.apiserver.admission.policies import Policies
from egress_gateway_lab.apiserver.crud import Crud
from egress_gateway_lab.apiserver.objects import Key, Object
from egress_gateway_lab.apiserver.requests import Reply, Request, Target, system_request
from egress_gateway_lab.apiserver.storage import options
from egress_gateway_lab.apiserver.storage.registry import Registry, ResourceType
from egress_gateway_lab.apiserver.storage.selectors import predicate
from egress_gateway_lab.apiserver.storage.store import Store
from egress_gateway_lab.apiserver.storage.watch import WatchEvent, open_watch
from egress_gateway_lab.apiserver.tables import METADATA, TABLE, metadata_alone, table
from egress_gateway_lab.apiserver.writes import crds

SERVER_VERSION = "v1.36.3"
"""The Kubernetes version whose behaviour this server imitates, and calls itself by unless told
otherwise (``Api.version``)."""

_SNAPSHOTS = 32
_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


class Api:
    """All of the API except the streams (logs, exec, attach), which need a runtime."""

    def __init__(
        self, *, issuer: str, services: IPv4Network, address: str, ca_pem: str, history: int = 2000
    ) -> None:
        self.store = Store(history=history)
        self.registry = Registry()
        self.rbac = Rbac(self.store)
        self.authenticator = Authenticator(self.store, issuer)
        policies = Policies(self.store, self.registry)
        self.crud = Crud(self.store, Admission(self.store, self.rbac, services, policies))
        self.ca_pem = ca_pem
        self._address = address
        self.version = SERVER_VERSION
        self.recorded: dict[tuple[Any, ...], Key] = {}
        """The control plane's own Events, by object, reason and message."""
        self._snapshots: dict[str, list[Object]] = {}
        self.store.listen(lambda event: crds.follow(self.registry, event))
        self._bootstrap()

    def _bootstrap(self) -> None:
        for obj in DEFAULTS:
            self.write("POST", obj)
        for name in _NAMESPACES:
            self.write(
                "POST", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            )

    def write(self, method: str, obj: Object) -> Object:
        """Creates an object as the system itself."""
        rt = self.registry.by_kind(obj["apiVersion"], obj["kind"])
        assert rt is not None
        request = system_request(method)
        return self.crud.create(rt, obj["metadata"].get("namespace", ""), obj, request)

    # -- entry points

    def handle(self, request: Request) -> Reply:
        """Answers everything but watches and streams; never raises."""
        try:
            self.rbac.check(request)
            self.crud.warnings.clear()
            reply = self._route(request)
        except errors.StatusError as error:
            return Reply(error.code, error.status())
        if self.crud.warnings:
            return Reply(reply.status, reply.body, reply.content_type, tuple(self.crud.warnings))
        return reply

    def watch(self, request: Request) -> AsyncIterator[WatchEvent]:
        """Raises ``StatusError`` for what cannot be watched."""
        self.rbac.check(request)
        rt = self.resource(request.target)
        events = open_watch(self.store, rt, request)
        return self._presented(rt, events, request)

    async def _presented(
        self, rt: ResourceType, events: AsyncIterator[WatchEvent], request: Request
    ) -> AsyncIterator[WatchEvent]:
        first = True
        include = request.query.get("includeObject", "")
        try:
            async for event in events:
                if event.type == "ERROR":
                    yield event
                    continue
                obj = self._versioned(rt, event.obj)
                if request.form == METADATA:
                    obj = metadata_alone(obj)
                elif request.form == TABLE and event.type != "BOOKMARK":
                    version = {"resourceVersion": obj["metadata"]["resourceVersion"]}
                    obj = table(rt, [obj], version, include)
                    if not first:
                        obj["columnDefinitions"] = None
                    first = False
                yield WatchEvent(event.type, obj)
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    def resource(self, target: Target) -> ResourceType:
        rt = self.registry.find(target.group, target.version, target.plural)
        if rt is None:
            raise errors.no_such_path()
        if rt.storage in self.registry.replaced:
            self.registry.replaced.discard(rt.storage)
            raise errors.shutting_down()
        if (rt.plural, target.subresource) == ("pods", "portforward"):
            raise errors.unsupported(
                "kubectl port-forward: `egress-gateway lab ui` shows the live map, and a lab with "
                "--kubernetes real forwards ports"
            )
        if target.subresource and target.subresource not in rt.all_subresources:
            raise errors.no_such_path()
        return rt

    # -- routing

    def _route(self, request: Request) -> Reply:
        target = request.target
        if not target.plural:
            return self._meta(request)
        rt = self.resource(target)
        if request.body is not None and not isinstance(request.body, dict | list):
            raise errors.bad_request("the request's body is not an object")
        if (not rt.namespaced or not target.namespace) and target.name and rt.namespaced:
            raise errors.no_such_path()
        if target.subresource and target.subresource != "status":
            return subresources.handle(self, rt, request)
        if rt.verbs == ("create",):
            if request.method != "POST":
                raise errors.method_not_allowed(rt.plural)
            return Reply(201, reviews.handle(self, rt, request))
        return self._resource(rt, request)

    def _resource(self, rt: ResourceType, request: Request) -> Reply:
        target, method = request.target, request.method
        namespace = target.namespace if rt.namespaced else ""
        key = (namespace, target.name)
        match method, bool(target.name):
            case "GET", True:
                return self._one(rt, self.crud.get(rt, key), request)
            case "GET", False:
                return self._list(rt, namespace, request)
            case "POST", False:
                made = self.crud.create(rt, namespace, request.body, request)
                return self._one(rt, made, request, 201)
            case "PUT", True:
                new = self.crud.update(rt, key, request.body, request, target.subresource)
                return self._one(rt, new, request)
            case "PATCH", True:
                new, created = self.crud.patch(rt, key, request.body, request, target.subresource)
                return self._one(rt, new, request, 201 if created else 200)
            case "DELETE", True if not target.subresource:
                return self._delete(rt, key, request)
            case "DELETE", False:
                return self._delete_collection(rt, namespace, request)
        raise errors.method_not_allowed(rt.plural)

    def _versioned(self, rt: ResourceType, obj: Object) -> Object:
        """All versions of a custom resource have one stored form (conversion ``None``)."""
        if obj["apiVersion"] == rt.api_version:
            return obj
        return {**obj, "apiVersion": rt.api_version}

    def _one(self, rt: ResourceType, obj: Object, request: Request, status: int = 200) -> Reply:
        obj = self._versioned(rt, obj)
        if request.form == TABLE:
            version = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            return Reply(status, table(rt, [obj], version, request.query.get("includeObject", "")))
        return Reply(status, metadata_alone(obj) if request.form == METADATA else obj)

    def _delete(self, rt: ResourceType, key: Key, request: Request) -> Reply:
        obj, gone = self.crud.delete(rt, key, request.body, request)
        # kubectl and client-go take either; a real server answers with a Status for what is gone.
        if gone and rt.storage != "pods":
            meta = obj["metadata"]
            return Reply(200, errors.success(rt.plural, rt.group, meta["name"], meta["uid"]))
        return Reply(200, self._versioned(rt, obj))

    def _delete_collection(self, rt: ResourceType, namespace: str, request: Request) -> Reply:
        select = predicate(rt, request.query)
        chosen = [o for o in self.store.list(rt.storage, namespace) if not select or select(o)]
        for obj in chosen:
            key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
            self.crud.delete(rt, key, request.body, request)
        items = [self._versioned(rt, obj) for obj in chosen]
        return Reply(200, self._listed(rt, items, {"resourceVersion": str(self.store.revision)}))

    # -- lists

    def _list(self, rt: ResourceType, namespace: str, request: Request) -> Reply:
        query = request.query
        limit = options.number(query, "limit")
        options.check_list(query, self.store.revision)
        token = query.get("continue", "")
        if token:
            revision, start, items = self._resume(token)
        else:
            select = predicate(rt, query)
            found = self.store.list(rt.storage, namespace)
            items = [o for o in found if select is None or select(o)]
            revision, start = self.store.revision, 0
        page = items[start : start + limit] if limit else items[start:]
        metadata: Object = {"resourceVersion": str(revision)}
        left = len(items) - start - len(page)
        if left:
            metadata["continue"] = self._remember(items, revision, start + len(page), token)
            if not (query.get("labelSelector") or query.get("fieldSelector")):
                metadata["remainingItemCount"] = left
        page = [self._versioned(rt, obj) for obj in page]
        if request.form == TABLE:
            return Reply(200, table(rt, page, metadata, query.get("includeObject", "")))
        if request.form == METADATA:
            items = [metadata_alone(obj) for obj in page]
            head = {"kind": f"{METADATA}List", "apiVersion": "meta.k8s.io/v1"}
            return Reply(200, head | {"metadata": metadata, "items": items})
        return Reply(200, self._listed(rt, page, metadata))

    def _listed(self, rt: ResourceType, items: list[Object], metadata: Object) -> Object:
        return {
            "kind": f"{rt.kind}List",
            "apiVersion": rt.api_version,
            "metadata": metadata,
            "items": items,
        }

    def _remember(self, items: list[Object], revision: int, at: int, token: str) -> str:
        """Pages of one list show one moment: the rest is kept until it is fetched or pushed out
        by newer lists."""
        name = (
            json.loads(base64.urlsafe_b64decode(token))["n"] if token else f"{revision}.{id(items)}"
        )
        self._snapshots[name] = items
        while len(self._snapshots) > _SNAPSHOTS:
            del self._snapshots[next(iter(self._snapshots))]
        raw = json.dumps({"n": name, "v": revision, "s": at}).encode()
        return base64.urlsafe_b64encode(raw).decode()

    def _resume(self, token: str) -> tuple[int, int, list[Object]]:
        try:
            place = json.loads(base64.urlsafe_b64decode(token))
            name, revision, start = place["n"], place["v"], place["s"]
        except (ValueError, KeyError, TypeError) as error:
            raise errors.bad_request("continue key is not valid") from error
        if name not in self._snapshots:
            raise errors.expired(
                "The provided continue parameter is too old to display a consistent list result."
            )
        return revision, start, self._snapshots[name]

    # -- what is no resource

    def _meta(self, request: Request) -> Reply:
        parts = [p for p in request.target.path.split("/") if p]
        if request.method not in ("GET", "HEAD"):
            raise errors.method_not_allowed(request.target.path)
        found: Any = None
        match parts:
            case ["api"]:
                found = discovery.versions(self._address)
            case ["apis"]:
                found = discovery.group_list(self.registry)
            case ["api", "v1"]:
                found = discovery.resources(self.registry, "", "v1")
            case ["apis", group]:
                found = discovery.group(self.registry, group)
                found = found and {"kind": "APIGroup", "apiVersion": "v1", **found}
            case ["apis", group, version]:
                found = discovery.resources(self.registry, group, version)
            case ["version"]:
                found = _version(self.version)
            case ["healthz" | "livez" | "readyz", *_]:
                return Reply(200, "ok", "text/plain")
            case ["openapi", "v3"]:
                found = discovery.openapi_index(self.registry)
            case ["openapi", "v3", "api", version]:
                found = discovery.openapi(self.registry, "", version)
            case ["openapi", "v3", "apis", group, version]:
                found = discovery.openapi(self.registry, group, version)
            case ["openid", "v1", "jwks"]:
                found = self.authenticator.signer.jwks()
            case [".well-known", "openid-configuration"]:
                found = self._issuer_configuration()
        if found is None:
            raise errors.no_such_path()
        return Reply(200, found)

    def _issuer_configuration(self) -> Object:
        issuer = self.authenticator.issuer
        return {
            "issuer": issuer,
            "jwks_uri": f"{issuer.rstrip('/')}/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }


def _version(version: str) -> Object:
    major, minor, _ = version.lstrip("v").split(".")
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"{version}+lab",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "python",
        "platform": "linux/amd64",
    }
