"""The settings of the gateway agent."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import msgspec

from egress_gateway.api import names
from egress_gateway.api.validation import host_and_port
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
"""Run by two operators, open to everybody."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``node_name`` comes from the downward API. Times are in seconds."""

    node_name: DnsName
    """Name of the Node that the agent runs on, from the downward API."""
    kubeconfig: str = ""
    """Path of a kubeconfig. Empty: the agent uses its pod's ServiceAccount."""
    system_namespace: DnsLabel = names.SYSTEM_NAMESPACE
    """Namespace of the GatewayStatus objects."""
    keys_namespace: OptionalLabel = ""
    """Namespace of the key Secrets. Empty: the system namespace. Set it as for the controller."""
    health_port: Port = names.HEALTH_PORT
    """TCP port on which the load balancer probes ``/gw/<uid>``. Part of the contract with Azure."""
    probe_port: Port = 8085
    """TCP port of /healthz and /readyz on loopback, for the kubelet's probes."""
    metrics_port: Port = 0
    """TCP port of /metrics. 0: the agent serves no metrics."""
    metrics_auth: bool = False
    """Serve metrics over TLS, and only to clients whose token may get the non-resource URL
    /metrics."""
    primary_ip: str = ""
    """The node's own IPv4 address. Empty: the first InternalIP of its Node object."""
    node_mtu: Mtu = 0
    """MTU of the node's network in bytes. 0: the agent takes the MTU of the default route's
    link."""
    refused_cidrs: Cidrs = []
    """Destinations that pods must not reach through this gateway, such as the cluster's pods and
    Services. The gateway always refuses the node's own address, link-local addresses and
    Azure's."""
    run_dir: AbsolutePath = "/run/egress-gateway"
    """Directory that the agent shares with the tunnel host. The agent also keeps its last answer to
    the load balancer here."""
    resync: Interval = 30.0
    """How often the agent compares everything with the kernel, even if nothing has changed."""
    heartbeat: Interval = 30.0
    """How often the agent writes its GatewayStatus, even if nothing has changed."""
    internet_targets: list[str] = []
    """Hosts on the Internet that always answer: ``198.51.100.10:443`` (TCP) or ``198.51.100.10``
    (ICMP echo). If no host answers a configuration's address on this node, the configuration's pods
    move to other gateways, if there are any. Empty: the agent does not check."""
    internet_interval: Interval = 1.0
    """Time between two checks of an internet target."""
    internet_misses: Count = 3
    """A target counts as lost after this many unanswered checks in a row."""
    verify_targets: list[str] = msgspec.field(default_factory=lambda: list(STUN_SERVERS))
    """STUN servers (RFC 8489) as host:port, over UDP. They tell which address the Internet sees for
    each configuration. With two or more, the majority of the answers counts. Empty: the agent does
    not verify addresses."""
    verify_interval: Interval = 10.0
    """Time between two questions to the STUN servers."""
    ports_interval: Interval = 10.0
    """How often the agent counts connections."""
    ports_warning: Percent = 80
    """The agent warns when this percentage of an address's ports towards one destination is in
    use."""
    tunnel_sources: Cidrs = []
    """CIDRs that may use the gateway's WireGuard ports, besides the InternalIPs of the cluster's
    Nodes. Set this where nodes reach gateways from other addresses. ``0.0.0.0/0`` admits
    everybody."""
    handshake_rate: Amount = 600
    """WireGuard messages other than data (handshakes, cookies) that one node may send in a second.
    0: no limit. Node agents send fewer (``move_rate``)."""
    connections_per_pod: Amount = 16384
    """Connections that one pod may have through a gateway. 0: no limit. The pods of a configuration
    share 64,512 ports of its address towards each destination."""
    connection_share: Amount = 50
    """Percentage of the node's connection table that the pods of one configuration may fill. 0: no
    limit."""
    connection_rate: Amount = 2000
    """Connections that one pod may open in a second, with bursts of twice that number. 0: no limit.
    It bounds what a pod can do between two counts of its connections."""
    mirror_pods: bool = False
    """Whether mirror pods may use a gateway. A mirror pod stands for a static pod, which comes from
    a file on its node. Anybody with a kubelet's credential can create one in any namespace with any
    annotation."""
    connection_log_rate: Count = 1000
    """Maximum number of lines that the connection log writes in a second
    (``spec.connectionLog``)."""

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
        """Where the agent keeps what must survive its restart and not the node's."""
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
