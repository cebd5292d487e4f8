"""What ``check`` looks at besides objects of ours: the installation as the chart has made it.

Each of these faults leaves running pods and the components' readiness as they are, and shows when
somebody next needs what is missing.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from egress_gateway.api import names
from egress_gateway.api.types import PodEndpoint
from egress_gateway.cli.diagnosis.checks.findings import Finding
from egress_gateway.cli.diagnosis.overview import silence
from egress_gateway.controller.reporting.posture import PATH, POLICIES, absent
from egress_gateway.datapath.addresses import IPNetwork, parse_networks, within
from egress_gateway.kube import resources
from egress_gateway.kube.errors import ApiError, Forbidden, NotFound
from egress_gateway.kube.resources import Node, Resource, Untyped

if TYPE_CHECKING:
    from egress_gateway.kube.client import Client

T = TypeVar("T")
_CONTROLLER, _GATEWAY, _NODE = (f"egress-gateway-{c}" for c in ("controller", "gateway", "node"))
_RIGHTS: Final = {
    f"ClusterRoleBinding {_CONTROLLER}": (_CONTROLLER, "list", "staticgatewayconfigurations"),
    f"ClusterRoleBinding {_GATEWAY}": (_GATEWAY, "list", "staticgatewayconfigurations"),
    f"ClusterRoleBinding {_NODE}": (_NODE, "list", "pods"),
    f"RoleBinding {_CONTROLLER}": (_CONTROLLER, "update", "leases"),
    f"RoleBinding {_GATEWAY}": (_GATEWAY, "update", "gatewaystatuses"),
    f"RoleBinding {_NODE}": (_NODE, "list", "gatewaystatuses"),
}
"""By what the chart makes: an account, and what it may do thereby; a RoleBinding is of the
components' namespace."""
_GROUPS: Final = {"pods": "", "leases": "coordination.k8s.io"}
"""API groups of kinds that are not ours."""
_BINDING: Final = "egress-gateway-pods"
_HOSTS: Final = "egress-gateway-wireguard"
_WEBHOOK: Final = "egress-gateway-webhook"
_ADMITTING: Final = {
    "policy": "MutatingAdmissionPolicyBinding",
    "webhook": "MutatingWebhookConfiguration",
}
"""By ``admission.mode``, what keeps annotated pods off nodes that are not ready for them."""
_RENEWED: Final = 60.0
"""Seconds within which whoever leads has renewed its Lease, by any sane ``leaseDuration``."""
_RENEWAL: Final = 5.0
"""Seconds at most that a person waits for a renewal; one is due in a seventh of the duration."""
_SHORTEST: Final = {4: 8, 6: 16}
"""Bits of a public network's prefix: registries give nobody more."""
_VERSIONS: Final = ("v1", "v1beta1")
"""In which Kubernetes serves mutating policies."""


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """What was read. None: it could not be, and is no finding."""

    cidrs: Sequence[str] | None = None
    """``clusterCidrs`` of the chart's ConfigMap."""
    resolvers: Sequence[str] = ()
    """Addresses of the cluster's DNS."""
    admission: str = ""
    """The chart's ``admission.mode``: policy, webhook or none."""
    bound: bool | None = None
    """Whether the mutating policy has its binding, or the webhook its configuration."""
    unguarded: Sequence[str] = ()
    """What can happen for lack of a validating policy."""
    rights: Mapping[str, bool] = {}
    """By binding: whether its account may still do what that is for."""
    images: Mapping[str, str] = {}
    """By workload."""
    missing: Mapping[str, str] = {}
    """What a workload needs and is not there: ``Kind name``, by whom."""
    leaderless: str | None = None
    """Why no controller leads although one is ready; None: one does, or nothing is known."""
    others: Sequence[str] = ()
    """Namespaces that have another installation's controller."""


def judged(
    installed: Installation,
    nodes: Sequence[Node] | None,
    endpoints: Sequence[PodEndpoint] | None = None,
    system: str = names.SYSTEM_NAMESPACE,
) -> Iterator[Finding]:
    """What is amiss. Pure. ``system``: the components' namespace."""
    if installed.cidrs is not None:
        pods = _pods(nodes or (), endpoints or ())
        yield from _outside(installed.cidrs, installed.resolvers, nodes or (), pods)
        yield from _boundless(installed.cidrs)
    if installed.bound is False:
        yield Finding(
            code="EG305",
            object=f"{_ADMITTING[installed.admission]} {_BINDING}",
            evidence="it is gone: annotated pods come to nodes that are not ready for them, and "
            "the default of a namespace is not written into its pods",
            mend="helm upgrade with the values of the installation makes it again",
        )
    for said in installed.unguarded:
        policy, _, consequence = said.partition(" is not bound: ")
        yield Finding(
            code="EG310",
            object=policy,
            evidence=f"it is not bound: {consequence}",
            mend="helm upgrade with the values of the installation makes its binding again",
        )
    for binding, right in installed.rights.items():
        if not right:
            account, verb, what = _RIGHTS[binding]
            yield Finding(
                code="EG306",
                object=f"ServiceAccount {account}",
                evidence=f"it may not {verb} {what}: its pods go on with what they know, learn and "
                "tell nothing new, or end",
                mend=f"helm upgrade makes the {binding} again, and its role",
            )
    if installed.leaderless:
        yield Finding(
            code="EG311",
            object=f"Lease {names.LEADER_LEASE}",
            evidence=f"no controller leads: {installed.leaderless}. Pods that run go on; nothing "
            "is made or changed in Azure",
            mend=f"kubectl -n {system} delete lease {names.LEADER_LEASE}: another controller leads "
            "seconds later; if that one hangs, delete its pod",
        )
    for namespace in installed.others:
        yield Finding(
            code="EG312",
            object=f"Namespace {namespace}",
            evidence=f"it has a controller too, besides {system}: both lead, each by its own "
            "Lease, and undo each other's writes in Azure",
            mend=f"keep one: helm list -A shows both; kubectl -n {namespace} scale deployment "
            f"-l {names.COMPONENTS} --replicas 0 stops that one at once",
        )
    if len(set(installed.images.values())) > 1:
        listed = ", ".join(f"{name}: {image}" for name, image in sorted(installed.images.items()))
        yield Finding(
            code="EG307",
            object="Workloads of egress-gateway",
            evidence=f"their images differ: {listed}",
            mend="helm upgrade brings all to one version; helm history says what was installed",
        )

    for what, workload in installed.missing.items():
        yield Finding(
            code="EG308",
            object=what,
            evidence=f"it is gone, and {workload} needs it: pods that run go on with what they "
            "have read, and new ones do not start, or start with defaults",
            mend="helm upgrade with the values of the installation makes what the chart has made; "
            "a Secret that you have made, make again: docs/reference/controller-configuration.md",
        )


def _boundless(cidrs: Sequence[str]) -> Iterator[Finding]:
    """Networks that no cluster has for itself."""
    for network in parse_networks(cidrs):
        if network.prefixlen < _SHORTEST[network.version] and not network.is_private:
            yield Finding(
                code="EG309",
                object="ConfigMap egress-gateway",
                evidence=f"clusterCidrs has {network}: annotated pods send to all of it as plain "
                "pods do, from the cluster's address, whatever their configurations say",
                mend="list the cluster's own networks alone in cluster.cidrs of the chart",
            )


def _pods(nodes: Sequence[Node], endpoints: Sequence[PodEndpoint]) -> list[str]:
    """Where pods are: in podCIDRs of Nodes, unless annotated pods have other addresses. Some CNIs
    (Calico, Cilium) have ranges of their own, whatever Nodes say."""
    around = {node.metadata.name: parse_networks(node.spec.pod_cidrs) for node in nodes}

    def elsewhere(endpoint: PodEndpoint, address: IPNetwork) -> bool:
        ranges = around.get(endpoint.spec.node_name, ())
        known = [one for one in ranges if one.version == address.version]
        return bool(known) and not any(within(address, one) for one in known)

    found = [
        str(address)
        for endpoint in endpoints
        for address in parse_networks(endpoint.spec.pod_ips)
        if elsewhere(endpoint, address)
    ]
    return found or [text for node in nodes for text in node.spec.pod_cidrs]


def _outside(
    cidrs: Sequence[str], resolvers: Sequence[str], nodes: Sequence[Node], pods: Sequence[str]
) -> Iterator[Finding]:
    """Addresses of the cluster that pods would send to the gateway, one of each kind."""
    known = parse_networks(cidrs)
    for kind, texts in (
        ("the cluster's DNS", resolvers),
        ("pods", pods),
        ("nodes", [address for node in nodes for address in node.internal_ips]),
    ):
        missing = [
            network
            for network in parse_networks(texts)
            if not any(within(network, one) for one in known)
        ]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            yield Finding(
                code="EG304",
                object="ConfigMap egress-gateway",
                evidence=f"clusterCidrs ({', '.join(cidrs)}) lacks {kind}: {missing[0]}{more}; "
                "each node's agent adds what its own Node and ServiceCIDRs tell; to all else of "
                "it, annotated pods send through the gateway, in vain",
                mend="add the range to cluster.cidrs of the chart",
            )


async def look(client: Client, system: str) -> tuple[Installation, list[str]]:
    """As far as this person may; and what was not to be seen."""
    try:
        workloads = await _workloads(client, system)
    except ApiError:
        workloads = []  # ``status.read`` has said that components are not to be seen
    else:
        if not workloads:  # as it has said this
            return Installation(), []
    looking = _Look(client, system, workloads)
    found, secrets = await asyncio.gather(looking.everything(), looking.secrets())
    return msgspec.structs.replace(found, missing=looking.missing | secrets), sorted(looking.unseen)


class _Look:
    """Reads side by side, each as far as this person may; ``unseen`` and ``missing`` grow."""

    def __init__(self, client: Client, system: str, workloads: Sequence[Untyped]) -> None:
        self._client, self._system, self._workloads = client, system, workloads
        self._images = {
            w["metadata"]["name"]: _template(w)["containers"][0]["image"] for w in workloads
        }
        self.unseen: list[str] = []
        self.missing: dict[str, str] = {}

    async def everything(self) -> Installation:
        """All but Secrets."""
        client, system = self._client, self._system
        (cidrs, mode, bound), unguarded, rights, lead, others = await asyncio.gather(
            self._admission(),
            self._seen("bindings of validating policies", _unguarded(client), []),
            self._seen(
                "rights of the components (needs to create subjectaccessreviews)",
                _rights(client, system),
                {},
            ),
            self._seen("who leads", _leaderless(client, system, self._workloads), None),
            self._seen("installations in other namespaces", _others(client, system), []),
        )
        return Installation(
            cidrs=cidrs,
            resolvers=await _resolvers(client),
            admission=mode,
            bound=bound,
            unguarded=unguarded,
            rights=rights,
            images=self._images,
            leaderless=lead,
            others=others,
        )

    async def secrets(self) -> dict[str, str]:
        """Those that are gone, and which workload needs each."""
        named = list(_secrets(self._workloads))
        found = await asyncio.gather(
            *(self._needed(f"Secret {name}", resources.SECRETS, name) for name, _ in named)
        )
        return {
            f"Secret {name}": workload
            for (name, workload), there in zip(named, found, strict=True)
            if there is NotFound
        }

    async def _seen(self, what: str, reading: Awaitable[T], default: T) -> T:
        try:
            return await reading
        except Forbidden:
            self.unseen.append(f"{what}: not yours to read")
        except ApiError as error:
            self.unseen.append(f"{what}: {error}")
        return default

    async def _needed(self, what: str, kind: Resource[Any], name: str) -> Any:
        """The object; ``NotFound`` if it is gone, None if it is not to be seen."""
        try:
            return await self._client.get(kind, name, self._system)
        except NotFound:
            return NotFound
        except ApiError:
            self.unseen.append(f"{what} in {self._system}")
            return None

    async def _admission(self) -> tuple[Sequence[str] | None, str, bool | None]:
        """``clusterCidrs``, ``admission.mode``, and whether that has its binding."""
        what = "ConfigMap egress-gateway"
        config = await self._needed(what, resources.CONFIG_MAPS, "egress-gateway")
        if config is NotFound:
            config = None
            if self._workloads:
                self.missing[what] = "each agent"
        told = config.data if config is not None else {}
        cidrs = [text.strip() for text in told.get("clusterCidrs", "").split(",")]
        # One set of plain manifests names the policy for all clusters.
        mode = "webhook" if _WEBHOOK in self._images else told.get("admission", "")
        bound = None
        if mode in _ADMITTING:
            bound = await self._seen("bindings of admission", _bound(self._client, mode), None)
        return [c for c in cidrs if c] or None, mode, bound


async def _rights(client: Client, system: str) -> Mapping[str, bool]:
    found = await asyncio.gather(*(_may(client, system, binding) for binding in _RIGHTS))
    return dict(zip(_RIGHTS, found, strict=True))


async def _others(client: Client, system: str) -> list[str]:
    """Namespaces besides ``system`` with a controller of ours, which has a Lease of its own."""
    labels = f"{names.COMPONENTS},{names.COMPONENT}=controller"
    found = (await client.list(resources.DEPLOYMENTS.untyped(), labels=labels)).items
    running = [w["metadata"]["namespace"] for w in found if (w.get("spec") or {}).get("replicas")]
    return sorted({*running} - {system})


def _serves(workloads: Sequence[Untyped]) -> bool:
    """Whether some controller is ready, which leads or waits to."""
    return any(
        w["metadata"]["name"] == _CONTROLLER and (w.get("status") or {}).get("readyReplicas")
        for w in workloads
    )


async def _leaderless(client: Client, system: str, workloads: Sequence[Untyped]) -> str | None:
    """Why nobody leads although somebody could; None: somebody does. A clock that is wrong makes a
    Lease look old, so one that looks so is read again."""
    if not _serves(workloads):
        return None
    try:
        found = await client.get(resources.LEASES, names.LEADER_LEASE, system)
        old = silence(found.spec.renew_time or "", client.now())
        if not found.spec.holder_identity or old < _RENEWED:
            return None
        duration = found.spec.lease_duration_seconds or 0
        await asyncio.sleep(min(_RENEWAL, duration * 2 / 7))
        again = await client.get(resources.LEASES, names.LEADER_LEASE, system)
    except NotFound:
        return None
    if again.metadata.resource_version != found.metadata.resource_version:
        return None
    return f"{found.spec.holder_identity} holds it for {duration} s, and renewed it {old:.0f} s ago"


async def _workloads(client: Client, system: str) -> list[Untyped]:
    """Without tunnels' hosts, whose image may be an earlier one (``wireguard.image``)."""
    return [
        workload
        for kind in (resources.DEPLOYMENTS, resources.DAEMON_SETS)
        for workload in (await client.list(kind.untyped(), system, labels=names.COMPONENTS)).items
        if workload["metadata"]["name"] != _HOSTS
    ]


def _template(workload: Untyped) -> Untyped:
    spec: Untyped = workload["spec"]["template"]["spec"]
    return spec


def _secrets(workloads: Sequence[Untyped]) -> Iterator[tuple[str, str]]:
    """Names of Secrets that pods mount and do not start without, and which workload's."""
    for workload in workloads:
        for volume in _template(workload).get("volumes") or ():
            secret = volume.get("secret") or {}
            if secret and not secret.get("optional"):
                yield secret["secretName"], workload["metadata"]["name"]


async def _unguarded(client: Client) -> list[str]:
    """What can happen for lack of a policy that is meant to be there. One may leave them all out
    (``admission.writers``)."""
    found = await absent(client)
    if len(found) == len(POLICIES):
        try:
            await client.request("GET", f"{PATH}policies/{next(iter(POLICIES))}")
        except NotFound:
            return []
    return found


async def _bound(client: Client, admission: str) -> bool:
    kind = _ADMITTING[admission]
    for version in _VERSIONS:
        bindings: Resource[Untyped] = Resource(
            group="admissionregistration.k8s.io",
            version=version,
            plural=f"{kind.lower()}s",
            kind=kind,
            namespaced=False,
            type=dict,
        )
        try:
            await client.get(bindings, _BINDING)
            return True
        except NotFound:
            continue
    return False


async def _may(client: Client, system: str, binding: str) -> bool:
    from egress_gateway.kube.review import allowed  # with the HTTP library

    account, verb, resource = _RIGHTS[binding]
    asked = {"verb": verb, "group": _GROUPS.get(resource, names.GROUP), "resource": resource}
    if binding.startswith("RoleBinding"):
        asked["namespace"] = system
    spec = {
        "user": f"system:serviceaccount:{system}:{account}",
        "groups": [
            "system:serviceaccounts",
            f"system:serviceaccounts:{system}",
            "system:authenticated",
        ],
        "resourceAttributes": asked,
    }
    return await allowed(client, spec)


async def _resolvers(client: Client) -> list[str]:
    try:
        found = await client.get(resources.SERVICES, "kube-dns", "kube-system")
    except ApiError:
        return []
    listed = found["spec"].get("clusterIPs", ())
    return [ip for ip in listed if _is_address(ip)]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False  # "None": a headless Service
    return True
