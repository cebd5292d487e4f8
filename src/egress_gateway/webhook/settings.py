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
    """Where the Secret of the certificate is; no pod of it is ever held up."""
    kubeconfig: str = ""
    """Empty: the pod's ServiceAccount, $KUBECONFIG or ~/.kube/config."""
    name: DnsLabel = "egress-gateway-webhook"
    """Of the Service in front of us, and of the Secret with our certificate."""
    configuration: DnsName = "egress-gateway-pods"
    """The MutatingWebhookConfiguration that is ours to fill."""
    url: str = ""
    """Where the API server finds us when that is not by the Service: ``https://host:port``."""
    address: str = "0.0.0.0"  # noqa: S104  (the API server comes from anywhere)
    """IP address that the port is bound to."""
    port: Port = 9443
    """TCP port of admission reviews."""
    health_port: Port = 8084
    """TCP port of /healthz and /readyz, for the kubelet's probes."""
    health_address: str = "0.0.0.0"  # noqa: S104  (the kubelet probes it)
    """IP address that this port is bound to."""
    metrics_port: Port = 0
    """TCP port of /metrics; 0: none."""
    metrics_auth: bool = False
    """Metrics over TLS, for bearers of a token who may get the non-resource URL /metrics."""
    certificate_validity: Interval = 90 * 86400.0
    """A new certificate is made when two thirds of that are over."""
    interval: Interval = 10.0
    """Between looks at certificate and configuration."""

    def __post_init__(self) -> None:
        if self.certificate_validity < _SHORTEST_VALIDITY:
            raise ValueError("certificate_validity: an hour is the least")
        address("address", self.address)
        address("health_address", self.health_address)
        if self.url and not re.fullmatch(r"https://[^/\s]+", self.url):
            raise ValueError(f"url: {self.url!r} is not https://host:port")
