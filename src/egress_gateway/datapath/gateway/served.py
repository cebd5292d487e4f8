"""What a gateway node serves, as values: configurations, their WireGuard servers and zones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal

from egress_gateway.api import names
from egress_gateway.datapath.addresses import IPAddress, IPNetwork, collapse, within

PORTS: Final = (names.PORT_FIRST, names.PORT_LAST)
"""WireGuard server ports; one per configuration of a pool, as the Go project has it."""

Family = Literal[4, 6]


@dataclass(frozen=True, slots=True, kw_only=True)
class WireGuardServer:
    """A WireGuard server: an interface of its own, with a key pair of its own. ``private_key``
    None: not known at the moment; an interface that is there goes on with the key it has, and
    none is made."""

    port: int
    private_key: str | None = field(repr=False)

    @property
    def interface(self) -> str:
        """The link's name, which the port alone decides."""
        return f"wg-{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedConfiguration:
    """What a gateway node does for one StaticGatewayConfiguration.

    ``port`` is its WireGuard port and names everything of it; ``secondary`` the private address
    its pods' packets leave with, ``secondary6`` the same of IPv6 (None: IPv6 is not carried);
    ``frontend`` the load balancer's address, if known; ``name`` is for messages. ``private_key``:
    as a ``WireGuardServer``'s.

    While its key pair is being changed it has a ``second`` server. All else is the same for both:
    the conntrack zone above all, so that a connection may change from one to the other. Replies go
    out by the server that the connection last came in by; without ``second_answers`` by the first.
    """

    name: str
    port: int
    private_key: str | None = field(repr=False)
    secondary: IPv4Address
    secondary6: IPv6Address | None = None
    frontend: IPAddress | None = None
    destinations: tuple[IPNetwork, ...] = ()
    """What it names as the gateway's (``excludeCidrs`` under ``azureNetworking``)."""
    second: WireGuardServer | None = None
    second_answers: bool = True
    zone: int = 0
    """Conntrack zone; 0: its port. See ``zones``."""

    @property
    def servers(self) -> tuple[WireGuardServer, ...]:
        """The first one, then the second while there is one."""
        first = WireGuardServer(port=self.port, private_key=self.private_key)
        return (first, self.second) if self.second else (first,)

    @property
    def in_zone(self) -> int:
        """The conntrack zone."""
        return self.zone or self.port

    @property
    def interface(self) -> str:
        """The link of the first server; ``second`` has one of its own."""
        return f"wg-{self.port}"

    def address(self, family: Family) -> IPAddress | None:
        """What its pods' packets of a family leave with."""
        return self.secondary if family == 4 else self.secondary6

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """The secondary addresses of both families."""
        return (self.secondary, *((self.secondary6,) if self.secondary6 else ()))

    def permitted(self, local: Iterable[IPNetwork], family: Family = 4) -> list[IPNetwork]:
        """The destinations that lie inside the ``local`` networks. One that is merely wide,
        as 0.0.0.0/0 is, does not name them."""
        around = of_family(family, local)
        named = (
            d for d in of_family(family, self.destinations) if any(within(d, n) for n in around)
        )
        return list(collapse(named))


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelSources:
    """Who may speak to the node's WireGuard servers, and how often he may begin."""

    networks: tuple[IPNetwork, ...] = ()
    """Empty: anybody."""
    handshakes: int = 0
    """First messages a second of one source; 0: as many as it likes."""


ANYBODY: Final = TunnelSources()


def zones(
    configurations: Iterable[ServedConfiguration], before: Mapping[IPv4Address, int]
) -> list[ServedConfiguration]:
    """The configurations with the conntrack zones that their addresses had ``before``, because
    zones identify connections, and the port may have changed since. New configurations get the zone
    of their port's number, or the first free one."""
    ordered = list(configurations)
    found: dict[IPv4Address, int] = {}
    for address in (c.secondary for c in ordered):
        if (zone := before.get(address, 0)) and zone not in found.values():
            found[address] = zone
    for c in ordered:
        if c.secondary not in found:
            used = set(found.values())
            free = (zone for zone in (c.port, *range(1, PORTS[0])) if zone not in used)
            found[c.secondary] = next(free)
    return [replace(c, zone=found[c.secondary]) for c in ordered]


def of_family(family: Family, networks: Iterable[IPNetwork]) -> list[IPNetwork]:
    """Those of one IP version."""
    return [n for n in networks if n.version == family]
