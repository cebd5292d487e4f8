"""Everything that the gateway agent can be told."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import msgspec

from egress_gateway.api import names
from egress_gateway.datapath.gateway.reach import Target


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``node_name`` comes from the downward API. Times are in seconds."""

    node_name: str
    kubeconfig: str = ""
    """Empty: the ServiceAccount of the pod that we run in."""
    system_namespace: str = names.SYSTEM_NAMESPACE
    health_port: int = names.HEALTH_PORT
    """The load balancer probes ``/gw/<uid>`` here; part of the contract."""
    primary_ip: str = ""
    """The node's own IPv4 address; empty: the Node object's first InternalIP."""
    node_mtu: int = 0
    """Bytes; 0: that of the link that the default route uses."""
    refused_cidrs: list[str] = []
    """Destinations that no pod may reach through this gateway (pods and Services of the
    cluster, say). The node's own address, link-local ones and Azure's are always refused."""
    run_dir: str = "/run/egress-gateway"
    """Shared with the tunnel host; what the load balancer was last told is kept here too."""
    resync: float = 30.0
    """How often everything is compared with the kernel, though nothing has changed."""
    heartbeat: float = 30.0
    internet_targets: list[str] = []
    """Hosts that should answer whatever pods do: ``198.51.100.10:443`` (TCP) or
    ``198.51.100.10`` (ICMP echo). When none answers a configuration's address here, its pods use
    other gateways, if there are others. Empty: nothing is asked."""
    internet_interval: float = 1.0
    internet_misses: int = 3
    ports_interval: float = 10.0
    """How often connections are counted."""
    ports_warning: int = 80
    """Percent of an address's ports towards one destination that are worth a warning."""
    connection_log_rate: int = 1000
    """Lines a second that the connection log writes at most; see ``spec.connectionLog``."""

    @property
    def run_path(self) -> Path:
        return Path(self.run_dir)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Raises ``ValueError`` naming the target that is none."""
        return tuple(Target.parse(text) for text in self.internet_targets)

    @property
    def refused(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """Raises ``ValueError`` naming the CIDR that is none."""
        return tuple(ipaddress.ip_network(text, strict=False) for text in self.refused_cidrs)
