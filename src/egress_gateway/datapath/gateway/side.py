"""The gateway node's side of the data path: namespace, interfaces, translation, peers.

Guarantee: from the node's ``gateway0`` nothing leaves but packets with the secondary address of the
configuration whose interface they came in by. Peers may send from their own addresses only
(WireGuard's allowed addresses), reach no other peer and none of the node's own services.

Structure (``converge``) and peers (``sync_peers``, ``change_peers``) are apart: a pod that comes or
goes is one short message to its interface, whatever the number of the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from egress_gateway.datapath.addresses import IPNetwork
from egress_gateway.datapath.errors import DatapathError, PortInUse
from egress_gateway.datapath.gateway import actions as steps
from egress_gateway.datapath.gateway import shortcut
from egress_gateway.datapath.gateway.actions import Where
from egress_gateway.datapath.gateway.load import GatewayLoad
from egress_gateway.datapath.gateway.namespace import NAMESPACE, GatewayNamespace
from egress_gateway.datapath.gateway.plan import (
    GatewayDesired,
    GatewayObserved,
    Place,
    PlannedAction,
    Surroundings,
    inner,
    link_sysctls,
    plan,
    surroundings,
)
from egress_gateway.datapath.gateway.ruleset import (
    GATEWAY_COUNTERS,
    GATEWAY_SETS,
    GATEWAY_TABLE,
    INSIDE_LINK,
    NODE_COUNTERS,
    NODE_LINK,
    NODE_SETS,
    NODE_TABLE,
)
from egress_gateway.datapath.gateway.served import ServedConfiguration, WireGuardServer
from egress_gateway.datapath.gateway.shortcut import Shortcut
from egress_gateway.datapath.gateway.tables import KeptTable
from egress_gateway.datapath.linux import conntrack, netns, sockets
from egress_gateway.datapath.linux.link import LOCAL, MAIN, Links, families
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.linux.nft import Nftables
from egress_gateway.datapath.wireguard.model import (
    Backend,
    Config,
    Device,
    Interface,
    Peer,
    PeerStatus,
)

log = logging.getLogger(__name__)

TABLES: dict[Where, tuple[str, tuple[str, ...]]] = {
    "node": (NODE_TABLE, NODE_SETS),
    "gateway": (GATEWAY_TABLE, GATEWAY_SETS),
}


@dataclass(frozen=True, slots=True)
class Converged:
    """What a pass did, and what stopped which configuration (port -> one line)."""

    done: tuple[PlannedAction, ...]
    problems: Mapping[int, str]
    found: Mapping[str, Device]
    """Interfaces that were there before the pass, by name."""


class GatewaySide:
    """One node's gateway. Methods block; calls take turns."""

    def __init__(
        self,
        *,
        backend: Backend,
        node: NetNS | None = None,
        directory: Path = netns.DIRECTORY,
        namespace: str = NAMESPACE,
    ) -> None:
        self.backend = backend
        self._node = node or NetNS.current()
        self._namespace = GatewayNamespace(namespace, directory)
        self._lock = threading.RLock()
        self._tables = _unknown_tables()
        self._shortcut = Shortcut(self._node)
        self.load = GatewayLoad(self._namespace)

    # Structure.

    def converge(self, desired: GatewayDesired) -> Converged:
        """Observes, plans, applies. A fault of the node as a whole raises ``DatapathError``;
        that of one configuration is reported and costs no other."""
        with self._lock:
            observed = self.observe(desired)
            problems: dict[int, str] = {}
            done: list[PlannedAction] = []
            for step in plan(desired, observed):
                if step.port in problems:
                    continue
                try:
                    self.apply(step)
                except DatapathError as error:
                    if step.port is None:
                        raise
                    problems[step.port] = str(error)
                    continue
                done.append(step)
            self._shortcut.converge(passing(desired, observed))
            return Converged(tuple(done), problems, observed.devices)

    def surroundings(self) -> Surroundings:
        """Read anew for each pass: addresses of a node may come by DHCP."""
        with Links(self._node) as links:
            known = families(self._node)
            found = surroundings({r for family in known for r in links.routes(MAIN, family)})
            return dataclasses.replace(found, ipv6=6 in known)

    def observe(self, desired: GatewayDesired) -> GatewayObserved:
        """Both namespaces as they are."""
        with self._lock, Links(self._node) as links:
            node = self._place("node", self._node, links, desired)
            own = frozenset(links.every_address())
            with self._namespace.if_there() as inside:
                if inside is None:
                    return GatewayObserved(node=node, own=own)
                with Links(inside) as inside_links:
                    gateway = self._place("gateway", inside, inside_links, desired)
                devices = {}
                servers = (server for c in desired.configurations for server in c.servers)
                for name in (server.interface for server in servers):
                    where = self._node if name in node.links else inside
                    if name in node.links or name in gateway.links:
                        device = self.backend.status(Interface(name, where, name))
                        if device is not None:
                            devices[name] = device
                return GatewayObserved(
                    node=node,
                    gateway=gateway,
                    devices=devices,
                    own=own,
                    bound=frozenset(sockets.bound_udp_ports(self._node)),
                    translated=self._tables["gateway"].secondaries,
                )

    def apply(self, step: PlannedAction) -> None:
        """One step of a plan."""
        match step.action:
            case steps.CreateNamespace():
                self._namespace.create()
            case steps.CreatePair():
                with self._namespace.open() as inside, Links(self._node) as links:
                    links.delete(NODE_LINK)
                    with Links(inside) as others:
                        others.delete(INSIDE_LINK)
                    links.add_veth(NODE_LINK, INSIDE_LINK, inside)
            case steps.SetSysctl(where, name, value):
                with self._at(where) as namespace:
                    netns.write_sysctl(namespace, name, value)
            case steps.AddAddress(where, link, address):
                with self._at(where) as namespace, Links(namespace) as links:
                    links.add_address(link, address)
            case steps.RemoveAddress(link, address):
                # Without it the other addresses of the subnet would go too, if this came first.
                if address.version == 4:
                    promote = f"net/ipv4/conf/{link}/promote_secondaries"
                    netns.write_sysctl(self._node, promote, "1")
                with Links(self._node) as links:
                    links.delete_address(link, address)
            case steps.RaiseLink(where, link, mtu):
                with self._at(where) as namespace, Links(namespace) as links:
                    links.set_up(link, mtu=mtu)
            case steps.ApplyFilter(where, ruleset, present):
                with self._at(where) as namespace:
                    self._tables[where].apply(namespace, ruleset, present=present)
            case steps.ForgetTranslated(address):
                with self._namespace.open() as inside:
                    conntrack.forget_translated(inside, address)
            case steps.ReplaceRoutes(where, routes):
                with self._at(where) as namespace, Links(namespace) as links:
                    links.replace_routes(routes)
            case steps.DeleteRoutes(where, routes):
                with self._at(where) as namespace, Links(namespace) as links:
                    links.delete_routes(routes)
            case (
                steps.AddRule() | steps.DeleteRule() | steps.DeleteOtherRule() | steps.DeleteLink()
            ):
                with self._namespace.open() as inside, Links(inside) as links:
                    _apply_inside(links, step.action)
            case _:
                self._apply_tunnel(step.action)

    def _apply_tunnel(self, action: steps.Action) -> None:
        match action:
            case steps.CheckPort(port):
                if port in sockets.bound_udp_ports(self._node):
                    raise PortInUse(
                        f"UDP port {port} is taken by another socket of the node; free it "
                        "(ss -ulpn shows whose it is)"
                    )
            case steps.CreateTunnel(name):
                self.backend.create(name)
            case steps.ConfigureTunnel(name, config):
                with self._interface(name) as interface:
                    self.backend.configure(interface, config)
            case steps.MoveTunnel(name):
                with self._namespace.open() as inside, Links(self._node) as links:
                    links.move(name, inside, name)
            case steps.DeleteTunnel(name):
                with self._interface(name) as interface:
                    self.backend.delete(interface)
                    # A link whose process the tunnel host no longer knows.
                    with Links(interface.netns) as links:
                        links.delete(name)

    def remove(self) -> bool:
        """Takes everything away: interfaces, namespace, filters, routes (they go with their
        links). Returns whether there was anything."""
        with self._lock, Links(self._node) as links:
            rules = Nftables(self._node)
            filtered = rules.table("inet", NODE_TABLE) is not None
            known = links.links()
            unmoved = [Interface(n, self._node, n) for n in known if n.startswith("wg-")]
            with self._namespace.if_there() as inside:
                found = inside is not None or filtered or NODE_LINK in known or bool(unmoved)
                if inside is not None:
                    with Links(inside) as others:
                        names = [n for n in others.links() if n.startswith("wg-")]
                    unmoved += [Interface(n, inside, n) for n in names]
                for interface in unmoved:
                    self.backend.delete(interface)
            links.delete(NODE_LINK)
            self._namespace.delete()
            if filtered:
                rules.apply(f"delete table inet {NODE_TABLE}")
            self._shortcut.remove()
            self._tables = _unknown_tables()
            return found

    # Peers.

    def sync_peers(
        self,
        server: WireGuardServer | ServedConfiguration,
        wanted: Mapping[str, Sequence[IPNetwork]],
        *,
        zone: int | None = None,
    ) -> bool:
        """Makes the server's peers exactly ``wanted`` (public key -> addresses), touching
        none that is right: their sessions go on. Returns whether anything changed. Connections of
        addresses that go are forgotten, in the conntrack ``zone`` (that of a configuration is
        known). Takes no turn with other methods: one server's peers delay nothing else."""
        with self._interface(server.interface) as interface:
            device = self.backend.status(interface)
            have = device.peers if device else {}
            config = peer_changes(wanted, have)
            if config == Config():
                return False
            self.backend.configure(interface, config)
            kept = {network for networks in wanted.values() for network in networks}
            gone = {n for key in config.remove_peers for n in have[key].allowed_ips}
        self._forget_connections(gone - kept, zone or _zone(server))
        return True

    def change_peers(
        self,
        server: WireGuardServer | ServedConfiguration,
        *,
        add: Mapping[str, Sequence[IPNetwork]],
        remove: Mapping[str, Sequence[IPNetwork]],
        zone: int | None = None,
    ) -> None:
        """The quick way for pods that came or went. ``remove`` tells what addresses they had;
        ``zone``: as for ``sync_peers``."""
        config = Config(
            remove_peers=tuple(key for key in remove if key not in add),
            peers=tuple(Peer(public_key=k, allowed_ips=tuple(n)) for k, n in add.items()),
        )
        with self._interface(server.interface) as interface:
            self.backend.configure(interface, config)
        kept = {network for networks in add.values() for network in networks}
        gone = {network for networks in remove.values() for network in networks}
        self._forget_connections(gone - kept, zone or _zone(server))

    def _forget_connections(self, networks: Iterable[IPNetwork], zone: int | None) -> None:
        with self._namespace.open() as inside:
            conntrack.forget_sources(inside, (n.network_address for n in networks), zone)

    # What a probe asks.

    def serving(self) -> set[int]:
        """Ports whose interface is there, up, and listens. Cheap: no peer is looked at."""
        with self._namespace.if_there() as inside:
            if inside is None:
                return set()
            with Links(inside) as links:
                up = {n for n, link in links.links().items() if link.up}
            if INSIDE_LINK not in up:
                return set()
        bound = sockets.bound_udp_ports(self._node)
        return {port for port in bound if f"wg-{port}" in up}

    def counters(self) -> dict[str, int]:
        """Packets that were dropped, by reason: ``stray`` and ``refused`` in the gateway's
        namespace, those of ``NODE_COUNTERS`` in the node's."""
        with self._namespace.if_there() as inside:
            if inside is None:
                return {}
            places = (
                (inside, GATEWAY_TABLE, GATEWAY_COUNTERS),
                (self._node, NODE_TABLE, NODE_COUNTERS),
            )
            return {
                name: Nftables(place).counter("inet", table, name) or 0
                for place, table, names in places
                for name in names
            }

    def zones(self) -> dict[IPv4Address, int]:
        """The conntrack zone of each secondary address at the moment."""
        with self._namespace.if_there() as inside:
            return self._tables["gateway"].zones(inside) if inside is not None else {}

    # Namespaces.

    @property
    def exists(self) -> bool:
        """Whether the gateway's namespace is there."""
        return self._namespace.exists

    @property
    def places(self) -> dict[Where, tuple[Path | NetNS, frozenset[str]]]:
        """What to watch for damage: namespaces, and the tables of ours in each."""
        return {
            "node": (self._node, frozenset({NODE_TABLE})),
            "gateway": (self._namespace.path, frozenset({GATEWAY_TABLE})),
        }

    @contextlib.contextmanager
    def _at(self, where: Where) -> Iterator[NetNS]:
        if where == "node":
            yield self._node
        else:
            with self._namespace.open() as inside:
                yield inside

    @contextlib.contextmanager
    def _interface(self, name: str) -> Iterator[Interface]:
        """The handle of an interface wherever it is now."""
        if self.backend.kind == "userspace":
            # The name is enough. A question about links would wait for the kernel's lock (RTNL)
            # while another process moves a link to start a pod.
            yield Interface(name, self._node, name)
            return
        with Links(self._node) as links:
            unmoved = links.link(name) is not None
        with self._at("node" if unmoved else "gateway") as namespace:
            yield Interface(name, namespace, name)

    def _place(
        self, where: Where, namespace: NetNS, links: Links, desired: GatewayDesired
    ) -> Place:
        wanted = desired.node_filter if where == "node" else desired.gateway_filter
        end = NODE_LINK if where == "node" else INSIDE_LINK
        found = links.links()
        tables = {MAIN} if where == "node" else {MAIN, LOCAL, *_ports(found)}
        keys = {key for place, key, _ in desired.sysctls if place == where}
        if where == "node":
            keys.update(desired.advertised)
        else:
            tunnels = (name for name in found if name.startswith("wg-"))
            keys.update(key for name in tunnels for key, _ in link_sysctls(name))
        # Without a configuration that carries it, IPv6 has no routes of ours: they go with it.
        known = [family for family in families(namespace) if family in desired.families]
        return Place(
            links=found,
            addresses=frozenset(a.ip for a in links.addresses(end))
            if end in found
            else frozenset(),
            routes=frozenset(r for f in known for table in tables for r in links.routes(table, f)),
            rules=frozenset(r for f in families(namespace) for r in links.rules(f))
            if where == "gateway"
            else frozenset(),
            other_rules=frozenset(r for f in families(namespace) for r in links.other_rules(f))
            if where == "gateway"
            else frozenset(),
            filter=self._tables[where].text(namespace, wanted),
            sysctls={key: netns.read_sysctl(namespace, key) for key in keys},
        )


def _apply_inside(links: Links, action: steps.Action) -> None:
    match action:
        case steps.AddRule(rule):
            links.add_rule(rule)
        case steps.DeleteRule(rule):
            links.delete_rule(rule)
        case steps.DeleteOtherRule(raw):
            links.delete_other_rule(raw)
        case steps.DeleteLink(name):
            links.delete(name)


def _unknown_tables() -> dict[Where, KeptTable]:
    return {where: KeptTable(name, sets) for where, (name, sets) in TABLES.items()}


def passing(desired: GatewayDesired, observed: GatewayObserved) -> str | None:
    """What takes the shortcut past the node's FORWARD rules. Pure."""
    secondaries = {a: inner(a) for c in desired.configurations for a in c.addresses}
    elsewhere = (a.ip for link, a in observed.own if link != NODE_LINK)
    return shortcut.ruleset(secondaries, observed.node.routes, sorted(elsewhere, key=str))


def peer_changes(
    wanted: Mapping[str, Sequence[IPNetwork]], have: Mapping[str, PeerStatus]
) -> Config:
    """The change from ``have`` to ``wanted``, without what is already right. Pure."""
    return Config(
        remove_peers=tuple(sorted(have.keys() - wanted.keys())),
        peers=tuple(
            Peer(public_key=key, allowed_ips=tuple(networks))
            for key, networks in wanted.items()
            if key not in have or have[key].allowed_ips != frozenset(networks)
        ),
    )


def _zone(server: WireGuardServer | ServedConfiguration) -> int | None:
    return server.in_zone if isinstance(server, ServedConfiguration) else None


def _ports(links: Mapping[str, Any]) -> set[int]:
    return {int(n[3:]) for n in links if n.startswith("wg-") and n[3:].isdigit()}
