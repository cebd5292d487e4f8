"""What the kernel should hold, decided from the resources and from what is plugged in. Pure.

Balancing is floating IP (direct server return), as on Azure: the packet reaches the backend with
the frontend's address in it, so a backend is chosen by a connection mark that a routing rule turns
into a NIC. Marks are port numbers. What a flow may keep after a change is decided here as well
(``Translations.stale``), so that "delete the ipConfig and packets stop" holds for established
flows too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from typing import TypeVar

from egress_gateway_lab.fabric.linux.flows import Flow
from egress_gateway_lab.fabric.network import BalancingRule, IpConfig, Network, Nic, Probe

MARK_TABLE_BASE = 1000
"""A flow with mark N is routed by table ``MARK_TABLE_BASE + N``."""

Target = tuple[str, IPv4Address]
"""A probe's id and the backend address that it watches."""
Frontend = tuple[IPv4Address, str, int]
"""Address, protocol (``udp``, ``tcp``, ``all``) and port (0: all)."""

_PROTOCOLS = {"udp": 17, "tcp": 6}
_HASH_KEYS = {"Default": "ip saddr . th sport"}
_SEED = 0x5EED
_T = TypeVar("_T")

SETS = (
    "sources",
    "overlay_sources",
    "overlay",
    "private",
    "translated",
    "public",
    "cut_inbound",
    "cut_outbound",
    "cut_internet",
    "cut_tunnels",
    "cut_large",
)
MAPS = (
    "instance_public",
    "public_instance",
    "outbound",
    "floating",
    "floating_all",
    "balanced",
    "balanced_all",
)


@dataclass(frozen=True, slots=True)
class Port:
    """Where a NIC is plugged in. ``number`` is never used twice: it names link, mark, table."""

    number: int
    nic_id: str
    mac: str

    @property
    def link(self) -> str:
        return f"nic{self.number}"


@dataclass(frozen=True, slots=True)
class Cut:
    """Which of a NIC's packets are dropped, seen from the machine."""

    inbound: bool = False
    outbound: bool = False
    internet: bool = False
    tunnels: bool = False
    """WireGuard's UDP 6000 to 6999 to it, as a network security group that lacks them does."""
    large: bool = False
    """What it sends to the Internet in packets above 1,400 bytes, as a way that drops them in
    silence does."""
    internet6: bool = False
    """The Internet by IPv6 alone."""


@dataclass(frozen=True, slots=True)
class Route:
    """``table`` 0 is the main table; ``via`` None: the destination is on the link itself."""

    table: int
    destination: IPv4Network
    link: str
    via: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class Translations:
    """Which translated or balanced flows may exist."""

    public_of: Mapping[IPv4Address, frozenset[IPv4Address]]
    private_of: Mapping[IPv4Address, IPv4Address]
    marks: Mapping[Frontend, frozenset[int]]
    backends: Mapping[Frontend, frozenset[IPv4Address]]

    def stale(self, flow: Flow) -> bool:
        """Whether no new flow of this kind would be translated or balanced this way."""
        if flow.mark:
            return flow.mark not in _match(self.marks, flow)
        if flow.reply_destination != flow.source:
            return flow.reply_destination not in self.public_of.get(flow.source, frozenset())
        if flow.reply_source != flow.destination:
            if self.private_of.get(flow.destination) == flow.reply_source:
                return False
            return flow.reply_source not in _match(self.backends, flow)
        return False


@dataclass(frozen=True, slots=True)
class Balancer:
    """A balancing rule with its members as they are, for people and for planning."""

    rule: BalancingRule
    members: tuple[tuple[Port, IpConfig, bool], ...]
    """Port, ipConfig, healthy. Members that are not plugged in are left out."""

    @property
    def frontend(self) -> Frontend:
        protocol = self.rule.protocol
        return (self.rule.frontend, protocol, 0 if protocol == "all" else self.rule.frontend_port)

    @property
    def chosen(self) -> tuple[tuple[Port, IpConfig], ...]:
        return tuple((port, config) for port, config, healthy in self.members if healthy)

    @property
    def kept(self) -> tuple[tuple[Port, IpConfig], ...]:
        """Members that may keep their flows. A failed probe ends UDP flows but leaves
        established TCP flows alone:
        https://learn.microsoft.com/azure/load-balancer/load-balancer-custom-probe-overview"""
        if self.rule.protocol == "udp":
            return self.chosen
        return tuple((port, config) for port, config, _ in self.members)


@dataclass(frozen=True, slots=True)
class Desired:
    """``elements``: nftables sets and maps (key → value, empty in sets). ``chains``: rules by
    chain; a chain's name is a digest of its rules, so a chain never changes."""

    elements: Mapping[str, Mapping[str, str]]
    chains: Mapping[str, tuple[str, ...]]
    routes: Mapping[tuple[int, IPv4Network], Route]
    marks: frozenset[int]
    probes: Mapping[Target, Probe]
    translations: Translations
    balancers: tuple[Balancer, ...] = ()


@dataclass(slots=True)
class _Draft:
    elements: dict[str, dict[str, str]] = field(
        default_factory=lambda: {name: {} for name in (*SETS, *MAPS)}
    )
    chains: dict[str, tuple[str, ...]] = field(default_factory=dict)
    routes: dict[tuple[int, IPv4Network], Route] = field(default_factory=dict)
    probes: dict[Target, Probe] = field(default_factory=dict)
    public_of: dict[IPv4Address, frozenset[IPv4Address]] = field(default_factory=dict)
    private_of: dict[IPv4Address, IPv4Address] = field(default_factory=dict)
    marks: dict[Frontend, frozenset[int]] = field(default_factory=dict)
    backends: dict[Frontend, frozenset[IPv4Address]] = field(default_factory=dict)

    def add(self, name: str, key: str, value: str = "") -> None:
        self.elements[name][key] = value

    def chain(self, rules: tuple[str, ...]) -> str:
        digest = hashlib.sha256("\n".join(rules).encode()).hexdigest()[:16]
        self.chains[f"c_{digest}"] = rules
        return f"c_{digest}"

    def route(self, route: Route) -> None:
        self.routes[route.table, route.destination] = route


def plan(
    network: Network,
    *,
    ports: Mapping[str, Port],
    overlays: Mapping[IPv4Network, str],
    cuts: Mapping[str, Cut],
    health: Mapping[Target, bool],
) -> Desired:
    """Everything the kernel should hold. ``ports``, ``overlays`` values and ``cuts`` go by NIC
    id in lower case; a target that ``health`` does not know is down."""
    draft = _Draft()
    for prefix in collapse_addresses(network.prefixes):
        draft.add("private", str(prefix))
        # Whatever nobody has: answered for by ARP as in Azure, then dropped on the way to `lo`.
        draft.route(Route(0, prefix, "lo"))
    _plan_nics(draft, network, ports)
    _plan_overlays(draft, network, ports, overlays)
    _plan_outbound(draft, network)
    balancers = tuple(_balancers(network, ports, health))
    for balancer in balancers:
        _plan_balancer(draft, network, balancer)
    for nic_id, cut in cuts.items():
        _plan_cut(draft, ports.get(nic_id), cut)
    return Desired(
        elements=draft.elements,
        chains=draft.chains,
        routes=draft.routes,
        marks=frozenset(port.number for port in ports.values()),
        probes=draft.probes,
        translations=Translations(draft.public_of, draft.private_of, draft.marks, draft.backends),
        balancers=balancers,
    )


def _plan_nics(draft: _Draft, network: Network, ports: Mapping[str, Port]) -> None:
    for nic, port in _plugged(network, ports):
        primary = nic.primary.private
        default = IPv4Network("0.0.0.0/0")
        draft.route(Route(MARK_TABLE_BASE + port.number, default, port.link, primary))
        for config in nic.ip_configs:
            via = None if config.private == primary else primary
            draft.route(Route(0, IPv4Network(config.private), port.link, via))
            draft.add("sources", f'"{port.link}" . {config.private}')
            if config.public is not None:
                draft.add("instance_public", str(config.private), str(config.public))
                draft.add("public_instance", str(config.public), str(config.private))
                draft.add("translated", str(config.private))
                draft.add("public", str(config.public))
                draft.public_of[config.private] = frozenset({config.public})
                draft.private_of[config.public] = config.private


def _plan_overlays(
    draft: _Draft,
    network: Network,
    ports: Mapping[str, Port],
    overlays: Mapping[IPv4Network, str],
) -> None:
    for overlay in collapse_addresses(overlays):
        draft.add("overlay", str(overlay))
    for overlay, nic_id in overlays.items():
        port, nic = ports.get(nic_id), network.nics.get(nic_id)
        if port is None or nic is None:
            continue
        draft.add("overlay_sources", f'"{port.link}" . {overlay}')
        draft.route(Route(0, overlay, port.link, nic.primary.private))


def _plan_outbound(draft: _Draft, network: Network) -> None:
    for rule in network.outbound:
        if not rule.addresses:
            continue
        for nic in network.nics.values():
            for config in nic.ip_configs:
                # An address of its own goes before the balancer's.
                if rule.pool not in config.pools or config.private in draft.public_of:
                    continue
                chain = draft.chain(_spread_outbound(rule.addresses))
                draft.add("outbound", str(config.private), f"jump {chain}")
                draft.add("translated", str(config.private))
                draft.public_of[config.private] = frozenset(rule.addresses)
                for address in rule.addresses:
                    draft.add("public", str(address))


def _spread_outbound(addresses: tuple[IPv4Address, ...]) -> tuple[str, ...]:
    if len(addresses) == 1:
        return (f"snat to {addresses[0]}",)
    choices = ", ".join(f"{n} : {address}" for n, address in enumerate(addresses))
    spread = f"mod {len(addresses)} seed {_SEED} map {{ {choices} }}"
    return (
        f"meta l4proto {{ tcp, udp }} snat to jhash ip saddr . ip daddr . th sport {spread}",
        f"snat to jhash ip saddr . ip daddr {spread}",
    )


def _balancers(
    network: Network, ports: Mapping[str, Port], health: Mapping[Target, bool]
) -> Iterator[Balancer]:
    for rule in network.balancing:
        members = []
        for nic, port in _plugged(network, ports):
            for config in nic.ip_configs:
                if rule.pool in config.pools:
                    up = rule.probe is None or health.get((rule.probe.id, config.private), False)
                    members.append((port, config, up))
        yield Balancer(rule, tuple(sorted(members, key=lambda member: member[0].number)))


def _plan_balancer(draft: _Draft, network: Network, balancer: Balancer) -> None:
    rule, frontend = balancer.rule, balancer.frontend
    if rule.probe is not None:
        for _, config, _ in balancer.members:
            draft.probes[rule.probe.id, config.private] = rule.probe
    rules = _floating(balancer) if rule.floating else _balanced(balancer)
    name = "floating" if rule.floating else "balanced"
    if rule.protocol == "all":
        draft.add(f"{name}_all", str(rule.frontend), f"jump {draft.chain(rules)}")
    else:
        key = f"{rule.frontend} . {rule.protocol} . {rule.frontend_port}"
        draft.add(name, key, f"jump {draft.chain(rules)}")
    public = not any(rule.frontend in prefix for prefix in network.prefixes)
    if public:
        draft.add("public", str(rule.frontend))
    if not rule.floating:
        draft.backends[frontend] = frozenset(config.private for _, config in balancer.kept)
        return
    draft.marks[frontend] = frozenset(port.number for port, _ in balancer.kept)
    for port, _, _ in balancer.members:
        draft.add("sources", f'"{port.link}" . {rule.frontend}')
    if public:
        draft.add("translated", str(rule.frontend))


def _hash(rule: BalancingRule, count: int) -> str:
    key = _HASH_KEYS.get(rule.sticky, "ip saddr")
    if rule.protocol == "all":
        key = "ip saddr"
    return f"jhash {key} mod {count} seed {_SEED}"


def _floating(balancer: Balancer) -> tuple[str, ...]:
    """Chooses a mark for a new flow and keeps it for a known one."""
    keep = "ct mark != 0 meta mark set ct mark accept"
    numbers = [port.number for port, _ in balancer.chosen]
    if not numbers:
        return (keep, "counter name no_backend drop")
    if len(numbers) == 1:
        return (keep, f"ct mark set {numbers[0]}", "meta mark set ct mark accept")
    choices = ", ".join(f"{n} : {number}" for n, number in enumerate(numbers))
    choose = f"ct mark set {_hash(balancer.rule, len(numbers))} map {{ {choices} }}"
    return (keep, choose, "meta mark set ct mark accept")


def _balanced(balancer: Balancer) -> tuple[str, ...]:
    """Translates a new flow to a backend's own address and port."""
    rule = balancer.rule
    addresses = [config.private for _, config in balancer.chosen]
    if not addresses:
        return ("counter name no_backend drop",)
    if rule.protocol == "all":
        choices = ", ".join(f"{n} : {address}" for n, address in enumerate(addresses))
        return (f"dnat to {_hash(rule, len(addresses))} map {{ {choices} }}",)
    choices = ", ".join(f"{n} : {a} . {rule.backend_port}" for n, a in enumerate(addresses))
    match = f"meta l4proto {rule.protocol}"
    return (f"{match} dnat to {_hash(rule, len(addresses))} map {{ {choices} }}",)


def _plan_cut(draft: _Draft, port: Port | None, cut: Cut) -> None:
    if port is None:
        return
    for name in ("inbound", "outbound", "internet", "tunnels", "large"):
        if getattr(cut, name):
            draft.add(f"cut_{name}", f'"{port.link}"')


def _plugged(network: Network, ports: Mapping[str, Port]) -> Iterator[tuple[Nic, Port]]:
    for nic_id, port in sorted(ports.items(), key=lambda item: item[1].number):
        nic = network.nics.get(nic_id)
        if nic is not None:
            yield nic, port


def _match(table: Mapping[Frontend, frozenset[_T]], flow: Flow) -> frozenset[_T]:
    protocol = next((p for p, number in _PROTOCOLS.items() if number == flow.protocol), "all")
    found = table.get((flow.destination, protocol, flow.destination_port))
    return found if found is not None else table.get((flow.destination, "all", 0), frozenset())
