"""Networks of both families together: containment and merging, which ``ipaddress`` refuses to do
across families."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from egress_gateway.datapath.wireguard import IPNetwork


def within(inner: IPNetwork, outer: IPNetwork) -> bool:
    """Whether ``inner`` lies inside ``outer``; never across families."""
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)


def collapse(networks: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    """The fewest networks that are the same addresses, IPv4 first."""
    kept = list(networks)
    four = [n for n in kept if isinstance(n, ipaddress.IPv4Network)]
    six = [n for n in kept if isinstance(n, ipaddress.IPv6Network)]
    return (*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six))
