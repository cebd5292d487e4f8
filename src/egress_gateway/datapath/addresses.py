"""Addresses and networks of both families together, which ``ipaddress`` keeps apart; and the two
addresses that the node agent and the gateway agree on."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

ECHO_ADDRESS: Final = ipaddress.IPv4Address("169.254.103.1")
"""The node's end of the pair. It answers ICMP echo of pods, and nothing else: such a probe has gone
through the tunnel and the translation, both ways. Link-local: it never leaves the pair."""
ECHO_ADDRESS6: Final = ipaddress.IPv6Address("fd65:6777:7061:6972::1")
"""The same for IPv6: a unique local address (RFC 4193) that nobody routes."""
ECHO_NETWORK6: Final = ipaddress.IPv6Network("fd65:6777:7061:6972::/64")
"""Around it. Gateways refuse the rest of it."""


ALWAYS_REFUSED: Final[tuple[IPNetwork, ...]] = (
    IPv4Network("169.254.0.0/16"),  # link-local: metadata service, NodeLocal DNSCache, LocalDNS
    IPv4Network("168.63.129.16/32"),  # Azure's platform address
    IPv4Network("127.0.0.0/8"),
    IPv4Network("224.0.0.0/4"),
    IPv6Network("::/127"),  # unspecified, loopback
    IPv6Network("::ffff:0:0/96"),  # IPv4 in disguise
    IPv6Network("fe80::/10"),
    IPv6Network("ff00::/8"),
)
"""What no gateway ever carries, whatever a configuration says, because it means something else on
every machine. So a pod never sends it into a tunnel: it stays on the pod's own link."""


def parse_network(text: str) -> IPNetwork:
    """An address, or a network in CIDR form. One value for all who ask for the same: peers come
    by the ten thousand, again at every look. Raises ``ValueError``."""
    return _network(text.removesuffix("/128" if ":" in text else "/32"))


@functools.lru_cache(maxsize=1 << 15)
def _network(text: str) -> IPNetwork:
    found = ipaddress.ip_network(_zoneless(text))
    with contextlib.suppress(AttributeError):
        del found.hosts  # a function for each address, half its size
    return found


def parse_networks(texts: Iterable[str]) -> tuple[IPNetwork, ...]:
    """Those of ``texts`` that are addresses or networks, whatever their host bits are."""
    found = []
    for text in texts:
        with contextlib.suppress(ValueError):
            found.append(ipaddress.ip_network(_zoneless(text), strict=False))
    return tuple(found)


def parse_address(text: str) -> IPAddress:
    """Raises ``ValueError``."""
    return ipaddress.ip_address(_zoneless(text))


def _zoneless(text: str) -> str:
    """A zone (RFC 4007) means something on one machine alone; and ``ipaddress`` takes any text for
    one, quotes and line feeds too, which would stand in nftables' rules."""
    if "%" in text:
        raise ValueError(f"{text[:60]!r} has a zone")
    return text


def within(inner: IPNetwork, outer: IPNetwork) -> bool:
    """Whether ``inner`` lies inside ``outer``; never across families."""
    # ``subnet_of`` and ``num_addresses`` would make each network three times as large for good.
    return inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def collapse(networks: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    """The fewest networks that are the same addresses, IPv4 first."""
    kept = list(networks)
    four = [n for n in kept if isinstance(n, ipaddress.IPv4Network)]
    six = [n for n in kept if isinstance(n, ipaddress.IPv6Network)]
    return (*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six))
