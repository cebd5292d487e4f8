"""IPv6 of the fabric: what resources and plugs say, and the table that makes it so. Pure.

Public addresses are translated one to one, pods' networks live behind their machine, and nothing
else leaves for the Internet: IPv6 has no balancers and no default way out here. The table is
replaced whole. Flows need no pruning: an address that is gone is refused as a source, on the way
in and, translated, on the way out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Any, Final

from egress_gateway_lab.fabric.desired import Cut, Port
from egress_gateway_lab.fabric.network import NICS, VIRTUAL_NETWORKS
from egress_gateway_lab.protocols import Resources

GATEWAY: Final = IPv6Address("fe80::1234:5678:9abc")
"""The default gateway of every virtual network, as Azure's router advertisements name it."""
MACHINE: Final = IPv6Address("fe80::2")
"""A machine's end of its link."""


@dataclass(frozen=True, slots=True)
class Network6:
    """``addresses``: private and public ones by NIC (lower case). ``nics``: those whose subnet has
    IPv6. ``space``: that of the virtual networks."""

    addresses: Mapping[str, tuple[tuple[IPv6Address, IPv6Address | None], ...]]
    nics: frozenset[str]
    space: tuple[IPv6Network, ...]


def observe6(resources: Resources) -> Network6:
    """Reads NICs and virtual networks."""
    subnets: set[str] = set()
    space: list[IPv6Network] = []
    for network in resources.list(VIRTUAL_NETWORKS):
        whole = (network["properties"].get("addressSpace") or {}).get("addressPrefixes") or []
        space += [IPv6Network(text) for text in whole if ":" in text]
        for subnet in network["properties"].get("subnets") or []:
            if any(":" in text for text in subnet["properties"].get("addressPrefixes") or []):
                subnets.add(f"{network['id']}/subnets/{subnet['name']}".lower())
    addresses: dict[str, tuple[tuple[IPv6Address, IPv6Address | None], ...]] = {}
    nics: set[str] = set()
    for nic in resources.list(NICS):
        configs = [c["properties"] for c in nic["properties"].get("ipConfigurations") or []]
        identity = str(nic["id"]).lower()
        if any(_id(c.get("subnet")) in subnets for c in configs):
            nics.add(identity)
        addresses[identity] = tuple(
            (IPv6Address(c["privateIPAddress"]), _public(c, resources))
            for c in configs
            if c.get("privateIPAddressVersion") == "IPv6" and c.get("privateIPAddress")
        )
    return Network6(addresses, frozenset(nics), tuple(space))


def _id(reference: Mapping[str, Any] | None) -> str:
    return str((reference or {}).get("id") or "").lower()


def _public(config: Mapping[str, Any], resources: Resources) -> IPv6Address | None:
    identity = _id(config.get("publicIPAddress"))
    document = resources.get(identity) if identity else None
    address = ((document or {}).get("properties") or {}).get("ipAddress")
    return IPv6Address(address) if address else None


@dataclass(frozen=True, slots=True)
class Route6:
    """``destination`` is reached over a NIC's link, by the machine's own address there."""

    destination: IPv6Network
    link: str


def routes6(
    network: Network6, ports: Mapping[str, Port], overlays: Mapping[IPv6Network, str]
) -> frozenset[Route6]:
    """Where ipConfigs' addresses and pods' networks live, as far as they are plugged in."""
    found = {
        Route6(IPv6Network(private), port.link)
        for nic, port in ports.items()
        for private, _ in network.addresses.get(nic, ())
    }
    found |= {Route6(o, ports[nic].link) for o, nic in overlays.items() if nic in ports}
    return frozenset(found)


def table6(
    network: Network6,
    *,
    ports: Mapping[str, Port],
    overlays: Mapping[IPv6Network, str],
    cuts: Mapping[str, Cut],
) -> str:
    """The whole table, as one transaction."""
    configs = [
        (port.link, private, public)
        for nic, port in ports.items()
        for private, public in network.addresses.get(nic, ())
    ]
    routes = routes6(network, ports, overlays)
    sources = (f'"{route.link}" . {route.destination}' for route in routes)
    translated = [(private, public) for _, private, public in configs if public]
    private = dict.fromkeys((*network.space, *overlays))
    cut = {
        side: _elements(
            f'"{ports[nic].link}"'
            for nic, one in cuts.items()
            if nic in ports and any(getattr(one, name) for name in names)
        )
        for side, names in {
            "inbound": ("inbound",),
            "outbound": ("outbound",),
            "internet": ("internet", "internet6"),
        }.items()
    }
    neighbours = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept"
    return f"""
table ip6 fabric6
delete table ip6 fabric6
table ip6 fabric6 {{
  set sources {{ type ifname . ipv6_addr; flags interval;{_elements(sources)} }}
  set private {{ type ipv6_addr; flags interval; auto-merge;{_elements(map(str, private))} }}
  set translated {{ type ipv6_addr;{_elements(str(p) for p, _ in translated)} }}
  set public {{ type ipv6_addr;{_elements(str(p) for _, p in translated)} }}
  map public_of {{ type ipv6_addr : ipv6_addr;{_elements(f"{a} : {b}" for a, b in translated)} }}
  map private_of {{ type ipv6_addr : ipv6_addr;{_elements(f"{b} : {a}" for a, b in translated)} }}
  set cut_inbound {{ type ifname;{cut["inbound"]} }}
  set cut_outbound {{ type ifname;{cut["outbound"]} }}
  set cut_internet {{ type ifname;{cut["internet"]} }}
  chain enter {{
    type filter hook prerouting priority raw;
    iifname "lo" accept
    {neighbours}
    iifname "inet" ip6 saddr @private drop
    iifname "inet" accept
    iifname @cut_outbound drop
    iifname . ip6 saddr @sources accept
    drop
  }}
  chain inbound {{
    type nat hook prerouting priority dstnat;
    iifname "inet" dnat to ip6 daddr map @private_of
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    iifname @cut_internet oifname "inet" drop
    iifname "inet" oifname @cut_internet drop
    iifname "inet" ct status snat accept
    iifname "inet" ct status dnat accept
    oifname "inet" ip6 saddr @translated accept
    iifname != "inet" oifname != "inet" accept
  }}
  chain outward {{
    type nat hook postrouting priority srcnat;
    oifname "inet" snat to ip6 saddr map @public_of
  }}
  chain leave {{
    type filter hook postrouting priority srcnat + 100;
    {neighbours}
    oifname @cut_inbound drop
    oifname "inet" ip6 saddr != @public drop
  }}
}}
"""


def _elements(elements: Iterable[str]) -> str:
    joined = ", ".join(sorted(elements))
    return f" elements = {{ {joined} }}" if joined else ""
