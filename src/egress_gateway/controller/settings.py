"""Everything that the controller can be told: one schema for flags, environment and file."""

from __future__ import annotations

import msgspec

from egress_gateway.api import names


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """``EGRESS_GATEWAY_<FIELD>`` in the environment."""

    azure_config: str = "/etc/egress-gateway/azure.json"
    """File with the Azure configuration (JSON or YAML); the Go project's is accepted."""
    system_namespace: str = names.SYSTEM_NAMESPACE
    """Where key Secrets, the agents' Role, GatewayStatus objects and the Lease live."""
    kubeconfig: str = ""
    """Empty: the pod's ServiceAccount, $KUBECONFIG or ~/.kube/config."""
    identity: str = ""
    """Name in the Lease; empty: $POD_NAME, else the host's name with a random part."""
    leader_elect: bool = True
    """Off only when exactly one controller runs."""
    lease_duration: float = 12.0
    """Seconds after which a silent leader is replaced. Fifteen are promised, to the successor's
    first act; a leader that cannot renew acts for two thirds of it."""
    health_address: str = "0.0.0.0"  # noqa: S104  (the kubelet probes it)
    health_port: int = 8081
    drift_interval: float = 60.0
    """Seconds between looks at a settled pool."""
    retry_limit: float = 30.0
    """Seconds, at most, between tries of what was refused."""
    rotation_timeout: float = 600.0
    """Seconds that pods have to move to a new key pair. If none could, the former one stays; else
    it goes, and who still uses it is named. 0: it stays until nobody does."""
    workers: int = 4
    """Pools worked on at once."""
