"""What the programs of a node are told: each node its own cgroup, none a hand on the machine."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from ipaddress import IPv4Network

from egress_gateway_lab.realcluster import configuration
from egress_gateway_lab.realcluster.configuration import NodeConfiguration

NODE = NodeConfiguration(
    name="aks-nodepool1-0",
    address="10.224.0.4",
    provider_id="azure:///subscriptions/0/vm/0",
    pod_cidr=IPv4Network("10.244.3.0/24"),
    cluster_cidr=IPv4Network("10.244.0.0/16"),
    labels={"kubernetes.azure.com/mode": "gateway", "agentpool": "npegress"},
    taints=(("kubeegressgateway.azure.com/mode", "true", "NoSchedule"),),
    cgroup="egress-gateway-lab/lab/aks-nodepool1-0",
    nameserver="169.254.10.11",
    node_resolver="169.254.10.10",
    registry="http://10.225.0.4:5000",
)


def test_containerd_is_told_in_its_third_language() -> None:
    told = tomllib.loads(configuration.containerd(NODE))
    assert told["version"] == 3
    runtime = told["plugins"]["io.containerd.cri.v1.runtime"]
    assert runtime["restrict_oom_score_adj"] is True
    assert runtime["cni"] == {"bin_dirs": ["/opt/cni/bin"], "conf_dir": "/etc/cni/net.d"}
    assert tomllib.loads(configuration.registry_hosts(NODE))["server"] == NODE.registry


def test_a_kubelet_has_a_cgroup_of_its_own_on_either_version() -> None:
    told = json.loads(configuration.kubelet(NODE))
    assert told["cgroupRoot"] == "/egress-gateway-lab/lab/aks-nodepool1-0"
    assert told["cgroupDriver"] == "cgroupfs"
    assert told["failCgroupV1"] is False
    assert told["providerID"] == NODE.provider_id
    assert told["registerWithTaints"] == [
        {"key": "kubeegressgateway.azure.com/mode", "value": "true", "effect": "NoSchedule"}
    ]
    arguments = configuration.kubelet_arguments(NODE)
    assert "--node-labels=agentpool=npegress,kubernetes.azure.com/mode=gateway" in arguments


def test_a_kubelet_waits_before_restarts_as_long_as_it_does_elsewhere_unless_it_is_told() -> None:
    assert "crashLoopBackOff" not in json.loads(configuration.kubelet(NODE))
    told = json.loads(configuration.kubelet(dataclasses.replace(NODE, restart_limit=1.0)))
    assert told["crashLoopBackOff"] == {"maxContainerRestartPeriod": "1s"}


def test_kube_proxy_leaves_the_machines_connection_tracking_alone() -> None:
    told = json.loads(configuration.proxy(NODE))
    assert told["mode"] == "nftables"
    limits = told["conntrack"]
    assert (limits["maxPerCore"], limits["min"]) == (0, 0)
    assert (limits["tcpEstablishedTimeout"], limits["tcpCloseWaitTimeout"]) == ("0s", "0s")
