"""Everything that the webhook can be told: one schema for flags, environment and file."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from egress_gateway.api import names
from egress_gateway.service.settings import DnsLabel, DnsName, Interval, Port, address

_SHORTEST_VALIDITY: Final = 3600.0


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """``EGRESS_GATEWAY_<FIELD>`` in the environment. Times are in seconds."""

    system_namespace: DnsLabel = names.SYSTEM_NAMESPACE
    """Namespace of the certificate's Secret. The webhook never holds up a pod of this namespace."""
    kubeconfig: str = ""
    """Path of a kubeconfig. Empty: the pod's ServiceAccount, $KUBECONFIG or ~/.kube/config."""
    name: DnsLabel = "egress-gateway-webhook"
    """Name of the webhook's Service, and of the Secret with its certificate."""
    configuration: DnsName = "egress-gateway-pods"
    """Name of the MutatingWebhookConfiguration that the webhook fills in."""
    url: str = ""
    """URL under which the API server reaches the webhook without the Service:
    ``https://host:port``. The policy ``egress-gateway-webhook`` refuses it: delete that first."""
    wait_image: str = ""
    """Image of the init container that waits in each annotated pod until the pod has its tunnel.
    Empty: pods get none. The chart sets it (``admission.waitForTunnel``)."""
    address: str = "0.0.0.0"  # noqa: S104  (the API server comes from anywhere)
    """IP address on which the webhook serves admission reviews."""
    port: Port = 9443
    """TCP port of admission reviews."""
    health_port: Port = 8084
    """TCP port of /healthz and /readyz, for the kubelet's probes."""
    health_address: str = "0.0.0.0"  # noqa: S104  (the kubelet probes it)
    """IP address on which the webhook serves the health port."""
    metrics_port: Port = 0
    """TCP port of /metrics. 0: the webhook serves no metrics."""
    metrics_auth: bool = False
    """Serve metrics over TLS, and only to clients whose token may get the non-resource URL
    /metrics."""
    certificate_validity: Interval = 90 * 86400.0
    """How long a certificate is valid. The webhook makes a new one after two thirds of that
    time."""
    interval: Interval = 10.0
    """Time between two checks of the certificate and the MutatingWebhookConfiguration."""

    def __post_init__(self) -> None:
        if self.certificate_validity < _SHORTEST_VALIDITY:
            raise ValueError("certificate_validity: it must be at least an hour")
        address("address", self.address)
        address("health_address", self.health_address)
        if self.url and not re.fullmatch(r"https://[^/\s]+", self.url):
            raise ValueError(f"url: {self.url!r} is not https://host:port")
