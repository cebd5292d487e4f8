"""Everything that the node agent can be told."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import msgspec

from egress_gateway.api import names

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """``node_name`` comes from the downward API. Times are in seconds."""

    node_name: str
    kubeconfig: str = ""
    """Empty: the ServiceAccount of the pod that we run in."""
    system_namespace: str = names.SYSTEM_NAMESPACE
    cluster_cidrs: list[str] = []
    """Pods, Services and nodes of the cluster: never through a gateway, whatever a configuration
    says. What gateways always refuse (``datapath.addresses``: link-local, Azure's DNS, multicast)
    stays with the pod without being named here."""
    run_dir: str = "/run/egress-gateway"
    cni_bin_dir: str = "/opt/cni/bin"
    cni_conf_dir: str = "/etc/cni/net.d"
    cni_cache_dir: str = "/var/lib/cni"
    """Where container runtimes keep the results of earlier ADDs: pods that were started before
    the plugin was here are found there."""
    host_run_dir: str = ""
    """``run_dir`` as the container runtime sees it; empty: the same path."""
    attach_timeout: float = 10.0
    """How long CNI ADD may wait for a verified tunnel before the pod is told to try again."""
    resync_interval: float = 10.0
    """How often every attached pod is looked at, whether or not anything was heard of it."""
    probe_interval: float = 0.075
    probe_misses: int = 3
    """A gateway is lost after so many unanswered probes in a row."""
    path_misses: int = 4
    """A tunnel is suspected after so many unanswered echoes in a row, and left unless a new
    handshake proves it."""
    drain_grace: float = 60.0
    """How long connections may finish on a gateway that is to go."""
    hold_down: float = 3.0
    """A lost gateway is used again after it has answered for so long; twice as long each time it
    is lost again soon."""
    spare_tunnels: int = 2
    """``wireguard-go`` interfaces that wait for pods to come; each takes some 5 MB."""
    move_rate: float = 500.0
    """Handshakes a second that this node starts at most; gateways ask for cookies, which costs
    five seconds, beyond about one a millisecond."""
    listen_port_first: int = 20000
    listen_port_last: int = 29999
    """UDP ports of the tunnels' encrypted sockets on the node: below the kernel's ephemeral ports
    and Kubernetes' NodePorts."""
    node_mtu: int = 0
    """0: that of the link with the node's default route."""
    health_port: int = 8083
    uninstall: bool = False
    """Take the plugin out of the node's CNI chain, take the node's label off, keep it so until
    stopped, and be ready when it is done."""

    def __post_init__(self) -> None:
        try:
            _ = self.exceptions
        except ValueError as error:
            raise ValueError(f"cluster_cidrs: {error}; write address/length") from error
        if not 0 < self.listen_port_first <= self.listen_port_last < 65536:
            raise ValueError("listen_port_first and listen_port_last: not a range of UDP ports")

    @property
    def exceptions(self) -> tuple[IPNetwork, ...]:
        """What never belongs to a gateway. Raises ``ValueError`` for a malformed CIDR."""
        texts = dict.fromkeys(self.cluster_cidrs)
        return tuple(ipaddress.ip_network(text, strict=False) for text in texts)

    @property
    def run_path(self) -> Path:
        return Path(self.run_dir)
