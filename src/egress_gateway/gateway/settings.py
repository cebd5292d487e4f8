"""Everything that the gateway agent can be told."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import msgspec

from egress_gateway.api import names
from egress_gateway.datapath.addresses import IPNetwork
from egress_gateway.datapath.gateway.reach import ProbeTarget
from egress_gateway.service.settings import (
    AbsolutePath,
    Amount,
    Cidrs,
    Count,
    DnsLabel,
    DnsName,
    Interval,
    Mtu,
    OptionalLabel,
    Percent,
    Port,
    mtu,
    networks,
)

STUN_SERVERS: Final = ("stun.cloudflare.com:3478", "stun.l.google.com:19302")
"""Of two operators, open to everybody."""


def host_and_port(text: str) -> tuple[str, int]:
    """``stun.example.com:3478``. Raises ``ValueError``."""
    host, _, port = text.strip().rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is no host:port")
    return host, int(port)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``node_name`` comes from the downward API. Times are in seconds."""

    node_name: DnsName
    """Name of the Node that the agent runs on; the downward API gives it."""
    kubeconfig: str = ""
    """Empty: the ServiceAccount of the pod that we run in."""
    system_namespace: DnsLabel = names.SYSTEM_NAMESPACE
    """Where GatewayStatus objects live."""
    keys_namespace: OptionalLabel = ""
    """Where key Secrets live; empty: the system namespace. As the controller has it."""
    health_port: Port = names.HEALTH_PORT
    """The load balancer probes ``/gw/<uid>`` here; part of the contract."""
    probe_port: Port = 8085
    """TCP port of /healthz and /readyz on loopback, for the kubelet's probes."""
    metrics_port: Port = 0
    """TCP port of /metrics; 0: none."""
    metrics_auth: bool = False
    """Metrics over TLS, for bearers of a token who may get the non-resource URL /metrics."""
    primary_ip: str = ""
    """The node's own IPv4 address; empty: the Node object's first InternalIP."""
    node_mtu: Mtu = 0
    """Bytes; 0: that of the link that the default route uses."""
    refused_cidrs: Cidrs = []
    """Destinations that no pod may reach through this gateway (pods and Services of the
    cluster, say). The node's own address, link-local ones and Azure's are always refused."""
    run_dir: AbsolutePath = "/run/egress-gateway"
    """Shared with the tunnel host; what the load balancer was last told is kept here too."""
    resync: Interval = 30.0
    """How often everything is compared with the kernel, though nothing has changed."""
    heartbeat: Interval = 30.0
    """How often GatewayStatus is written though nothing has changed."""
    internet_targets: list[str] = []
    """Hosts that should answer whatever pods do: ``198.51.100.10:443`` (TCP) or
    ``198.51.100.10`` (ICMP echo). When none answers a configuration's address here, its pods use
    other gateways, if there are others. Empty: nothing is asked."""
    internet_interval: Interval = 1.0
    """Between two questions to an internet target."""
    internet_misses: Count = 3
    """Unanswered questions in a row after which a target counts as lost."""
    verify_targets: list[str] = msgspec.field(default_factory=lambda: list(STUN_SERVERS))
    """STUN servers (RFC 8489), as host:port over UDP, that say what the Internet sees of each
    configuration's address. Two or more: what most of those that answer say counts. Empty: nothing
    is asked."""
    verify_interval: Interval = 10.0
    """Between two questions to them."""
    ports_interval: Interval = 10.0
    """How often connections are counted."""
    ports_warning: Percent = 80
    """Percent of an address's ports towards one destination that are worth a warning."""
    tunnel_sources: Cidrs = []
    """CIDRs that may speak to the gateway's WireGuard ports besides the InternalIPs of the
    cluster's Nodes: where nodes reach gateways from other addresses. ``0.0.0.0/0`` lets everybody
    in."""
    handshake_rate: Amount = 600
    """First messages of WireGuard handshakes a second that one node may send; 0: any number. Node
    agents start fewer (``move_rate``)."""
    connections_per_pod: Amount = 16384
    """Connections that one pod may have through a gateway; 0: any number. A configuration's address
    has 64,512 ports for one destination, which its pods share."""
    connection_share: Amount = 50
    """Percent of the node's connection table that one configuration's pods may fill; 0: all."""
    connection_rate: Amount = 2000
    """Connections that one pod may begin in a second, with twice as many at once; 0: any number.
    It bounds what a pod can do between two counts of its connections."""
    mirror_pods: bool = False
    """Whether mirror pods (of static pods, which come from a file of their node) may use a gateway.
    Whoever holds a kubelet's credential can make one in any namespace, with any annotation."""
    connection_log_rate: Count = 1000
    """Lines a second that the connection log writes at most; see ``spec.connectionLog``."""

    def __post_init__(self) -> None:
        mtu("node_mtu", self.node_mtu)
        if not self.health_port:
            raise ValueError("health_port: 0 is no port that the load balancer could probe")
        if self.primary_ip:
            try:
                IPv4Address(self.primary_ip)
            except ValueError as error:
                raise ValueError(f"primary_ip: {error}") from None
        _ = self.refused, self.tunnel_networks
        if self.connection_share > 100:
            raise ValueError(f"connection_share: {self.connection_share} is more than 100 percent")
        for name in ("handshake_rate", "connection_rate"):
            if getattr(self, name) > 1_000_000:  # nftables and its bursts are bounded
                raise ValueError(f"{name}: more than 1,000,000 a second; 0 is no limit")
        try:
            _ = self.stun_servers
        except ValueError as error:
            raise ValueError(f"verify_targets: {error}") from None
        try:
            _ = self.targets
        except ValueError as error:
            raise ValueError(f"internet_targets: {error}") from None

    @property
    def run_path(self) -> Path:
        return Path(self.run_dir)

    @property
    def targets(self) -> tuple[ProbeTarget, ...]:
        """Raises ``ValueError`` naming the target that is none."""
        return tuple(ProbeTarget.parse(text) for text in self.internet_targets)

    @property
    def stun_servers(self) -> tuple[tuple[str, int], ...]:
        """Hosts and ports. Raises ``ValueError`` naming the one that is none."""
        return tuple(map(host_and_port, self.verify_targets))

    @property
    def tunnel_networks(self) -> tuple[IPNetwork, ...]:
        """Raises ``ValueError`` naming the CIDR that is none."""
        return networks("tunnel_sources", self.tunnel_sources)

    @property
    def refused(self) -> tuple[IPNetwork, ...]:
        """Raises ``ValueError`` naming the CIDR that is none."""
        return networks("refused_cidrs", self.refused_cidrs)
