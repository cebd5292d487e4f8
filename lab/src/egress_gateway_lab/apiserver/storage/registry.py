"""Which resources exist: the built-in ones, and those that CustomResourceDefinitions add.

One ``ResourceType`` says everything that the generic handlers must know; what is special about a
kind (defaults, checks) is in ``strategies``, how it is shown in ``tables``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from egress_gateway_lab.apiserver.objects import Object

if TYPE_CHECKING:
    from egress_gateway_lab.apiserver.writes.schema import CustomSchema

ALL_VERBS = (
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
)


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


_INVOLVED = tuple(
    f"involvedObject.{part}"
    for part in (
        "kind",
        "namespace",
        "name",
        "uid",
        "apiVersion",
        "resourceVersion",
        "fieldPath",
    )
)

_CORE = (
    ResourceType(
        group="",
        version="v1",
        plural="namespaces",
        kind="Namespace",
        namespaced=False,
        short_names=("ns",),
        has_status=True,
        subresources=("finalize",),
        fields=("status.phase",),
    ),
    ResourceType(
        group="",
        version="v1",
        plural="nodes",
        kind="Node",
        namespaced=False,
        short_names=("no",),
        has_status=True,
        fields=("spec.unschedulable",),
    ),
    ResourceType(
        group="",
        version="v1",
        plural="pods",
        kind="Pod",
        short_names=("po",),
        categories=("all",),
        has_status=True,
        generation=True,
        subresources=("binding", "eviction", "log", "exec", "attach"),
        fields=(
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ),
    ),
    ResourceType(
        group="",
        version="v1",
        plural="services",
        kind="Service",
        short_names=("svc",),
        categories=("all",),
        has_status=True,
        fields=("spec.clusterIP", "spec.type"),
    ),
    ResourceType(group="", version="v1", plural="endpoints", kind="Endpoints", short_names=("ep",)),
    ResourceType(
        group="", version="v1", plural="configmaps", kind="ConfigMap", short_names=("cm",)
    ),
    ResourceType(group="", version="v1", plural="secrets", kind="Secret", fields=("type",)),
    ResourceType(
        group="",
        version="v1",
        plural="serviceaccounts",
        kind="ServiceAccount",
        short_names=("sa",),
        subresources=("token",),
    ),
    ResourceType(
        group="",
        version="v1",
        plural="events",
        kind="Event",
        short_names=("ev",),
        fields=(
            *_INVOLVED,
            "reason",
            "reportingComponent",
            "source",
            "type",
        ),
    ),
)


def _apps(plural: str, kind: str, short: str, *, scale: bool) -> ResourceType:
    return ResourceType(
        group="apps",
        version="v1",
        plural=plural,
        kind=kind,
        short_names=(short,),
        categories=("all",),
        has_status=True,
        has_scale=scale,
        generation=True,
    )


def _rbac(plural: str, kind: str, *, namespaced: bool) -> ResourceType:
    return ResourceType(
        group="rbac.authorization.k8s.io",
        version="v1",
        plural=plural,
        kind=kind,
        namespaced=namespaced,
    )


def _policy(plural: str, kind: str, *, status: bool = False) -> ResourceType:
    return ResourceType(
        group="admissionregistration.k8s.io",
        version="v1",
        plural=plural,
        kind=kind,
        namespaced=False,
        categories=("api-extensions",),
        has_status=status,
        generation=True,
    )


def _review(group: str, plural: str, kind: str, *, namespaced: bool = False) -> ResourceType:
    return ResourceType(
        group=group,
        version="v1",
        plural=plural,
        kind=kind,
        namespaced=namespaced,
        verbs=("create",),
    )


BUILT_IN = (
    *_CORE,
    _apps("deployments", "Deployment", "deploy", scale=True),
    _apps("replicasets", "ReplicaSet", "rs", scale=True),
    _apps("daemonsets", "DaemonSet", "ds", scale=False),
    ResourceType(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease"),
    _rbac("roles", "Role", namespaced=True),
    _rbac("rolebindings", "RoleBinding", namespaced=True),
    _rbac("clusterroles", "ClusterRole", namespaced=False),
    _rbac("clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    ResourceType(
        group="apiextensions.k8s.io",
        version="v1",
        plural="customresourcedefinitions",
        kind="CustomResourceDefinition",
        namespaced=False,
        short_names=("crd", "crds"),
        categories=("api-extensions",),
        has_status=True,
        generation=True,
    ),
    _policy("validatingadmissionpolicies", "ValidatingAdmissionPolicy", status=True),
    _policy("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding"),
    _policy("mutatingadmissionpolicies", "MutatingAdmissionPolicy"),
    _policy("mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding"),
    ResourceType(
        group="policy",
        version="v1",
        plural="poddisruptionbudgets",
        kind="PodDisruptionBudget",
        short_names=("pdb",),
        has_status=True,
        generation=True,
    ),
    ResourceType(
        group="scheduling.k8s.io",
        version="v1",
        plural="priorityclasses",
        kind="PriorityClass",
        namespaced=False,
        short_names=("pc",),
    ),
    ResourceType(
        group="networking.k8s.io",
        version="v1",
        plural="networkpolicies",
        kind="NetworkPolicy",
        short_names=("netpol",),
        generation=True,
    ),
    _review("authentication.k8s.io", "tokenreviews", "TokenReview"),
    _review("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
    _review("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    _review("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview"),
    _review("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
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
