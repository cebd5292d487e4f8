"""Specs that are valid and cannot be meant. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Final, Literal, TypeVar

from egress_gateway.api.types import StaticGatewayConfigurationSpec

_EVERYTHING4: Final = IPv4Network("0.0.0.0/0")
_NO_DESTINATIONS: Final = [
    IPv4Network(n) for n in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
]
"""Nothing is routed there: "this network", loopback, link-local (RFC 6890), multicast and what is
reserved."""
_NO_DESTINATIONS6: Final = [IPv6Network(n) for n in ("::/127", "fe80::/10", "ff00::/8")]
_EVERYTHING6: Final = IPv6Network("2000::/3")
"""What IANA gives out for the Internet (IPv6 Global Unicast Address Assignments)."""

_Network = TypeVar("_Network", IPv4Network, IPv6Network)


def sends_nothing(spec: StaticGatewayConfigurationSpec, *, family: Literal[4, 6] = 4) -> str:
    """Why no destination of the family is the gateway's, and what mends it; empty if some are."""
    four, six = _networks(spec.exclude_cidrs)
    if spec.default_route == "azureNetworking":
        if _routed(four, _NO_DESTINATIONS) if family == 4 else _routed(six, _NO_DESTINATIONS6):
            return ""
        return (
            f"spec.defaultRoute is azureNetworking and spec.excludeCidrs names no IPv{family} "
            "network that is routed, so no destination is the gateway's: list those that are, or "
            "remove spec.defaultRoute"
        )
    everything = (
        _EVERYTHING4 in collapse_addresses([*four, *_NO_DESTINATIONS])
        if family == 4
        else any(_EVERYTHING6.subnet_of(n) for n in collapse_addresses(six))
    )
    if everything:
        return (
            f"spec.excludeCidrs covers every IPv{family} address, so no destination is the "
            "gateway's: list only the networks that pods are to reach without it"
        )
    return ""


def _routed(networks: Iterable[_Network], nowhere: Iterable[_Network]) -> bool:
    """Whether anything may be sent to one of ``networks``."""
    return any(not any(n.subnet_of(none) for none in nowhere) for n in networks)


def _networks(listed: Iterable[str]) -> tuple[list[IPv4Network], list[IPv6Network]]:
    """What is no network is told of elsewhere."""
    four: list[IPv4Network] = []
    six: list[IPv6Network] = []
    for text in listed:
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            continue
        if isinstance(network, IPv4Network):
            four.append(network)
        else:
            six.append(network)
    return four, six
