"""Which resources exist: the built-in ones, and those that CustomResourceDefinitions add.

One ``ResourceType`` says everything that the generic handlers must know; what is special about a
kind (defaults, checks) is in ``strategies``, how it is shown in ``tables``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from egress_gateway_lab.apiserver.objects import Object

if TYPE_CHECKING:
    from egress_gateway_lab.apiserver.writes.schema import CustomSchema

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, kw_only=True, eq=False)
class ResourceType:
    """A resource as discovery shows it, and what the handlers need besides.

    ``storage`` names where objects live; all versions of a custom resource share one.
    ``fields`` maps a field selector to the path it selects by.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    has_status: bool = False
    has_scale: bool = False
    subresources: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    generation: bool = False
    """Whether ``metadata.generation`` counts changes of the specification."""
    custom: CustomSchema | None = None
    columns: tuple[Object, ...] = field(default=())
    """``additionalPrinterColumns`` of a custom resource."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def storage(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def all_subresources(self) -> tuple[str, ...]:
        generic = (("status",) if self.has_status else ()) + (("scale",) if self.has_scale else ())
        return generic + self.subresources


def _kind(group: str, plural: str, kind: str, *short_names: str, **more: Any) -> ResourceType:
    """A built-in kind; ``more`` are fields of ``ResourceType``."""
    return ResourceType(
        group=group, version="v1", plural=plural, kind=kind, short_names=short_names, **more
    )


_ACCESS, _ADMISSION = "rbac.authorization.k8s.io", "admissionregistration.k8s.io"
_IDENTITY, _RIGHTS = "authentication.k8s.io", "authorization.k8s.io"
_WHOLE: Mapping[str, Any] = {"namespaced": False}
_WORKLOAD: Mapping[str, Any] = {"categories": ("all",), "has_status": True, "generation": True}
_EXTENSION: Mapping[str, Any] = {
    "namespaced": False,
    "categories": ("api-extensions",),
    "generation": True,
}
_REVIEW: Mapping[str, Any] = {"namespaced": False, "verbs": ("create",)}
_POD_FIELDS = (
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
)
_INVOLVED = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_EVENT_FIELDS = (
    *(f"involvedObject.{part}" for part in _INVOLVED),
    "reason",
    "reportingComponent",
    "source",
    "type",
)

BUILT_IN = (
    _kind(
        "",
        "namespaces",
        "Namespace",
        "ns",
        namespaced=False,
        has_status=True,
        fields=("status.phase",),
    ),
    _kind(
        "", "nodes", "Node", "no", namespaced=False, has_status=True, fields=("spec.unschedulable",)
    ),
    _kind(
        "",
        "pods",
        "Pod",
        "po",
        **_WORKLOAD,
        subresources=("binding", "eviction", "log", "exec", "attach"),
        fields=_POD_FIELDS,
    ),
    _kind(
        "",
        "services",
        "Service",
        "svc",
        categories=("all",),
        has_status=True,
        fields=("spec.clusterIP", "spec.type"),
    ),
    _kind("", "endpoints", "Endpoints", "ep"),
    _kind("", "configmaps", "ConfigMap", "cm"),
    _kind("", "secrets", "Secret", fields=("type",)),
    _kind("", "serviceaccounts", "ServiceAccount", "sa", subresources=("token",)),
    _kind("", "events", "Event", "ev", fields=_EVENT_FIELDS),
    _kind("apps", "deployments", "Deployment", "deploy", **_WORKLOAD, has_scale=True),
    _kind("apps", "replicasets", "ReplicaSet", "rs", **_WORKLOAD, has_scale=True),
    _kind("apps", "daemonsets", "DaemonSet", "ds", **_WORKLOAD),
    _kind("coordination.k8s.io", "leases", "Lease"),
    _kind(_ACCESS, "roles", "Role"),
    _kind(_ACCESS, "rolebindings", "RoleBinding"),
    _kind(_ACCESS, "clusterroles", "ClusterRole", **_WHOLE),
    _kind(_ACCESS, "clusterrolebindings", "ClusterRoleBinding", **_WHOLE),
    _kind(
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        "crd",
        "crds",
        **_EXTENSION,
        has_status=True,
    ),
    _kind(
        _ADMISSION,
        "validatingadmissionpolicies",
        "ValidatingAdmissionPolicy",
        **_EXTENSION,
        has_status=True,
    ),
    _kind(
        _ADMISSION,
        "validatingadmissionpolicybindings",
        "ValidatingAdmissionPolicyBinding",
        **_EXTENSION,
    ),
    _kind(_ADMISSION, "mutatingadmissionpolicies", "MutatingAdmissionPolicy", **_EXTENSION),
    _kind(
        _ADMISSION,
        "mutatingadmissionpolicybindings",
        "MutatingAdmissionPolicyBinding",
        **_EXTENSION,
    ),
    _kind(
        "policy",
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        "pdb",
        has_status=True,
        generation=True,
    ),
    _kind("scheduling.k8s.io", "priorityclasses", "PriorityClass", "pc", **_WHOLE),
    _kind("networking.k8s.io", "networkpolicies", "NetworkPolicy", "netpol", generation=True),
    _kind(_IDENTITY, "tokenreviews", "TokenReview", **_REVIEW),
    _kind(_IDENTITY, "selfsubjectreviews", "SelfSubjectReview", **_REVIEW),
    _kind(_RIGHTS, "selfsubjectaccessreviews", "SelfSubjectAccessReview", **_REVIEW),
    _kind(_RIGHTS, "subjectaccessreviews", "SubjectAccessReview", **_REVIEW),
    _kind(_RIGHTS, "selfsubjectrulesreviews", "SelfSubjectRulesReview", **_REVIEW),
)


class Registry:
    """The resources that the server serves at this moment."""

    def __init__(self) -> None:
        self._types: dict[tuple[str, str, str], ResourceType] = {}
        self.replaced: set[str] = set()
        """Storages whose definition changed: their next request still meets the old handlers."""
        for rt in BUILT_IN:
            self.add(rt)

    def add(self, rt: ResourceType) -> None:
        self._types[(rt.group, rt.version, rt.plural)] = rt

    def remove_custom(self, group: str, plural: str) -> None:
        self._types = {
            key: rt
            for key, rt in self._types.items()
            if rt.custom is None or (rt.group, rt.plural) != (group, plural)
        }

    def find(self, group: str, version: str, plural: str) -> ResourceType | None:
        return self._types.get((group, version, plural))

    def by_kind(self, api_version: str, kind: str) -> ResourceType | None:
        for rt in self._types.values():
            if rt.kind == kind and rt.api_version == api_version:
                return rt
        return None

    def by_storage(self, storage: str) -> ResourceType | None:
        return next((rt for rt in self._types.values() if rt.storage == storage), None)

    def __iter__(self) -> Iterator[ResourceType]:
        return iter(list(self._types.values()))

    def groups(self) -> dict[str, list[str]]:
        """Group → versions, in the order of registration (core first)."""
        found: dict[str, list[str]] = {}
        for rt in self._types.values():
            versions = found.setdefault(rt.group, [])
            if rt.version not in versions:
                versions.append(rt.version)
        return found

    def of(self, group: str, version: str) -> list[ResourceType]:
        return [rt for rt in self._types.values() if (rt.group, rt.version) == (group, version)]
