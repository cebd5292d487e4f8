"""The settings of the controller: one schema for flags, environment and file."""

from __future__ import annotations

import msgspec

from egress_gateway.api import names
from egress_gateway.service.settings import (
    Amount,
    Count,
    DnsLabel,
    Interval,
    OptionalLabel,
    Port,
    Seconds,
    address,
)


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """``EGRESS_GATEWAY_<FIELD>`` in the environment."""

    azure_config: str = "/etc/egress-gateway/azure.json"
    """Path of the Azure configuration (JSON or YAML). The Go project's file works too."""
    system_namespace: DnsLabel = names.SYSTEM_NAMESPACE
    """Namespace of the GatewayStatus objects and the Lease."""
    keys_namespace: OptionalLabel = ""
    """Namespace of the key Secrets and the agents' Role. Empty: the system namespace. With a
    namespace of their own, the controller's token can read the keys and no other Secret."""
    kubeconfig: str = ""
    """Path of a kubeconfig. Empty: the pod's ServiceAccount, $KUBECONFIG or ~/.kube/config."""
    identity: str = ""
    """The controller's name in the Lease. Empty: $POD_NAME, or else the host name and a random
    suffix."""
    leader_elect: bool = True
    """Whether controllers elect a leader. Turn it off only if exactly one controller runs."""
    lease_duration: Interval = 12.0
    """Seconds after which another controller replaces a silent leader. A leader that cannot renew
    its Lease stops after two thirds of this time. We promise 15 s until the successor's first
    action."""
    health_address: str = "0.0.0.0"  # noqa: S104  (the kubelet probes it)
    """IP address on which the controller serves the health port."""
    health_port: Port = 8081
    """TCP port of /healthz and /readyz, for the kubelet's probes."""
    metrics_port: Port = 0
    """TCP port of /metrics. 0: the controller serves no metrics."""
    metrics_auth: bool = False
    """Serve metrics over TLS, and only to clients whose token may get the non-resource URL
    /metrics."""
    ui_port: Port = 0
    """TCP port of the live map, on loopback: `kubectl port-forward` leads there. 0: no map."""
    drift_interval: Interval = 60.0
    """Seconds between two checks of a pool in which nothing changes."""
    retry_limit: Interval = 30.0
    """Maximum number of seconds between two attempts at a write that Azure refused."""
    rotation_timeout: Seconds = 600.0
    """Seconds that pods have to move to a new key pair. If no pod could move, the previous key pair
    stays. Otherwise the controller removes it and names the pods that still use it. 0: the previous
    key pair stays until no pod uses it."""
    agent_pools: list[DnsLabel] = []
    """Gateway pools whose agents have a ServiceAccount of their own. That account may read the keys
    of its pool only. The agents of all other pools share one account."""
    strict_prefixes: bool = False
    """A namespace may use only the public IP prefixes that its own annotation names. False: any
    namespace may also use a prefix that no Namespace's annotation names."""
    strict_pools: bool = False
    """`gatewayVmssProfile` may name only scale sets that are marked: a Node of theirs has the label
    of gateway nodes, or they carry the tag of AKS's gateway pools. False: also one of which no Node
    has joined the cluster, unless AKS has made it."""
    prefix_share: Amount = 0
    """How many configurations of one namespace may share a public IP prefix that is not reserved
    for that namespace alone. 0: no limit."""
    workers: Count = 4
    """How many pools the controller works on at the same time."""

    def __post_init__(self) -> None:
        address("health_address", self.health_address)
