"""Everything that the webhook can be told: one schema for flags, environment and file."""

from __future__ import annotations

from typing import Final

import msgspec

from egress_gateway.api import names

_SHORTEST_VALIDITY: Final = 3600.0


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """``EGRESS_GATEWAY_<FIELD>`` in the environment. Times are in seconds."""

    system_namespace: str = names.SYSTEM_NAMESPACE
    """Where the Secret of the certificate is; no pod of it is ever held up."""
    kubeconfig: str = ""
    """Empty: the pod's ServiceAccount, $KUBECONFIG or ~/.kube/config."""
    name: str = "egress-gateway-webhook"
    """Of the Service in front of us, and of the Secret with our certificate."""
    configuration: str = "egress-gateway-pods"
    """The MutatingWebhookConfiguration that is ours to fill."""
    url: str = ""
    """Where the API server finds us when that is not by the Service: ``https://host:port``."""
    address: str = "0.0.0.0"  # noqa: S104  (the API server comes from anywhere)
    port: int = 9443
    health_port: int = 8084
    certificate_validity: float = 90 * 86400.0
    """A new certificate is made when two thirds of that are over."""
    interval: float = 10.0
    """Between looks at certificate and configuration."""

    def __post_init__(self) -> None:
        if self.certificate_validity < _SHORTEST_VALIDITY:
            raise ValueError("certificate_validity: an hour is the least")
        if self.interval <= 0:
            raise ValueError("interval: more than nothing")
