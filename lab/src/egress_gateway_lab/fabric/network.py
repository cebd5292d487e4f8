"""The emulator's resources as the fabric reads them: observed once a pass, typed, no I/O.

A reference that leads nowhere reads as absence, as it does in Azure: an ipConfig whose public IP
address is gone has none, a rule whose probe is gone has no probe. Ids are folded to lower case.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from egress_gateway_lab.protocols import Resource, Resources

NICS = "Microsoft.Network/networkInterfaces"
LOAD_BALANCERS = "Microsoft.Network/loadBalancers"
VIRTUAL_NETWORKS = "Microsoft.Network/virtualNetworks"


@dataclass(frozen=True, slots=True)
class IpConfig:
    """One private address of a NIC. ``pools`` are ids of the backend pools that it is in."""

    name: str
    private: IPv4Address
    public: IPv4Address | None
    pools: frozenset[str]
    primary: bool


@dataclass(frozen=True, slots=True)
class Nic:
    """A network interface. ``subnet`` is its primary address's."""

    id: str
    mac: str | None
    subnet: IPv4Network
    ip_configs: tuple[IpConfig, ...]
    machine_id: str = ""

    @property
    def primary(self) -> IpConfig:
        return next((c for c in self.ip_configs if c.primary), self.ip_configs[0])


@dataclass(frozen=True, slots=True)
class Probe:
    """A health probe. ``interval`` in seconds, ``threshold`` consecutive results to change."""

    id: str
    protocol: str
    port: int
    path: str
    interval: float
    threshold: int


@dataclass(frozen=True, slots=True)
class BalancingRule:
    """Traffic to ``frontend`` goes to the healthy members of ``pool``. Port 0: all ports.
    ``sticky`` is ``Default`` (five-tuple), ``SourceIP`` or ``SourceIPProtocol``."""

    id: str
    frontend: IPv4Address
    protocol: str
    frontend_port: int
    backend_port: int
    floating: bool
    pool: str
    probe: Probe | None
    sticky: str


@dataclass(frozen=True, slots=True)
class OutboundRule:
    """Members of ``pool`` reach the Internet as one of ``addresses``."""

    id: str
    pool: str
    addresses: tuple[IPv4Address, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """All that the fabric wants to know of the resources at one revision."""

    nics: Mapping[str, Nic]
    balancing: tuple[BalancingRule, ...]
    outbound: tuple[OutboundRule, ...]
    prefixes: tuple[IPv4Network, ...]
    """Address spaces of the virtual networks."""


def observe(resources: Resources) -> Network:
    """Reads NICs, balancers and virtual networks with all that they refer to."""
    subnets = dict(_subnets(resources))
    balancing: list[BalancingRule] = []
    outbound: list[OutboundRule] = []
    for balancer in resources.list(LOAD_BALANCERS):
        frontends = _frontends(balancer, resources)
        balancing.extend(_balancing(balancer, frontends))
        outbound.extend(_outbound(balancer, frontends))
    nics = (_nic(document, subnets, resources) for document in resources.list(NICS))
    return Network(
        nics={nic.id: nic for nic in nics if nic is not None},
        balancing=tuple(balancing),
        outbound=tuple(outbound),
        prefixes=tuple(_prefixes(resources.list(VIRTUAL_NETWORKS))),
    )


def _properties(document: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return (document or {}).get("properties") or {}


def _reference(value: Mapping[str, Any] | None) -> str:
    return str((value or {}).get("id") or "").lower()


def _address(text: str | None) -> IPv4Address | None:
    return IPv4Address(text) if text else None


def _networks(properties: Mapping[str, Any], one: str, many: str) -> list[IPv4Network]:
    texts = [*([properties[one]] if properties.get(one) else []), *(properties.get(many) or [])]
    return [IPv4Network(text) for text in dict.fromkeys(texts) if ":" not in text]


def _prefixes(networks: Iterable[Resource]) -> Iterator[IPv4Network]:
    for network in networks:
        space = _properties(network).get("addressSpace") or {}
        yield from _networks(space, "", "addressPrefixes")


def _subnets(resources: Resources) -> Iterator[tuple[str, IPv4Network]]:
    for network in resources.list(VIRTUAL_NETWORKS):
        for subnet in _properties(network).get("subnets") or []:
            identity = f"{network['id']}/subnets/{subnet['name']}".lower()
            found = _networks(_properties(subnet), "addressPrefix", "addressPrefixes")
            if found:
                yield identity, found[0]


def _public(reference: Mapping[str, Any] | None, resources: Resources) -> IPv4Address | None:
    """The address of a public IP address resource; None when there is no such resource."""
    identity = _reference(reference)
    document = resources.get(identity) if identity else None
    return _address(_properties(document).get("ipAddress"))


def _nic(
    document: Resource, subnets: Mapping[str, IPv4Network], resources: Resources
) -> Nic | None:
    properties = _properties(document)
    configs: list[IpConfig] = []
    subnet: IPv4Network | None = None
    for item in properties.get("ipConfigurations") or []:
        values = _properties(item)
        if values.get("privateIPAddressVersion") == "IPv6":
            continue
        private = _address(values.get("privateIPAddress"))
        if private is None:
            continue
        primary = bool(values.get("primary"))
        if primary or subnet is None:
            subnet = subnets.get(_reference(values.get("subnet")), subnet)
        pools = values.get("loadBalancerBackendAddressPools") or []
        public = _public(values.get("publicIPAddress"), resources)
        configs.append(
            IpConfig(item["name"], private, public, frozenset(map(_reference, pools)), primary)
        )
    if not configs:
        return None
    mac = str(properties.get("macAddress") or "").replace("-", ":").lower() or None
    return Nic(
        id=str(document["id"]).lower(),
        mac=mac,
        subnet=subnet or IPv4Network((configs[0].private, 16), strict=False),
        ip_configs=tuple(configs),
        machine_id=_reference(properties.get("virtualMachine")),
    )


def _frontends(balancer: Resource, resources: Resources) -> dict[str, tuple[IPv4Address, ...]]:
    """Addresses of each frontend, by its id."""
    found: dict[str, tuple[IPv4Address, ...]] = {}
    for item in _properties(balancer).get("frontendIPConfigurations") or []:
        values = _properties(item)
        prefix_id = _reference(values.get("publicIPPrefix"))
        prefix = _properties(resources.get(prefix_id)).get("ipPrefix") if prefix_id else None
        one = _address(values.get("privateIPAddress"))
        one = one or _public(values.get("publicIPAddress"), resources)
        addresses = tuple(IPv4Network(prefix)) if prefix else ((one,) if one else ())
        found[f"{balancer['id']}/frontendIPConfigurations/{item['name']}".lower()] = addresses
    return found


def _probes(balancer: Resource) -> Iterator[tuple[str, Probe]]:
    for item in _properties(balancer).get("probes") or []:
        values = _properties(item)
        identity = f"{balancer['id']}/probes/{item['name']}".lower()
        yield (
            identity,
            Probe(
                id=identity,
                protocol=str(values.get("protocol", "Tcp")).lower(),
                port=int(values["port"]),
                path=str(values.get("requestPath") or "/"),
                interval=float(values.get("intervalInSeconds") or 15),
                threshold=int(values.get("probeThreshold") or values.get("numberOfProbes") or 1),
            ),
        )


def _balancing(
    balancer: Resource, frontends: Mapping[str, tuple[IPv4Address, ...]]
) -> Iterator[BalancingRule]:
    probes = dict(_probes(balancer))
    for item in _properties(balancer).get("loadBalancingRules") or []:
        values = _properties(item)
        pools = values.get("backendAddressPools") or [values.get("backendAddressPool")]
        for frontend in frontends.get(_reference(values.get("frontendIPConfiguration")), ()):
            yield BalancingRule(
                id=f"{balancer['id']}/loadBalancingRules/{item['name']}".lower(),
                frontend=frontend,
                protocol=str(values["protocol"]).lower(),
                frontend_port=int(values.get("frontendPort") or 0),
                backend_port=int(values.get("backendPort") or values.get("frontendPort") or 0),
                floating=bool(values.get("enableFloatingIP")),
                pool=_reference(pools[0]),
                probe=probes.get(_reference(values.get("probe"))),
                sticky=str(values.get("loadDistribution") or "Default"),
            )


def _outbound(
    balancer: Resource, frontends: Mapping[str, tuple[IPv4Address, ...]]
) -> Iterator[OutboundRule]:
    for item in _properties(balancer).get("outboundRules") or []:
        values = _properties(item)
        references = map(_reference, values.get("frontendIPConfigurations") or [])
        yield OutboundRule(
            id=f"{balancer['id']}/outboundRules/{item['name']}".lower(),
            pool=_reference(values.get("backendAddressPool")),
            addresses=tuple(a for one in references for a in frontends.get(one, ())),
        )
