"""Everything that the controller can be told: one schema for flags, environment and file."""

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
    """File with the Azure configuration (JSON or YAML); the Go project's is accepted."""
    system_namespace: DnsLabel = names.SYSTEM_NAMESPACE
    """Where GatewayStatus objects and the Lease live."""
    keys_namespace: OptionalLabel = ""
    """Where key Secrets and the agents' Role live; empty: the system namespace. In one of their own
    the controller's token reads keys and no other Secret."""
    kubeconfig: str = ""
    """Empty: the pod's ServiceAccount, $KUBECONFIG or ~/.kube/config."""
    identity: str = ""
    """Name in the Lease; empty: $POD_NAME, else the host's name with a random part."""
    leader_elect: bool = True
    """Off only when exactly one controller runs."""
    lease_duration: Interval = 12.0
    """Seconds after which a silent leader is replaced. Fifteen are promised, to the successor's
    first act; a leader that cannot renew acts for two thirds of it."""
    health_address: str = "0.0.0.0"  # noqa: S104  (the kubelet probes it)
    """IP address that the port is bound to."""
    health_port: Port = 8081
    """TCP port of /healthz and /readyz, for the kubelet's probes."""
    metrics_port: Port = 0
    """TCP port of /metrics; 0: none."""
    metrics_auth: bool = False
    """Metrics over TLS, for bearers of a token who may get the non-resource URL /metrics."""
    drift_interval: Interval = 60.0
    """Seconds between looks at a settled pool."""
    retry_limit: Interval = 30.0
    """Seconds, at most, between tries of what was refused."""
    rotation_timeout: Seconds = 600.0
    """Seconds that pods have to move to a new key pair. If none could, the former one stays; else
    it goes, and who still uses it is named. 0: it stays until nobody does."""
    agent_pools: list[DnsLabel] = []
    """Gateway pools whose agents have an account of their own: the Role that names a pool's keys is
    that account's. All other pools' agents share one."""
    strict_prefixes: bool = False
    """A namespace uses the public IP prefixes that its own annotation names, and no others. False:
    any namespace may use a prefix that no Namespace's annotation names."""
    prefix_share: Amount = 0
    """Configurations of one namespace that may use the same public IP prefix, unless the prefix is
    reserved for that namespace alone. 0: as many as there is room for."""
    workers: Count = 4
    """Pools worked on at once."""

    def __post_init__(self) -> None:
        address("health_address", self.health_address)
