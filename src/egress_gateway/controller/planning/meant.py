"""Specs that are valid and cannot be meant. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, collapse_addresses, ip_network

from egress_gateway.api.types import StaticGatewayConfigurationSpec

_EVERYTHING = IPv4Network("0.0.0.0/0")
_NO_DESTINATIONS = [IPv4Network(n) for n in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")]
"""Nothing is routed there: "this network", loopback (RFC 6890), multicast and what is reserved."""


def sends_nothing(spec: StaticGatewayConfigurationSpec) -> str:
    """Why no IPv4 destination of a pod is the gateway's, and what mends it; empty if some are."""
    networks = _ipv4(spec.exclude_cidrs)
    if spec.default_route == "azureNetworking":
        if networks:
            return ""
        return (
            "spec.defaultRoute is azureNetworking and spec.excludeCidrs names no IPv4 network, so "
            "no destination is the gateway's: list those that are, or remove spec.defaultRoute"
        )
    if _EVERYTHING in collapse_addresses([*networks, *_NO_DESTINATIONS]):
        return (
            "spec.excludeCidrs covers every IPv4 address, so no destination is the gateway's: list "
            "only the networks that pods are to reach without it"
        )
    return ""


def _ipv4(listed: Iterable[str]) -> list[IPv4Network]:
    """What is no network is told of elsewhere."""
    found = []
    for text in listed:
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            continue
        if isinstance(network, IPv4Network):
            found.append(network)
    return found
