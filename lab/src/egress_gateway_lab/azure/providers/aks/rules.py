"""The rules of the AKS service, as pure functions over request documents.

``az`` checks next to nothing, so the service refuses what it cannot do. The rules are those that
AKS documents for Static Egress Gateway (https://learn.microsoft.com/azure/aks/configure-static-egress-gateway);
the wording is close to the service's where it is known.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import Any

from egress_gateway.api import names
from egress_gateway_lab.azure.arm.errors import ArmError, invalid
from egress_gateway_lab.azure.arm.store import Document

MODES = ("System", "User", "Gateway")
DEFAULT_VERSION = "1.33"
DEFAULT_PREFIX_SIZE = 31
"""Of a gateway pool that names none."""
NODE_GROUP_NAME = re.compile(r"[\w.()-]{0,79}[\w()-]", re.ASCII)
TYPES = ("VirtualMachineScaleSets", "VirtualMachines")
OS_TYPES = ("Linux", "Windows")
TAINT = re.compile(r"[\w./-]+(=[\w.-]*)?:(NoSchedule|PreferNoSchedule|NoExecute)", re.ASCII)
POOL_NAME = re.compile(r"[a-z][a-z0-9]{0,11}")
LOCAL_DNS_MODES = ("Preferred", "Required", "Disabled")
LOCAL_DNS_VERSION = (1, 37)
"""First Kubernetes version whose pools have LocalDNS unless they are told otherwise."""
MIN_MACHINES_VERSION = (1, 34)
"""First Kubernetes version with gateway pools of type VirtualMachines, whose configurations may
do without public addresses (private IP mode)."""

PATCHES = {
    "1.30": 14,
    "1.31": 13,
    "1.32": 11,
    "1.33": 7,
    "1.34": 3,
    "1.35": 1,
    "1.36": 3,
    "1.37": 0,
}
"""Minor versions that the lab offers, and the patch that someone gets who names none."""
_VERSION = re.compile(r"(\d+\.\d+)(?:\.(\d+))?")

NETWORK_DEFAULTS: dict[str, Any] = {
    "networkPlugin": "azure",
    "networkPluginMode": "overlay",
    "networkPolicy": "none",
    "networkDataplane": "azure",
    "loadBalancerSku": "standard",
    "podCidr": "10.244.0.0/16",
    "serviceCidr": "10.0.0.0/16",
    "dnsServiceIP": "10.0.0.10",
    "outboundType": "loadBalancer",
    "ipFamilies": ["IPv4"],
}

_IMAGE, _FIRST_IMAGE = "AKSUbuntu-2204gen2arm64containerd", "202511.07.0"

POOL_DEFAULTS: dict[str, Any] = {
    "count": 1,
    "vmSize": "Standard_D2pds_v6",
    "osType": "Linux",
    "osSKU": "Ubuntu",
    "osDiskSizeGB": 128,
    "osDiskType": "Managed",
    "kubeletDiskType": "OS",
    "maxPods": 250,
    "type": "VirtualMachineScaleSets",
    "mode": "User",
    "enableAutoScaling": False,
    "enableNodePublicIP": False,
    "scaleDownMode": "Delete",
    "nodeImageVersion": f"{_IMAGE}-{_FIRST_IMAGE}",
    "upgradeSettings": {"maxSurge": "10%"},
}


def full_version(asked: str) -> str:
    """A version with its patch: ``1.33`` means the newest 1.33. Raises ``ArmError``."""
    found = _VERSION.fullmatch(asked)
    if found is None or found[1] not in PATCHES:
        raise ArmError(
            400,
            "K8sVersionNotSupported",
            f"Kubernetes version {asked} is not supported in this region. The lab offers "
            f"{', '.join(PATCHES)}, with or without a patch version.",
            target="kubernetesVersion",
        )
    return f"{found[1]}.{found[2] or PATCHES[found[1]]}"


def minor(version: str) -> tuple[int, int]:
    """(1, 34) of 1.34.2."""
    words = full_version(version).split(".")
    return int(words[0]), int(words[1])


def check_upgrade(old: str, new: str) -> None:
    """A control plane goes up, one minor version at a time."""
    before, after = _numbers(old), _numbers(new)
    if after < before:
        raise ArmError(
            400,
            "OperationNotAllowed",
            f"Downgrading the cluster from {old} to {new} is not allowed.",
            target="kubernetesVersion",
        )
    if after[1] > before[1] + 1:
        raise ArmError(
            400,
            "OperationNotAllowed",
            f"Upgrading Kubernetes version {old} to {new} is not allowed: minor versions cannot "
            "be skipped.",
            target="kubernetesVersion",
        )


def _numbers(version: str) -> list[int]:
    return [int(w) for w in full_version(version).split(".")]


def network_profile(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The cluster's network profile with the service's defaults."""
    profile = {**NETWORK_DEFAULTS, **{k: v for k, v in (given or {}).items() if v is not None}}
    profile.setdefault("podCidrs", [profile["podCidr"]])
    profile.setdefault("serviceCidrs", [profile["serviceCidr"]])
    profile.setdefault("loadBalancerProfile", {"managedOutboundIPs": {"count": 1}})
    profile["loadBalancerProfile"].setdefault("backendPoolType", "nodeIPConfiguration")
    return profile


def pool_properties(given: Mapping[str, Any], version: str) -> dict[str, Any]:
    """A pool's properties with the service's defaults; ``version`` is the cluster's."""
    named = {k: v for k, v in given.items() if v is not None and k != "name"}
    pool = {**POOL_DEFAULTS, **named}
    pool["vmSize"] = pool["vmSize"] or POOL_DEFAULTS["vmSize"]  # az sends "" for AKS's choice
    for computed in ("provisioningState", "powerState", "eTag"):
        pool.pop(computed, None)
    pool.setdefault("nodeImageVersion", POOL_DEFAULTS["nodeImageVersion"])
    if pool["mode"] == "Gateway":
        pool["upgradeSettings"] = {"maxSurge": "0", "maxUnavailable": "5%"}
    # az sends an empty version for "the cluster's".
    pool["orchestratorVersion"] = pool.get("orchestratorVersion") or version
    pool["currentOrchestratorVersion"] = full_version(str(pool["orchestratorVersion"]))
    sizes = _manual_sizes(pool)
    if sizes:
        pool["count"] = sum(int(s.get("count") or 0) for s in sizes)
        pool["vmSize"] = sizes[0].get("size") or pool["vmSize"]
    if pool["mode"] == "Gateway":
        gateway = dict(pool.get("gatewayProfile") or {})
        gateway.setdefault("publicIPPrefixSize", DEFAULT_PREFIX_SIZE)
        pool["gatewayProfile"] = gateway
    return pool


def _manual_sizes(pool: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How a VirtualMachines pool says its number of nodes: by size, not by ``count``."""
    if pool["type"] != "VirtualMachines":
        return []
    scale = (pool.get("virtualMachinesProfile") or {}).get("scale") or {}
    return list(scale.get("manual") or [])


def local_dns(pool: Mapping[str, Any]) -> bool:
    """Whether LocalDNS runs on a pool's nodes: ``Required`` says so, ``Preferred`` (which pools
    have that say nothing) leaves it to AKS, which does so from Kubernetes 1.37.
    https://learn.microsoft.com/azure/aks/localdns-custom"""
    mode = (pool.get("localDNSProfile") or {}).get("mode") or "Preferred"
    since = minor(str(pool["orchestratorVersion"])) >= LOCAL_DNS_VERSION
    return bool(mode == "Required" or (mode == "Preferred" and since))


def next_image(image: str) -> str:
    """The node image that follows, a week later by its name."""
    head, _, number = image.rpartition(".")
    return f"{head}.{int(number) + 1}"


def gateway_enabled(cluster: Document) -> bool:
    profile = cluster["properties"]["networkProfile"].get("staticEgressGatewayProfile") or {}
    return bool(profile.get("enabled"))


def check_cluster(cluster: Document) -> None:
    """Raises ``ArmError`` for a cluster that the service does not make."""
    network = cluster["properties"]["networkProfile"]
    for key in ("podCidr", "serviceCidr"):
        try:
            IPv4Network(network[key])
        except ValueError as error:
            raise invalid(
                f"The value of parameter networkProfile.{key} is invalid: '{network[key]}' is no "
                "CIDR of IPv4.",
                target=f"networkProfile.{key}",
            ) from error
    count = (network["loadBalancerProfile"].get("managedOutboundIPs") or {}).get("count", 1)
    if not 1 <= count <= 100:
        raise invalid(
            f"The value of parameter managedOutboundIPs.count is invalid: {count} is not between "
            "1 and 100.",
            target="networkProfile.loadBalancerProfile.managedOutboundIPs.count",
        )
    group = str(cluster["properties"].get("nodeResourceGroup") or "x")
    if not NODE_GROUP_NAME.fullmatch(group):
        raise invalid(
            f"The value of parameter nodeResourceGroup is invalid: '{group}'.",
            target="nodeResourceGroup",
        )
    if not gateway_enabled(cluster):
        return
    if str(network["loadBalancerSku"]).lower() != "standard":
        raise invalid(
            "Static egress gateway requires a Standard load balancer.",
            target="networkProfile.loadBalancerSku",
        )
    if len(network.get("ipFamilies") or []) > 1:
        raise ArmError(
            400,
            "StaticEgressGatewayNotSupportedWithDualStack",
            "Static egress gateway is not supported on dual-stack clusters "
            f"(ipFamilies {', '.join(network['ipFamilies'])}).",
            target="networkProfile.ipFamilies",
        )
    if network["networkPlugin"] == "none":
        raise invalid(
            "Static egress gateway is not supported with network plugin 'none'.",
            target="networkProfile.networkPlugin",
        )


def check_disable(cluster: Document, pools: list[Document]) -> None:
    """The feature cannot be switched off under its pools."""
    left = [p["name"] for p in pools if p["properties"]["mode"] == "Gateway"]
    if left and not gateway_enabled(cluster):
        raise ArmError(
            400,
            "OperationNotAllowed",
            "Static egress gateway cannot be disabled while the cluster has gateway node pools "
            f"({', '.join(left)}). Delete these node pools first.",
            target="networkProfile.staticEgressGatewayProfile.enabled",
        )


def check_pool(cluster: Document, name: str, pool: Mapping[str, Any], *, least: int) -> None:
    """Raises ``ArmError`` for a pool that the service does not make. ``least``: how few nodes a
    gateway pool may have."""
    if not POOL_NAME.fullmatch(name):
        raise invalid(
            f"The value of parameter agentPoolProfile.name is invalid: '{name}'. Names start "
            "with a lower-case letter and have at most 12 lower-case letters and digits. Please "
            "see https://aka.ms/aks-naming-rules for more details.",
            target="agentPoolProfile.name",
        )
    for member, allowed in (("mode", MODES), ("type", TYPES), ("osType", OS_TYPES)):
        if pool[member] not in allowed:
            raise invalid(
                f"The value of parameter agentPoolProfile.{member} is invalid: '{pool[member]}'. "
                f"Allowed are {', '.join(allowed)}.",
                target=f"agentPoolProfile.{member}",
            )
    dns = (pool.get("localDNSProfile") or {}).get("mode")
    if dns not in (None, *LOCAL_DNS_MODES):
        raise invalid(
            f"The value of parameter agentPoolProfile.localDNSProfile.mode is invalid: '{dns}'. "
            f"Allowed are {', '.join(LOCAL_DNS_MODES)}.",
            target="agentPoolProfile.localDNSProfile.mode",
        )
    for taint in pool.get("nodeTaints") or []:
        if not TAINT.fullmatch(taint):
            raise invalid(
                f"The value of parameter agentPoolProfile.nodeTaints is invalid: '{taint}'. "
                "Taints are written key=value:effect.",
                target="agentPoolProfile.nodeTaints",
            )
    count = pool["count"]
    if not isinstance(count, int) or not 0 <= count <= 1000:
        raise invalid(
            f"The value of parameter agentPoolProfile.count is invalid: '{count}'.",
            target="agentPoolProfile.count",
        )
    if pool["mode"] == "System" and count < 1:
        raise invalid(
            "A system node pool must have at least one node.", target="agentPoolProfile.count"
        )
    _check_version(cluster, name, pool)
    if gateway_enabled(cluster):
        _check_pod_subnet(pool)
    if pool["mode"] == "Gateway":
        _check_gateway_pool(cluster, name, pool, least)
    elif pool.get("gatewayProfile"):
        raise invalid(
            f"Node pool {name} has a gateway profile but its mode is not Gateway.",
            target="agentPoolProfile.gatewayProfile",
        )


def _check_gateway_pool(cluster: Document, name: str, pool: Mapping[str, Any], least: int) -> None:
    size = pool["gatewayProfile"]["publicIPPrefixSize"]
    if not gateway_enabled(cluster):
        raise ArmError(
            400,
            "OperationNotAllowed",
            f"Node pool {name} of mode Gateway needs static egress gateway enabled on the "
            "cluster. Please run 'az aks update --enable-static-egress-gateway' first.",
            target="agentPoolProfile.mode",
        )
    if not isinstance(size, int) or not 28 <= size <= 31:
        raise invalid(
            f"The public IP prefix size of gateway node pool {name} is {size}; it must be "
            "between 28 and 31.",
            target="agentPoolProfile.gatewayProfile.publicIPPrefixSize",
        )
    if not least <= pool["count"] <= 2 ** (32 - size):
        raise invalid(
            f"Gateway agentpool {name} is configured with invalid node count {pool['count']}, "
            f"exceeding max node count {2 ** (32 - size)} according to public IPPrefix size "
            f"/{size} or fewer than 2.",
            code="StaticEgressGatewayInvalidGatewayNodeCount",
            target="agentPoolProfile.count",
        )
    if pool["enableAutoScaling"] or pool.get("minCount") or pool.get("maxCount"):
        raise invalid(
            f"Gateway node pool {name} cannot use the cluster autoscaler; scale it by hand.",
            target="agentPoolProfile.enableAutoScaling",
        )
    if pool["osType"] != "Linux":
        raise invalid(f"Gateway node pool {name} must run Linux.", target="agentPoolProfile.osType")
    version = cluster["properties"]["kubernetesVersion"]
    if pool["type"] == "VirtualMachines" and minor(version) < MIN_MACHINES_VERSION:
        oldest = ".".join(map(str, MIN_MACHINES_VERSION))
        raise invalid(
            f"Node pool type VirtualMachines is not supported for gateway node pool {name}: static "
            f"egress gateway with private IPs needs Kubernetes {oldest} or later; the cluster has "
            f"{version}. Upgrade the cluster, or use --vm-set-type VirtualMachineScaleSets.",
            code="StaticEgressGatewayOnlySupportVMSSNodepool",
            target="agentPoolProfile.type",
        )


def _check_pod_subnet(pool: Mapping[str, Any]) -> None:
    if pool.get("podSubnetID"):
        raise invalid(
            "Static egress gateway is not supported with Azure CNI Pod Subnet (dynamic IP "
            "allocation).",
            target="agentPoolProfile.podSubnetID",
        )


def check_subnet(name: str, pool: Mapping[str, Any], network_id: str) -> None:
    """A pool may have a subnet of its own, in the network of the cluster's other pools."""
    subnet = str(pool.get("vnetSubnetID") or "")
    if subnet and not subnet.lower().startswith(f"{network_id.lower()}/subnets/"):
        raise invalid(
            f"Node pool {name} has the subnet {subnet}, which is not in the cluster's virtual "
            f"network {network_id}. The lab makes that network itself: add a subnet to it.",
            code="AgentPoolVnetSubnetIDNotInClusterVnet",
            target="agentPoolProfile.vnetSubnetID",
        )


def _check_version(cluster: Document, name: str, pool: Mapping[str, Any]) -> None:
    version, plane = pool["orchestratorVersion"], cluster["properties"]["kubernetesVersion"]
    if _numbers(str(version)) > _numbers(str(plane)):
        raise ArmError(
            400,
            "NodePoolMcVersionIncompatible",
            f"Node pool version {version} and control plane version {plane} are incompatible: "
            f"node pool {name} cannot be newer than the control plane.",
            target="agentPoolProfile.orchestratorVersion",
        )


def check_pool_change(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """What cannot be changed on a pool that exists."""
    for key in ("vmSize", "osType", "type", "maxPods", "osDiskType", "vnetSubnetID"):
        if key in new and old.get(key) != new.get(key):
            raise ArmError(
                400,
                "PropertyChangeNotAllowed",
                f"Changing property 'properties.{key}' of node pool {name} is not allowed.",
                target=f"properties.{key}",
            )
    gateway = "Gateway" in (old["mode"], new["mode"])
    if gateway and (old["mode"], old.get("gatewayProfile")) != (
        new["mode"],
        new.get("gatewayProfile"),
    ):
        raise ArmError(
            400,
            "PropertyChangeNotAllowed",
            f"Mode and gateway profile of node pool {name} cannot be changed.",
            target="properties.gatewayProfile",
        )


def cluster_hash(cluster_id: str) -> str:
    """The eight digits in the names of a cluster's resources."""
    digest = hashlib.sha256(cluster_id.lower().encode()).digest()
    return f"{int.from_bytes(digest[:8], 'big') % 10**8:08d}"


def node_labels(
    pool_name: str,
    pool: Mapping[str, Any],
    *,
    group: str,
    region: str,
    zone: str | None,
) -> dict[str, str]:
    """Labels that AKS gives the nodes of a pool. The Go project's own label of gateway nodes is not
    among them."""
    return {
        "agentpool": pool_name,
        names.AKS_POOL_LABEL: pool_name,
        names.AKS_MODE_LABEL: str(pool["mode"]).lower(),
        "kubernetes.azure.com/cluster": group,
        "kubernetes.azure.com/os-sku": str(pool["osSKU"]),
        "kubernetes.azure.com/role": "agent",
        "node.kubernetes.io/instance-type": str(pool["vmSize"]),
        "topology.kubernetes.io/region": region,
        "topology.kubernetes.io/zone": f"{region}-{zone}" if zone else "0",
        **(pool.get("nodeLabels") or {}),
    }


def node_taints(pool: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """(key, value, effect) of a pool's nodes."""
    taints = []
    for text in pool.get("nodeTaints") or []:
        head, _, effect = str(text).rpartition(":")
        key, _, value = head.partition("=")
        taints.append((key, value, effect))
    if pool["mode"] == "Gateway":
        taints.append((names.AKS_MODE_LABEL, "gateway", "NoSchedule"))
    return tuple(taints)


def pool_tags(pool_name: str, pool: Mapping[str, Any], *, group: str) -> dict[str, str]:
    """Tags of a pool's scale set, by which the gateway's controller finds it."""
    tags = {
        **(pool.get("tags") or {}),
        names.POOL_NAME_TAG: pool_name,
        "aks-managed-resourceGroup": group,
    }
    if pool["mode"] == "Gateway":
        size = pool["gatewayProfile"]["publicIPPrefixSize"]
        tags[names.POOL_PREFIX_SIZE_TAG] = str(size)
    return tags
