"""Settings of the fabric: addresses of what Azure itself provides, and of the lab's Internet.

Everything that a customer would create in Azure is not here: it comes from the resources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
)
from typing import Final

WIRE_SERVER: Final = IPv4Address("168.63.129.16")
"""Azure's DNS server and the source of load balancer probes, in every virtual network.
https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16"""
METADATA_SERVICE: Final = IPv4Address("169.254.169.254")
GATEWAY_MAC: Final = "12:34:56:78:9a:bc"
"""The one MAC address that every machine in Azure sees for everything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A what-is-my-IP host with echo ports. ``names`` are what DNS knows it by."""

    address: IPv4Address
    names: tuple[str, ...] = ()
    address6: IPv6Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSettings:
    """A network beyond the virtual network: its link addresses and its hosts.

    ``near`` is the fabric's end of the link, ``far`` the site's.
    """

    near: IPv4Interface
    far: IPv4Interface
    networks: tuple[IPv4Network, ...]
    hosts: tuple[Host, ...]
    near6: IPv6Interface | None = None
    """With it the site has IPv6; its own end is the next address."""


INTERNET: Final = SiteSettings(
    near=IPv4Interface("198.51.100.1/30"),
    far=IPv4Interface("198.51.100.2/30"),
    networks=(IPv4Network("0.0.0.0/0"),),
    hosts=(
        Host(
            address=IPv4Address("198.51.100.10"),
            names=("ifconfig.me",),
            address6=IPv6Address("2001:db8:ffff::10"),
        ),
        Host(
            address=IPv4Address("198.51.100.11"),
            names=("ifconf.me",),
            address6=IPv6Address("2001:db8:ffff::11"),
        ),
        *(
            Host(address=IPv4Address("198.51.100.20") + n, names=(f"probe{n}.lab.example",))
            for n in range(4)
        ),
        Host(
            address=IPv4Address("198.51.100.30"),
            names=("stun.cloudflare.com",),
            address6=IPv6Address("2001:db8:ffff::30"),
        ),
        Host(
            address=IPv4Address("198.51.100.31"),
            names=("stun.l.google.com",),
            address6=IPv6Address("2001:db8:ffff::31"),
        ),
    ),
    near6=IPv6Interface("2001:db8:ffff:1::1/64"),
)
"""Two hosts for people, four for tests that want a destination of their own, and two that gateways
ask what is seen of them. Those are hosts of their own, since packets to the others are counted."""

ON_PREMISES: Final = SiteSettings(
    near=IPv4Interface("172.16.255.1/30"),
    far=IPv4Interface("172.16.255.2/30"),
    networks=(IPv4Network("172.16.0.0/12"),),
    hosts=(Host(address=IPv4Address("172.16.10.10"), names=("whoami.corp.example",)),),
)
"""A company network reached over a private link: private addresses, no translation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FabricSettings:
    """``mtu`` in bytes. ``service_addresses`` are the fabric's own inside the virtual network
    (the Kubernetes API and ARM listen there). ``names`` adds to what DNS knows.
    """

    mtu: int = 1500
    service_addresses: tuple[IPv4Address, ...] = (
        IPv4Address("10.225.0.4"),
        IPv4Address("10.225.0.5"),
    )
    internet: SiteSettings = INTERNET
    on_premises: SiteSettings = ON_PREMISES
    names: Mapping[str, IPv4Address] = field(default_factory=dict)
    probe_timeout: float = 2.0
    """Seconds that a health probe may take; never more than its interval."""
    udp_idle_timeout: int = 240
    """Seconds that a balancer remembers a silent UDP flow; Azure's default is four minutes."""
    log_requests: int = 100_000
    """How many requests the what-is-my-IP hosts remember."""
