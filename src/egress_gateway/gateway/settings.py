"""Everything that the gateway agent can be told."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path

import msgspec

from egress_gateway.api import names
from egress_gateway.datapath.gateway.reach import ProbeTarget


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
    mirror_pods: bool = False
    """Whether mirror pods (of static pods, which come from a file of their node) may use a gateway.
    Whoever holds a kubelet's credential can make one in any namespace, with any annotation."""
    connection_log_rate: int = 1000
    """Lines a second that the connection log writes at most; see ``spec.connectionLog``."""

    def __post_init__(self) -> None:
        _checked("refused_cidrs", lambda: self.refused, "write address/length, as 10.0.0.0/8")
        _checked("internet_targets", lambda: self.targets, "write address or address:port")
        if self.primary_ip:
            primary = self.primary_ip
            _checked("primary_ip", lambda: ipaddress.IPv4Address(primary), "write an IPv4 address")
        for name in ("resync", "heartbeat", "internet_interval", "ports_interval"):
            _within(name, getattr(self, name), 0.01, 86400, "seconds")
        _within("health_port", self.health_port, 1, 65535, "TCP port")
        _within("internet_misses", self.internet_misses, 1, 1000, "rounds")
        _within("ports_warning", self.ports_warning, 0, 100, "percent")
        _within("connection_log_rate", self.connection_log_rate, 1, 1_000_000, "lines a second")
        if self.node_mtu:
            _within("node_mtu", self.node_mtu, 576, 65535, "bytes, or 0")
        if not self.node_name:
            raise ValueError("node_name: empty; it comes from the downward API (spec.nodeName)")

    @property
    def run_path(self) -> Path:
        return Path(self.run_dir)

    @property
    def targets(self) -> tuple[ProbeTarget, ...]:
        """Raises ``ValueError`` naming the target that is none."""
        return tuple(ProbeTarget.parse(text) for text in self.internet_targets)

    @property
    def refused(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """Raises ``ValueError`` naming the CIDR that is none."""
        return tuple(ipaddress.ip_network(text, strict=False) for text in self.refused_cidrs)


def _checked(name: str, read: Callable[[], object], mend: str) -> None:
    try:
        read()
    except ValueError as error:
        raise ValueError(f"{name}: {error}; {mend}") from error


def _within(name: str, value: float, least: float, most: float, unit: str) -> None:
    if not least <= value <= most:  # false for a NaN too
        raise ValueError(f"{name}: {value} is not between {least} and {most} ({unit})")
