"""What the server offers: discovery, plain and aggregated, and just enough OpenAPI.

kubectl needs discovery to map names to paths, and OpenAPI to learn that the server validates
fields itself (``fieldValidation`` on PATCH); it falls back on its built-in types for the rest.
"""

from __future__ import annotations

from egress_gateway_lab.apiserver.objects import Object
from egress_gateway_lab.apiserver.storage.registry import Registry, ResourceType

_SUBRESOURCES: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "scale": ("autoscaling", "v1", "Scale", ("get", "patch", "update")),
    "binding": ("", "v1", "Binding", ("create",)),
    "eviction": ("policy", "v1", "Eviction", ("create",)),
    "token": ("authentication.k8s.io", "v1", "TokenRequest", ("create",)),
    "exec": ("", "v1", "PodExecOptions", ("create", "get")),
    "attach": ("", "v1", "PodAttachOptions", ("create", "get")),
    "log": ("", "v1", "Pod", ("get",)),
}


def versions(address: str) -> Object:
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def group(registry: Registry, name: str) -> Object | None:
    listed = registry.groups().get(name)
    if not name or listed is None:
        return None
    found = [{"groupVersion": f"{name}/{v}", "version": v} for v in listed]
    return {"name": name, "versions": found, "preferredVersion": found[0]}


def group_list(registry: Registry) -> Object:
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [group(registry, name) for name in registry.groups() if name],
    }


def resources(registry: Registry, group_name: str, version: str) -> Object | None:
    listed = registry.of(group_name, version)
    if not listed:
        return None
    entries = []
    for rt in listed:
        entries.append(_entry(rt))
        for sub in rt.all_subresources:
            entries.append(_sub_entry(rt, sub))
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": listed[0].api_version,
        "resources": entries,
    }


def _entry(rt: ResourceType) -> Object:
    entry: Object = {
        "name": rt.plural,
        "singularName": rt.singular,
        "namespaced": rt.namespaced,
        "kind": rt.kind,
        "verbs": list(rt.verbs),
    }
    if rt.short_names:
        entry["shortNames"] = list(rt.short_names)
    if rt.categories:
        entry["categories"] = list(rt.categories)
    return entry


def _sub_kind(rt: ResourceType, sub: str) -> tuple[str, str, str, tuple[str, ...]]:
    own = (rt.group, rt.version, rt.kind, ("get", "patch", "update"))
    return _SUBRESOURCES.get(sub, own)


def _sub_entry(rt: ResourceType, sub: str) -> Object:
    group_name, version, kind, verbs = _sub_kind(rt, sub)
    entry: Object = {
        "name": f"{rt.plural}/{sub}",
        "singularName": "",
        "namespaced": rt.namespaced,
        "kind": kind,
        "verbs": list(verbs),
    }
    if (group_name, version) != (rt.group, rt.version):
        entry |= {"group": group_name, "version": version}
    return entry


def aggregated(registry: Registry, *, core: bool, api_version: str) -> Object:
    """``APIGroupDiscoveryList``: everything in one answer."""
    items = []
    for name, listed in registry.groups().items():
        if (name == "") != core:
            continue
        items.append(
            {
                "metadata": {"name": name, "creationTimestamp": None} if name else {},
                "versions": [
                    {
                        "version": v,
                        "freshness": "Current",
                        "resources": [_aggregated_entry(rt) for rt in registry.of(name, v)],
                    }
                    for v in listed
                ],
            }
        )
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{api_version}",
        "metadata": {},
        "items": items,
    }


def _aggregated_entry(rt: ResourceType) -> Object:
    entry: Object = {
        "resource": rt.plural,
        "responseKind": {"group": rt.group, "version": rt.version, "kind": rt.kind},
        "scope": "Namespaced" if rt.namespaced else "Cluster",
        "singularResource": rt.singular,
        "verbs": list(rt.verbs),
    }
    if rt.short_names:
        entry["shortNames"] = list(rt.short_names)
    if rt.categories:
        entry["categories"] = list(rt.categories)
    subs = []
    for sub in rt.all_subresources:
        group_name, version, kind, verbs = _sub_kind(rt, sub)
        subs.append(
            {
                "subresource": sub,
                "responseKind": {"group": group_name, "version": version, "kind": kind},
                "verbs": list(verbs),
            }
        )
    if subs:
        entry["subresources"] = subs
    return entry


# -- OpenAPI


def openapi_index(registry: Registry) -> Object:
    paths = {}
    for name, listed in registry.groups().items():
        for version in listed:
            path = f"apis/{name}/{version}" if name else f"api/{version}"
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash=0"}
    return {"paths": paths}


def openapi(registry: Registry, group_name: str, version: str) -> Object | None:
    """OpenAPI v3 of a group version: its kinds, and that PATCH takes ``fieldValidation``."""
    listed = registry.of(group_name, version)
    if not listed:
        return None
    root = f"/apis/{group_name}/{version}" if group_name else f"/api/{version}"
    paths: Object = {}
    schemas: Object = {}
    for rt in listed:
        gvk = {"group": rt.group, "version": rt.version, "kind": rt.kind}
        schema = dict(rt.custom.openapi) if rt.custom else {"type": "object"}
        schemas[_schema_name(rt)] = {**schema, "x-kubernetes-group-version-kind": [gvk]}
        if "patch" not in rt.verbs:
            continue
        inside = "/namespaces/{namespace}" if rt.namespaced else ""
        paths[f"{root}{inside}/{rt.plural}/{{name}}"] = {
            "patch": {
                "operationId": f"patch{rt.kind}",
                "x-kubernetes-action": "patch",
                "x-kubernetes-group-version-kind": gvk,
                "parameters": [
                    {"name": name, "in": "query", "schema": {"type": "string"}}
                    for name in ("dryRun", "fieldManager", "fieldValidation", "force")
                ],
                "responses": {"200": {"description": "OK"}},
            }
        }
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _schema_name(rt: ResourceType) -> str:
    reverse = ".".join(reversed(rt.group.split("."))) or "io.k8s.api.core"
    return f"{reverse}.{rt.version}.{rt.kind}"


def openapi_v2_protobuf() -> bytes:
    """An empty OpenAPI v2 Document (gnostic's protobuf): older kubectl wants one and skips the
    validation of kinds that it does not list. Field 1: swagger; field 2: info; field 8: paths."""

    def text(number: int, value: bytes) -> bytes:
        return bytes([number << 3 | 2, len(value)]) + value

    info = text(1, b"Kubernetes") + text(2, b"unversioned")
    return text(1, b"2.0") + text(2, info) + text(8, b"")
