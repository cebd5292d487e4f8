"""Every name of the public contract, in one place.

Users, Azure and the Go project (Azure/kube-egress-gateway) depend on these; none may change.
Names without a note are the Go project's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

GROUP: Final = "egressgateway.kubernetes.azure.com"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

POD_ANNOTATION: Final = "kubernetes.azure.com/static-gateway-configuration"
"""On a pod: the name of a StaticGatewayConfiguration in the pod's namespace."""

MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
"""Kubernetes': on the Pod that a kubelet made from a file of its node, so that nobody admitted its
annotations."""

FINALIZER: Final = "static-gateway-configuration-controller.microsoft.com"
GO_LB_FINALIZER: Final = "gateway-lb-configuration-controller.microsoft.com"
GO_VM_FINALIZER: Final = "gateway-vm-configuration-controller.microsoft.com"

GATEWAY_NODE_LABEL: Final = "kubeegressgateway.azure.com/mode"
"""Label and taint key (value ``true``, effect NoSchedule) of gateway nodes."""
AKS_MODE_LABEL: Final = "kubernetes.azure.com/mode"
AKS_POOL_LABEL: Final = "kubernetes.azure.com/agentpool"
CNI_NOT_READY_TAINT: Final = "egressgateway.kubernetes.azure.com/cni-not-ready"
NODE_READY_LABEL: Final = "egressgateway.kubernetes.azure.com/cni-ready"
"""Ours: a node earns it (value ``true``) when the CNI plugin is in place."""

WAIT_CONTAINER: Final = "egress-gateway-wait"
"""Ours, an init container: it ends when the pod has a tunnel."""
TUNNEL_LINKS: Final = ("wg0", "wg1")
"""The links of a pod's tunnels, in the pod."""

OWNING_NAMESPACE_LABEL: Final = f"{GROUP}/owning-gateway-config-namespace"
OWNING_NAME_LABEL: Final = f"{GROUP}/owning-gateway-config-name"
VETOES_LABEL: Final = f"{GROUP}/vetoes"
"""Ours, on a GatewayStatus with vetoes (value ``true``): node agents watch no others."""
COMPONENTS: Final = "app.kubernetes.io/name=static-egress-gateway"
"""Selector of what the chart installs."""
COMPONENT: Final = "app.kubernetes.io/component"
"""Label of that: ``controller``, ``gateway``, ``node`` and others."""
RULE_ANNOTATION: Final = f"{GROUP}/load-balancer-rule"
"""Ours, on a key Secret: the name of the configuration's load balancing rule and probe."""
IP_CONFIGURATION_ANNOTATION: Final = f"{GROUP}/ip-configuration"
"""Ours, on a key Secret: the name of its ipConfig, public addresses and managed prefix."""

ALLOWED_PREFIXES_ANNOTATION: Final = f"{GROUP}/allowed-prefixes"
"""Ours, on a Namespace: ids of the public IP prefixes that its configurations may use."""
ROTATE_KEYS_ANNOTATION: Final = f"{GROUP}/rotate-keys"
"""Ours, on a StaticGatewayConfiguration: each new value asks for a new key pair."""
LONGEST: Final = 256
"""Characters that are read of a tenant's annotation; a name has at most 253."""
KEY_ROTATION_ANNOTATION: Final = f"{GROUP}/key-rotation"
"""Ours, on a key Secret: how far the change of its pair is (JSON)."""
RECORDED: Final = frozenset({RULE_ANNOTATION, IP_CONFIGURATION_ANNOTATION, KEY_ROTATION_ANNOTATION})
"""What a key Secret says besides the pair."""

GO_CONTROLLER_LABEL: Final = "kube-egress-gateway-control-plane"
"""Label (value ``controller-manager``) of the Go project's controller Deployment."""
GO_CONTROLLER_LEASE: Final = "0a299682.microsoft.com"
GO_DAEMON_PREFIX: Final = "kube-egress-gateway-"
"""Names of the Go project's DaemonSets begin so, on AKS too."""
AKS_ADDON_NAMESPACE: Final = "aks-static-egress-gateway"
"""Where AKS runs the DaemonSets of its add-on."""

SYSTEM_NAMESPACE: Final = "kube-egress-gateway-system"
"""Where the components run and key Secrets live, unless told otherwise."""

LOAD_BALANCER: Final = "kubeegressgateway-ilb"
POOL_NAME_TAG: Final = "aks-managed-poolName"
POOL_PREFIX_SIZE_TAG: Final = "aks-managed-gatewayIPPrefixSize"
GATEWAY_NIC_TAG: Final = "aks-managed-static-gateway-nic"
MANAGED_PREFIX: Final = "egressgateway-"
"""Names of ipConfigs, their public IP configurations and managed prefixes begin so."""
IPV6_CONFIG: Final = "-v6"
"""Ours: the ipConfig of a configuration's IPv6 is named as its other one, with this at the end."""
VM_POOL_NAMESPACE: Final = "2c96e82c-842f-11f0-8ea5-6bee14278ecd"
"""Namespace of the version 3 UUID that names a VirtualMachines pool on the load balancer."""

PORT_FIRST: Final = 6000
PORT_LAST: Final = 6999
"""Range of WireGuard server ports, one per configuration of a pool."""
HEALTH_PORT: Final = 8082
HEALTH_PATH: Final = "/gw/"
"""The load balancer probes ``/gw/<uid of the StaticGatewayConfiguration>``."""

FIELD_MANAGER_CONTROLLER: Final = "static-egress-gateway-controller"
FIELD_MANAGER_GATEWAY: Final = "static-egress-gateway-gateway"
FIELD_MANAGER_NODE: Final = "static-egress-gateway-node"
FIELD_MANAGER_WEBHOOK: Final = "static-egress-gateway-webhook"
FORGED_PACKETS: Final = "EgressForgedPackets"
FOREIGN_TUNNEL: Final = "EgressForeignTunnel"
HANDSHAKE_FLOOD: Final = "EgressHandshakeFlood"
PORT_FLOOD: Final = "EgressPortFlood"
ATTEMPTS: Final = frozenset({FORGED_PACKETS, FOREIGN_TUNNEL, HANDSHAKE_FLOOD, PORT_FLOOD})
"""Reasons of agents' Events on their Nodes: what nobody honest sends, and what was refused."""
PLUGIN_NOT_IN_PLACE: Final = "CniPluginNotInPlace"
"""Reason of a node agent's Event on its Node, which has no label then."""
PLUGIN_TOLD_EVERY: Final = 300.0
"""Seconds after which that Event is told again while its cause lasts."""
LEADER_LEASE: Final = "static-egress-gateway-controller"

CNI_PLUGIN: Final = "egress-gateway-cni"
PREDECESSOR_CNI_PLUGIN: Final = "kube-egress-cni"
"""The Go project's plugin. It asks a program of its node on every ADD, of whatever pod, and fails
where that is gone; its configuration stays on the node all the same (``cniUninstall: false``)."""
CNI_CAPABILITY: Final = "io.kubernetes.cri.pod-annotations"
"""Capability that makes containerd and CRI-O hand pod annotations to a plugin."""

SECRET_PRIVATE_KEY: Final = "PrivateKey"  # noqa: S105  (a field's name)
SECRET_PUBLIC_KEY: Final = "PublicKey"  # noqa: S105
SECRET_SECOND_KEY: Final = "SecondPrivateKey"  # noqa: S105
"""Ours: while the pair is being changed, the private half of the one that will be, or was."""


def marks_gateway(labels: Mapping[str, str]) -> bool:
    """Whether a Node of these labels is a gateway's: by the Go project's label, or by that of
    AKS."""
    return labels.get(GATEWAY_NODE_LABEL) == "true" or labels.get(AKS_MODE_LABEL) == "gateway"


def key_secret(uid: str) -> str:
    """Name of the Secret that holds a configuration's WireGuard key pair.

    Agents derive it from the UID and never follow a reference inside an object.
    """
    return f"sgw-{uid}"


def managed(uid: str) -> str:
    """Name of a configuration's ipConfig, public IP configuration and managed prefix."""
    return MANAGED_PREFIX + uid


def is_ipv6_config(name: str) -> bool:
    """Whether a managed ipConfig of this name is one of IPv6."""
    return name.endswith(IPV6_CONFIG)


def asked_configuration(annotations: Mapping[str, str]) -> str:
    """The StaticGatewayConfiguration that a pod's annotations name; empty if they name none.
    Cut: what a pod's owner writes goes into log lines and Events."""
    return annotations.get(POD_ANNOTATION, "")[:LONGEST]


def keys_namespace(chosen: str, system: str) -> str:
    """Where the key Secrets are: ``keys.namespace`` of the chart, or else beside the components."""
    return chosen or system
