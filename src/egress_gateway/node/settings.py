"""The settings of the node agent."""

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
    """Name of the Node that the agent runs on, from the downward API."""
    kubeconfig: str = ""
    """Path of a kubeconfig. Empty: the agent uses its pod's ServiceAccount."""
    system_namespace: DnsLabel = names.SYSTEM_NAMESPACE
    """Namespace of the GatewayStatus objects."""
    cluster_cidrs: Cidrs = []
    """CIDRs of the cluster's pods, Services and nodes. Traffic to them never uses a gateway,
    whatever a configuration says. The same holds for what gateways always refuse, which needs no
    entry here: link-local addresses, Azure's DNS, multicast (``datapath.addresses``)."""
    run_dir: AbsolutePath = "/run/egress-gateway"
    """Directory of the sockets and the records of attached pods. The agent shares it with the
    tunnel host."""
    cni_bin_dir: AbsolutePath = "/opt/cni/bin"
    """Directory where the container runtime looks for plugins."""
    cni_conf_dir: AbsolutePath = "/etc/cni/net.d"
    """Directory where the container runtime looks for network configurations."""
    cni_cache_dir: AbsolutePath = "/var/lib/cni"
    """Directory where container runtimes keep the results of earlier ADDs. The agent finds there
    the pods that started before the plugin was installed."""
    host_run_dir: AbsolutePath = ""
    """``run_dir`` as the container runtime sees it. Empty: the same path."""
    attach_timeout: Interval = 10.0
    """How long CNI ADD waits for a verified tunnel. After that, the container runtime tries
    again."""
    resync_interval: Interval = 10.0
    """How often the agent checks every attached pod, even if it has heard of no change."""
    probe_interval: Interval = 0.075
    """Time between two probes of a gateway."""
    probe_misses: Count = 3
    """A gateway counts as lost after this many unanswered probes in a row."""
    path_misses: Count = 4
    """The agent suspects a tunnel after this many unanswered echoes in a row. It leaves the tunnel
    unless a new handshake succeeds."""
    drain_grace: Seconds = 60.0
    """How long connections may take to finish on a gateway that is about to go."""
    hold_down: Seconds = 3.0
    """The agent uses a lost gateway again after the gateway has answered for this long. The time
    doubles each time the gateway is soon lost again."""
    spare_tunnels: Amount = 2
    """Number of ``wireguard-go`` interfaces that the agent keeps ready for new pods. Each takes
    about 5 MB."""
    move_rate: Rate = 500.0
    """Maximum number of handshakes that this node starts in a second. Beyond about one a
    millisecond a gateway asks for cookies, and then takes twenty a second from one node."""
    listen_port_first: Port = 20000
    """First UDP port for the tunnels' encrypted sockets on the node."""
    listen_port_last: Port = 29999
    """Last UDP port for these sockets. Keep the range below the kernel's ephemeral ports and
    Kubernetes' NodePorts."""
    node_mtu: Mtu = 0
    """MTU of the node's network in bytes. 0: the agent takes the MTU of the default route's
    link."""
    guard_links: bool = True
    """Also filter attached pods at the node's end of their links. This stops raw frames and forged
    source addresses. Incoming connections must pass the node's connection tracking in both
    directions; turn the setting off where they do not."""
    health_port: Port = 8083
    """TCP port of /healthz and /readyz on loopback, for the kubelet's probes."""
    metrics_port: Port = 0
    """TCP port of /metrics. 0: the agent serves no metrics."""
    metrics_auth: bool = False
    """Serve metrics over TLS, and only to clients whose token may get the non-resource URL
    /metrics."""
    uninstall: bool = False
    """Remove the plugin from the node's CNI chain and the label from the Node, and keep both
    removed until the process stops. The process is ready when both are gone."""

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
        """Where the agent keeps what must survive its restart and not the node's."""
        return Path(self.run_dir)
