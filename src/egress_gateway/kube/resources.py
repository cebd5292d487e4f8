"""The kinds that the components read and write, as trimmed values.

A trimmed struct decodes only what somebody reads: a list of 10,000 Pods costs a fifteenth of the
CPU and a quarter of the memory of full models. The price is a rule: **an object decoded here is
never PUT back**. Writes go through server-side apply, merge patch or the status subresource.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar, cast
from urllib.parse import quote

import msgspec

from egress_gateway.api import names
from egress_gateway.api.types import (
    ApiStruct,
    GatewayStatus,
    GatewayVmssProfile,
    ObjectMeta,
    PodEndpoint,
    StaticGatewayConfiguration,
)

T = TypeVar("T")
Untyped = dict[str, Any]


class Key(NamedTuple):
    """Names an object of a kind; ``namespace`` is empty for cluster-scoped kinds."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource(Generic[T]):
    """A kind as the API serves it, and the type that its objects decode to."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    type: type[T]
    keep: Callable[[T], T] | None = None
    """What is kept of each object that is read; None: all that ``type`` has."""

    @property
    def api_version(self) -> str:
        """As ``apiVersion`` has it: the core group has no name."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def untyped(self) -> Resource[Untyped]:
        """The same kind, decoded to plain dicts (whole objects, nothing trimmed)."""
        return cast("Resource[Untyped]", replace(self, type=cast(Any, dict), keep=None))

    def keeping(self, keep: Callable[[T], T]) -> Resource[T]:
        """The same kind for a reader that needs less: a page's objects pass ``keep`` before the
        next page is read, so that a list of thousands is never in memory whole."""
        return replace(self, keep=keep)

    def path(
        self, namespace: str | None = None, name: str | None = None, subresource: str | None = None
    ) -> str:
        """URL path of the collection, or of one object, or of its subresource."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        parts += [quote(part, safe="") for part in (name, subresource) if part]
        return "/".join(parts)

    def metadata(self, obj: T) -> ObjectMeta:
        """The object's metadata, whether it is a struct or a dict."""
        if isinstance(obj, Mapping):
            return msgspec.convert(obj["metadata"], ObjectMeta)
        return cast(Any, obj).metadata  # type: ignore[no-any-return]

    def key(self, obj: T) -> Key:
        """Namespace and name; a cluster's own kinds have the namespace ""."""
        meta = self.metadata(obj)
        return Key(meta.namespace, meta.name)

    def reference(self, obj: T) -> Reference:
        """What an Event's ``involvedObject`` carries."""
        meta = self.metadata(obj)
        return Reference(
            api_version=self.api_version,
            kind=self.kind,
            namespace=meta.namespace,
            name=meta.name,
            uid=meta.uid,
        )


class Partial(ApiStruct, frozen=True):
    """An object; only its metadata is read."""

    metadata: ObjectMeta


class Namespace(ApiStruct, frozen=True):
    """core/v1; only its metadata is read."""

    metadata: ObjectMeta


class Taint(ApiStruct, frozen=True):
    """core/v1, of a Node."""

    key: str
    effect: str
    value: str = ""


class NodeSpec(ApiStruct, frozen=True):
    """The part that is read."""

    provider_id: str = msgspec.field(name="providerID", default="")
    pod_cidrs: list[str] = msgspec.field(name="podCIDRs", default_factory=list)
    taints: list[Taint] = []
    unschedulable: bool = False


class NodeAddress(ApiStruct, frozen=True):
    """``type`` is ``InternalIP``, ``Hostname`` and the like."""

    type: str
    address: str


class NodeCondition(ApiStruct, frozen=True):
    """``status`` is ``True``, ``False`` or ``Unknown``."""

    type: str
    status: str
    message: str = ""


class NodeStatus(ApiStruct, frozen=True):
    """The part that is read."""

    addresses: list[NodeAddress] = []
    conditions: list[NodeCondition] = []


class Node(ApiStruct, frozen=True):
    """core/v1, trimmed."""

    metadata: ObjectMeta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def internal_ips(self) -> list[str]:
        """In the order of the status, as text that nobody has checked yet."""
        return [a.address for a in self.status.addresses if a.type == "InternalIP"]

    @property
    def ready(self) -> bool:
        """As the kubelet reports, or the control plane in place of a silent kubelet."""
        return any(c.type == "Ready" and c.status == "True" for c in self.status.conditions)


class PodIP(ApiStruct, frozen=True):
    """One of a pod's addresses, in any spelling."""

    ip: str = ""


class PodSpec(ApiStruct, frozen=True):
    """The part that is read."""

    node_name: str = ""
    host_network: bool = False


class PodStatus(ApiStruct, frozen=True):
    """The part that is read."""

    phase: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: list[PodIP] = msgspec.field(name="podIPs", default_factory=list)
    host_ip: str = msgspec.field(name="hostIP", default="")


@lru_cache(4096)
def _spelled(address: str) -> str:
    """RFC 5952's spelling. The API server takes any (KEP-4858), and we compare texts."""
    try:
        spelled = str(ip_address(address))
    except ValueError:
        return address
    return address if address == spelled else spelled  # no second copy of each pod's


class Pod(ApiStruct, frozen=True):
    """Trimmed: where it runs, its addresses and whether it is over."""

    metadata: ObjectMeta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def ips(self) -> list[str]:
        """Every address that the kubelet has reported, in its order, spelled as we spell them."""
        if self.status.pod_ips:
            return [_spelled(entry.ip) for entry in self.status.pod_ips]
        return [_spelled(self.status.pod_ip)] if self.status.pod_ip else []

    @property
    def has_network(self) -> bool:
        """Whether some container of it may be sending: it runs, or, being "Pending" while its init
        containers run, it has an address."""
        return self.status.phase == "Running" or bool(self.ips and not self.finished)

    @property
    def finished(self) -> bool:
        """Succeeded or Failed: it will never run again and owns no address."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def ends(self) -> bool:
        """It is being deleted: its network may be gone before the object is."""
        return self.metadata.deletion_timestamp is not None


class Secret(ApiStruct, frozen=True):
    """``data`` holds base64 text, as on the wire. Never log one."""

    metadata: ObjectMeta
    data: dict[str, str] = {}
    type: str = "Opaque"

    def __repr__(self) -> str:
        return f"Secret({self.metadata.namespace}/{self.metadata.name}, {sorted(self.data)})"


class ConfigMap(ApiStruct, frozen=True):
    """core/v1; ``data`` alone."""

    metadata: ObjectMeta
    data: dict[str, str] = {}


class PolicyRule(ApiStruct, frozen=True):
    """rbac.authorization.k8s.io/v1. No ``resource_names`` means all of them."""

    api_groups: list[str] = []
    resources: list[str] = []
    verbs: list[str] = []
    resource_names: list[str] = []


class Role(ApiStruct, frozen=True):
    """rbac.authorization.k8s.io/v1."""

    metadata: ObjectMeta
    rules: list[PolicyRule] | None = None
    """None where there is none: kube-apiserver answers null, whatever was written."""


class LeaseSpec(ApiStruct, frozen=True):
    """Times are ``metav1.MicroTime``."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(ApiStruct, frozen=True):
    """coordination.k8s.io/v1."""

    metadata: ObjectMeta
    spec: LeaseSpec = LeaseSpec()


class Reference(ApiStruct, frozen=True):
    """Which object an Event is about."""

    api_version: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class EventSource(ApiStruct, frozen=True):
    """Which component of which node said it."""

    component: str = ""
    host: str = ""


class Event(ApiStruct, frozen=True):
    """core/v1: what ``kubectl describe`` shows."""

    metadata: ObjectMeta
    involved_object: Reference
    reason: str = ""
    message: str = ""
    type: Literal["Normal", "Warning", ""] = ""
    count: int = 0
    first_timestamp: str | None = None
    last_timestamp: str | None = None
    source: EventSource = EventSource()
    reporting_component: str = ""
    reporting_instance: str = ""


class GoGatewayConfigurationSpec(ApiStruct, frozen=True):
    """The Go project's internal hand-offs repeat these fields of the user's object."""

    gateway_nodepool_name: str = ""
    gateway_vmss_profile: GatewayVmssProfile = GatewayVmssProfile()
    provision_public_ips: bool = True
    public_ip_prefix_id: str = ""


class GoGatewayConfiguration(ApiStruct, frozen=True):
    """GatewayLBConfiguration or GatewayVMConfiguration: read when a cluster moves over."""

    metadata: ObjectMeta
    spec: GoGatewayConfigurationSpec = GoGatewayConfigurationSpec()


def v1(
    plural: str, kind: str, type_: type[T], *, group: str = "", namespaced: bool = True
) -> Resource[T]:
    """A kind of Kubernetes' own, version v1; of the core group unless ``group`` names another."""
    return Resource(
        group=group, version="v1", plural=plural, kind=kind, namespaced=namespaced, type=type_
    )


def ours(plural: str, kind: str, type_: type[T]) -> Resource[T]:
    """A kind of the API group of this system; all are namespaced."""
    return Resource(
        group=names.GROUP,
        version=names.VERSION,
        plural=plural,
        kind=kind,
        namespaced=True,
        type=type_,
    )


NAMESPACES: Final = v1("namespaces", "Namespace", Namespace, namespaced=False)
NODES: Final = v1("nodes", "Node", Node, namespaced=False)
PODS: Final = v1("pods", "Pod", Pod)
SECRETS: Final = v1("secrets", "Secret", Secret)
CONFIG_MAPS: Final = v1("configmaps", "ConfigMap", ConfigMap)
EVENTS: Final = v1("events", "Event", Event)
LEASES: Final = v1("leases", "Lease", Lease, group="coordination.k8s.io")
ROLES: Final = v1("roles", "Role", Role, group="rbac.authorization.k8s.io")
DEPLOYMENTS: Final[Resource[Untyped]] = v1("deployments", "Deployment", dict, group="apps")
SERVICES: Final[Resource[Untyped]] = v1("services", "Service", dict)
NETWORK_POLICIES: Final[Resource[Untyped]] = v1(
    "networkpolicies", "NetworkPolicy", dict, group="networking.k8s.io"
)
DAEMON_SETS: Final = v1("daemonsets", "DaemonSet", Partial, group="apps")
SGCS: Final = ours(
    "staticgatewayconfigurations", "StaticGatewayConfiguration", StaticGatewayConfiguration
)
POD_ENDPOINTS: Final = ours("podendpoints", "PodEndpoint", PodEndpoint)
GATEWAY_STATUSES: Final = ours("gatewaystatuses", "GatewayStatus", GatewayStatus)
GO_LB_CONFIGURATIONS: Final = ours(
    "gatewaylbconfigurations", "GatewayLBConfiguration", GoGatewayConfiguration
)
GO_VM_CONFIGURATIONS: Final = ours(
    "gatewayvmconfigurations", "GatewayVMConfiguration", GoGatewayConfiguration
)
