"""Admission: what a new or changed object needs from the rest of the cluster.

Namespaces must exist and not be ending, a pod gets its ServiceAccount and its token volume, a
Service its cluster address, a CRD becomes a resource or is refused, and nobody grants through RBAC
what they do not hold themselves. Then the cluster's own policies are asked (``policies``).
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Protocol

from egress_gateway_lab.apiserver import errors
from egress_gateway_lab.apiserver.admission import policies as admission_policies
from egress_gateway_lab.apiserver.admission.match import GROUP as _POLICIES
from egress_gateway_lab.apiserver.objects import Object, suffix
from egress_gateway_lab.apiserver.requests import Request, User
from egress_gateway_lab.apiserver.storage.registry import ResourceType
from egress_gateway_lab.apiserver.storage.store import Store
from egress_gateway_lab.apiserver.writes import crds

TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_SECONDS = 3607
"""As kube-apiserver's ServiceAccount admission asks for."""

_RBAC = "rbac.authorization.k8s.io"


class Authorizer(Protocol):
    """What admission asks of RBAC."""

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
    ) -> bool: ...

    def role_rules(self, role_ref: Object, namespace: str) -> list[Object]: ...

    def covers(self, user: User, rules: list[Object], namespace: str) -> list[Object]: ...


class Admission:
    def __init__(
        self,
        store: Store,
        authorizer: Authorizer,
        services: IPv4Network,
        policies: admission_policies.Policies,
    ) -> None:
        self._store = store
        self.policies = policies
        self._authorizer = authorizer
        self._services = services

    def create(self, rt: ResourceType, obj: Object, request: Request) -> None:
        """May change ``obj``; raises ``StatusError``."""
        if rt.namespaced:
            self._check_namespace(rt, obj)
        match rt.storage:
            case "pods":
                self._pod(obj)
            case "services":
                self._service(obj)
            case "customresourcedefinitions.apiextensions.k8s.io":
                crds.check(obj)
                crds.establish(obj)
        if rt.group == _POLICIES:
            admission_policies.settle(obj)
        if rt.group == _RBAC:
            self._check_escalation(rt, obj, request)

    def update(self, rt: ResourceType, obj: Object, old: Object, request: Request) -> None:
        match rt.storage:
            case "services":
                self._keep_cluster_ip(obj, old)
            case "customresourcedefinitions.apiextensions.k8s.io":
                crds.check(obj)
        if rt.group == _POLICIES:
            admission_policies.settle(obj)
        changed = any(obj.get(f) != old.get(f) for f in ("rules", "subjects", "roleRef"))
        if rt.group == _RBAC and changed:
            self._check_escalation(rt, obj, request)

    def _check_namespace(self, rt: ResourceType, obj: Object) -> None:
        namespace = obj["metadata"]["namespace"]
        found = self._store.get("namespaces", ("", namespace))
        if found is None:
            raise errors.not_found("namespaces", "", namespace)
        if found["metadata"].get("deletionTimestamp"):
            raise errors.forbidden(
                rt.plural,
                rt.group,
                obj["metadata"].get("name", ""),
                f"unable to create new content in namespace {namespace} because it is being "
                "terminated",
            )

    def _pod(self, pod: Object) -> None:
        meta, spec = pod["metadata"], pod["spec"]
        name = spec["serviceAccountName"]
        account = self._store.get("serviceaccounts", (meta["namespace"], name))
        if account is None:
            raise errors.forbidden(
                "pods",
                "",
                meta["name"],
                f"error looking up service account {meta['namespace']}/{name}: serviceaccount "
                f'"{name}" not found',
            )
        self._priority(meta["name"], spec)
        automount = spec.get("automountServiceAccountToken")
        if automount is None:
            automount = account.get("automountServiceAccountToken", True)
        if automount:
            _mount_token(spec)

    def _priority(self, pod_name: str, spec: Object) -> None:
        name = spec.get("priorityClassName")
        if not name:
            return
        built_in = {"system-node-critical": 2000001000, "system-cluster-critical": 2000000000}
        found = self._store.get("priorityclasses.scheduling.k8s.io", ("", name))
        if found is None and name not in built_in:
            raise errors.forbidden(
                "pods", "", pod_name, f"no PriorityClass with name {name} was found"
            )
        spec["priority"] = found["value"] if found is not None else built_in[name]

    def _service(self, service: Object) -> None:
        spec = service["spec"]
        if spec.get("type") == "ExternalName":
            return
        wanted = spec.get("clusterIP")
        if not wanted:
            wanted = spec["clusterIP"] = str(self._free_cluster_ip())
        elif wanted != "None" and wanted in self._taken():
            raise errors.invalid(
                "Service",
                "",
                service["metadata"]["name"],
                [
                    errors.Cause(
                        "spec.clusterIPs",
                        f'Invalid value: ["{wanted}"]: failed to allocate IP {wanted}: provided '
                        "IP is already allocated",
                    )
                ],
            )
        spec["clusterIPs"] = [wanted]
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")

    def _taken(self) -> set[str]:
        return {s["spec"].get("clusterIP", "") for s in self._store.list("services")}

    def _free_cluster_ip(self) -> IPv4Address:
        taken = self._taken()
        # .1 is the API server's own; the first addresses are left for static choice (DNS at .10).
        for address in self._addresses():
            if str(address) not in taken:
                return address
        raise errors.internal("no free address in the service network")

    def _addresses(self) -> Iterator[IPv4Address]:
        first = int(self._services.network_address)
        for number in range(first + 100, int(self._services.broadcast_address)):
            yield IPv4Address(number)

    def _keep_cluster_ip(self, obj: Object, old: Object) -> None:
        spec, before = obj["spec"], old["spec"]
        for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if name in before and not spec.get(name):
                spec[name] = before[name]
        if spec.get("clusterIP") != before.get("clusterIP"):
            raise errors.invalid(
                "Service",
                "",
                obj["metadata"]["name"],
                [
                    errors.Cause(
                        "spec.clusterIPs[0]",
                        f'Invalid value: "{spec.get("clusterIP")}": field is immutable',
                    )
                ],
            )

    def _check_escalation(self, rt: ResourceType, obj: Object, request: Request) -> None:
        """Kubernetes refuses a Role or binding that gives more than its writer has, unless the
        writer has the verb ``escalate`` (roles) or ``bind`` (bindings)."""
        meta = obj["metadata"]
        namespace = meta.get("namespace", "")
        binding = rt.plural.endswith("bindings")
        if binding:
            ref = obj.get("roleRef") or {}
            verb, resource, name = "bind", f"{ref.get('kind', '').lower()}s", ref.get("name", "")
            rules = self._authorizer.role_rules(ref, namespace)
        else:
            verb, resource, name = "escalate", rt.plural, meta["name"]
            rules = obj.get("rules") or []
        if self._authorizer.allows(
            request.user, verb, group=_RBAC, resource=resource, name=name, namespace=namespace
        ):
            return
        missing = self._authorizer.covers(request.user, rules, namespace)
        if missing:
            shown = "\n".join(str(_shown(rule)) for rule in missing)
            raise errors.forbidden(
                rt.plural,
                rt.group,
                meta["name"],
                f'user "{request.user.name}" (groups={list(request.user.groups)}) is attempting '
                f"to grant RBAC permissions not currently held:\n{shown}",
            )


def _shown(rule: Object) -> Any:
    return {k.capitalize(): v for k, v in rule.items()}


def _mount_token(spec: Object) -> None:
    """The projected volume with token, CA and namespace, as on a cluster."""
    containers = (spec.get("initContainers") or []) + spec["containers"]
    if all(
        any(m.get("mountPath") == TOKEN_PATH for m in c.get("volumeMounts") or [])
        for c in containers
    ):
        return
    name = f"kube-api-access-{suffix()}"
    spec.setdefault("volumes", []).append(
        {
            "name": name,
            "projected": {
                "defaultMode": 0o644,
                "sources": [
                    {
                        "serviceAccountToken": {
                            "expirationSeconds": TOKEN_SECONDS,
                            "path": "token",
                        }
                    },
                    {
                        "configMap": {
                            "name": "kube-root-ca.crt",
                            "items": [{"key": "ca.crt", "path": "ca.crt"}],
                        }
                    },
                    {
                        "downwardAPI": {
                            "items": [
                                {
                                    "path": "namespace",
                                    "fieldRef": {
                                        "apiVersion": "v1",
                                        "fieldPath": "metadata.namespace",
                                    },
                                }
                            ]
                        }
                    },
                ],
            },
        }
    )
    for container in containers:
        mounts = container.setdefault("volumeMounts", [])
        if not any(m.get("mountPath") == TOKEN_PATH for m in mounts):
            mounts.append({"name": name, "readOnly": True, "mountPath": TOKEN_PATH})
