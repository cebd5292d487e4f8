"""What containerd, kubelet and kube-proxy of a node are told. Pure: values in, texts out.

Many nodes share one machine and its kernel here, which real ones do not. Whatever of a kubelet's or
a kube-proxy's configuration would change the machine (sysctls, connection tracking) or judge it by
its state (disk full, memory short) is turned off; everything that a pod can notice is as it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any, Final

from egress_gateway_lab.realcluster.filesystems import images

CONTAINERD_SOCKET: Final = "/run/containerd/containerd.sock"
CONTAINERD_ROOT: Final = "/var/lib/containerd"
KUBELET_ROOT: Final = "/var/lib/kubelet"
FOLDER: Final = "/etc/kubernetes"
STATIC_PODS: Final = f"{FOLDER}/manifests"
CERTIFICATES: Final = "/etc/containerd/certs.d"

TUNABLES: Final = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""Sysctls that a kubelet sets where they differ (setupKernelTunables in its container manager).
They are the whole machine's, so a node sees files with these values in their place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfiguration:
    """One node. ``taints``: (key, value, effect)."""

    name: str
    address: str
    provider_id: str
    pod_cidr: IPv4Network
    cluster_cidr: IPv4Network
    labels: dict[str, str]
    taints: Sequence[tuple[str, str, str]]
    cgroup: str
    """Path of the node's cgroup below the hierarchies' roots."""
    nameserver: str
    """Whom its pods ask."""
    node_resolver: str
    """Whom the node itself asks."""
    registry: str
    """``http://address:port`` of the lab's registry."""
    restart_limit: float | None = None
    """Seconds that its kubelet waits at most before it starts again what ended; None: Kubernetes'
    own 300. Kubernetes 1.35 and later (KubeletCrashLoopBackOffMax)."""


def containerd(node: NodeConfiguration) -> str:
    """containerd's config.toml, version 3."""
    return f"""version = 3
root = "{CONTAINERD_ROOT}"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.native", "io.containerd.nri.v1.nri",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{images.PAUSE}"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "{CERTIFICATES}"
[plugins."io.containerd.cri.v1.runtime"]
  # oom_score_adj is the machine's: a lab's processes are not to outlive the machine's own.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
"""


def registry_hosts(node: NodeConfiguration) -> str:
    """hosts.toml for every registry's name (containerd's docs/hosts.md)."""
    return f'server = "{node.registry}"\n[host."{node.registry}"]\n' + (
        '  capabilities = ["pull", "resolve"]\n'
    )


def kubelet(node: NodeConfiguration) -> str:
    """KubeletConfiguration, as JSON (which is YAML)."""
    value: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "x509": {"clientCAFile": f"{FOLDER}/ca.crt"},
            "webhook": {"enabled": False},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "clusterDomain": "cluster.local",
        "clusterDNS": [node.nameserver],
        "resolvConf": "/etc/resolv.conf",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "podCIDR": str(node.pod_cidr),
        "staticPodPath": STATIC_PODS,
        "providerID": node.provider_id,
        "registerWithTaints": [
            {"key": key, "value": value, "effect": effect} for key, value, effect in node.taints
        ],
        # The disk and the memory are the machine's: what else it does evicts nobody here.
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.inodesFree": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "makeIPTablesUtilChains": False,
        "maxPods": 110,
        "nodeStatusUpdateFrequency": "2s",
        "nodeStatusReportFrequency": "30s",
        "nodeLeaseDurationSeconds": 10,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "shutdownGracePeriod": "0s",
        "logging": {"verbosity": 2},
    }
    if node.restart_limit is not None:
        value["crashLoopBackOff"] = {"maxContainerRestartPeriod": f"{node.restart_limit:g}s"}
    return json.dumps(value, indent=1)


def kubelet_arguments(node: NodeConfiguration) -> list[str]:
    """Flags for what the file cannot say."""
    labels = ",".join(f"{key}={value}" for key, value in sorted(node.labels.items()))
    return [
        f"--config={FOLDER}/kubelet.json",
        f"--kubeconfig={FOLDER}/kubelet.kubeconfig",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
        f"--root-dir={KUBELET_ROOT}",
        f"--cert-dir={KUBELET_ROOT}/pki",
        f"--node-labels={labels}",
    ]


def proxy(node: NodeConfiguration) -> str:
    """KubeProxyConfiguration: nftables, and no hand on the machine's connection tracking."""
    value: dict[str, Any] = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": f"{FOLDER}/kube-proxy.kubeconfig"},
        "hostnameOverride": node.name,
        "oomScoreAdj": 0,
        "clusterCIDR": str(node.cluster_cidr),
        "bindAddress": "0.0.0.0",
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "nodePortAddresses": ["primary"],
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "nftables": {"minSyncPeriod": "0.2s"},
    }
    return json.dumps(value, indent=1)
