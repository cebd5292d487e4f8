"""Everything that the node agent can be told."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import msgspec

from egress_gateway.api import names
from egress_gateway.service.settings import (
    AbsolutePath,
    Amount,
    Cidrs,
    Count,
    DnsLabel,
    DnsName,
    Interval,
    Mtu,
    Port,
    Rate,
    Seconds,
    mtu,
    networks,
)

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``node_name`` comes from the downward API. Times are in seconds."""

    node_name: DnsName
    """Name of the Node that the agent runs on; the downward API gives it."""
    kubeconfig: str = ""
    """Empty: the ServiceAccount of the pod that we run in."""
    system_namespace: DnsLabel = names.SYSTEM_NAMESPACE
    """Where GatewayStatus objects live."""
    cluster_cidrs: Cidrs = []
    """Pods, Services and nodes of the cluster: never through a gateway, whatever a configuration
    says. What gateways always refuse (``datapath.addresses``: link-local, Azure's DNS, multicast)
    stays with the pod without being named here."""
    run_dir: AbsolutePath = "/run/egress-gateway"
    """Sockets and records of attached pods; shared with the tunnel host."""
    cni_bin_dir: AbsolutePath = "/opt/cni/bin"
    """Where the container runtime looks for plugins."""
    cni_conf_dir: AbsolutePath = "/etc/cni/net.d"
    """Where the container runtime looks for network configurations."""
    cni_cache_dir: AbsolutePath = "/var/lib/cni"
    """Where container runtimes keep the results of earlier ADDs: pods that were started before
    the plugin was here are found there."""
    host_run_dir: AbsolutePath = ""
    """``run_dir`` as the container runtime sees it; empty: the same path."""
    attach_timeout: Interval = 10.0
    """How long CNI ADD may wait for a verified tunnel before the pod is told to try again."""
    resync_interval: Interval = 10.0
    """How often every attached pod is looked at, whether or not anything was heard of it."""
    probe_interval: Interval = 0.075
    """Between two probes of a gateway."""
    probe_misses: Count = 3
    """A gateway is lost after so many unanswered probes in a row."""
    path_misses: Count = 4
    """A tunnel is suspected after so many unanswered echoes in a row, and left unless a new
    handshake proves it."""
    drain_grace: Seconds = 60.0
    """How long connections may finish on a gateway that is to go."""
    hold_down: Seconds = 3.0
    """A lost gateway is used again after it has answered for so long; twice as long each time it
    is lost again soon."""
    spare_tunnels: Amount = 2
    """``wireguard-go`` interfaces that wait for pods to come; each takes some 5 MB."""
    move_rate: Rate = 500.0
    """Handshakes a second that this node starts at most; gateways ask for cookies, which costs
    five seconds, beyond about one a millisecond."""
    listen_port_first: Port = 20000
    """First UDP port of the tunnels' encrypted sockets on the node."""
    listen_port_last: Port = 29999
    """Last UDP port of these sockets. The range lies below the kernel's ephemeral ports and
    Kubernetes' NodePorts."""
    node_mtu: Mtu = 0
    """Bytes; 0: that of the link with the node's default route."""
    guard_links: bool = True
    """Hold what comes out of attached pods at the node's end of their links too: raw frames, and
    sources that are not theirs. Needs connections that come in to pass the node's own connection
    tracking both ways; turn it off where they do not."""
    health_port: Port = 8083
    """TCP port of /healthz and /readyz on loopback, for the kubelet's probes."""
    metrics_port: Port = 0
    """TCP port of /metrics; 0: none."""
    metrics_auth: bool = False
    """Metrics over TLS, for bearers of a token who may get the non-resource URL /metrics."""
    uninstall: bool = False
    """Take the plugin out of the node's CNI chain, take the node's label off, keep it so until
    stopped, and be ready when it is done."""

    def __post_init__(self) -> None:
        _ = self.exceptions
        mtu("node_mtu", self.node_mtu)
        if not 0 < self.listen_port_first <= self.listen_port_last < 65536:
            raise ValueError("listen_port_first and listen_port_last: not a range of UDP ports")

    @property
    def exceptions(self) -> tuple[IPNetwork, ...]:
        """What never belongs to a gateway. Raises ``ValueError`` for a malformed CIDR."""
        return networks("cluster_cidrs", list(dict.fromkeys(self.cluster_cidrs)))

    @property
    def run_path(self) -> Path:
        return Path(self.run_dir)
