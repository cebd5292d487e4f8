"""Links, addresses, routes and rules of the fabric, over netlink.

Every call blocks for well under a millisecond per change. NB: a ``Links`` belongs to the thread
that made it, for pyroute2 binds its event loop there; the fabric gives it a thread of its own.
Neighbours are permanent entries: the fabric never asks by ARP where a NIC is, as Azure's own
network knows it, and answers every ARP request of a machine by itself.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface
from typing import Any

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from egress_gateway_lab.fabric.desired import MARK_TABLE_BASE, Port, Route
from egress_gateway_lab.fabric.ipv6 import GATEWAY, MACHINE, Route6
from egress_gateway_lab.fabric.linux.namespace import Namespace, NamespaceError, write_sysctl
from egress_gateway_lab.fabric.settings import GATEWAY_MAC, SiteSettings

_SCOPE_LINK = 253
_PERMANENT = 0x80
_NODAD = 0x02
"""IFA_F_NODAD: nobody else can have the address."""
_RULE_PRIORITY = 100
_GONE = {errno.ENODEV, errno.ESRCH, errno.ENOENT, errno.ENXIO}
SITE_MAC = "12:34:56:78:9a:bd"
_ALWAYS_THERE = {"lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0"} | {
    "ip6tnl0",
    "ip6gre0",
}
"""Loopback, and what tunnel modules put into every new namespace."""


class FabricError(Exception):
    """The fabric cannot do what was asked; the message names object and cause."""


def require_empty_namespace() -> None:
    """Raises ``FabricError`` where any link but loopback exists: the fabric routes between all
    links that it finds, so it starts only where there are none."""
    others = sorted(name for _, name in socket.if_nameindex() if name not in _ALWAYS_THERE)
    if others:
        raise FabricError(
            f"the fabric must start in an empty network namespace, but it has {', '.join(others)}"
        )


class Links:
    """The fabric's side of every link, and what it routes where."""

    def __init__(self) -> None:
        self._netlink = netlink_socket()
        self._routes: dict[tuple[int, IPv4Network], tuple[Route, int]] = {}
        self._routes6: dict[Route6, int] = {}
        self._marks: set[int] = set()
        self._addresses: set[IPv4Address] = set()

    def close(self) -> None:
        self._netlink.close()

    def start(self, *, udp_idle_timeout: int) -> None:
        """Makes this namespace a router with nothing attached."""
        for name, value in {
            "ipv4/ip_forward": 1,
            "ipv4/conf/all/rp_filter": 0,
            "ipv4/conf/default/rp_filter": 0,
            "ipv4/conf/all/send_redirects": 0,
            "ipv4/conf/default/send_redirects": 0,
            # Links that carry it turn it on.
            "ipv6/conf/all/disable_ipv6": 1,
            "ipv6/conf/default/disable_ipv6": 1,
            "ipv6/conf/default/accept_ra": 0,
            "ipv6/conf/default/accept_dad": 0,
            "ipv6/conf/all/forwarding": 1,
        }.items():
            write_sysctl(name, value)
        self._netlink.link("set", index=1, state="up")
        # These exist once connection tracking is in use here: after the ruleset.
        for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
            write_sysctl(f"netfilter/{name}", udp_idle_timeout)
        # One-to-one translation in Azure does not judge sequence numbers; ours must not either.
        write_sysctl("netfilter/nf_conntrack_tcp_be_liberal", 1)

    def own(self, addresses: Iterable[IPv4Address]) -> None:
        """Gives the fabric exactly these addresses, on loopback."""
        wanted = set(addresses)
        for address in wanted - self._addresses:
            self._netlink.addr("replace", index=1, address=str(address), prefixlen=32)
        for address in self._addresses - wanted:
            self._netlink.addr("del", index=1, address=str(address), prefixlen=32)
        self._addresses = wanted

    def join_site(self, link: str, namespace: Namespace, site: SiteSettings, *, mtu: int) -> None:
        """A link ``link`` to the site's ``eth0``, and routes both ways."""
        index = self._veth(link, namespace, SITE_MAC, mtu=mtu)
        self._netlink.addr(
            "add", index=index, address=str(site.near.ip), prefixlen=site.near.network.prefixlen
        )
        hosts = [IPv4Interface(host.address) for host in site.hosts]
        namespace.run(lambda: _configure_far(site.far, gateway=site.near.ip, others=hosts))
        self._neighbour(index, site.far.ip, SITE_MAC)
        for network in site.networks:
            self._netlink.route("add", dst=str(network), oif=index, gateway=str(site.far.ip))
        if site.near6 is not None:
            self._join_site6(link, index, namespace, site, site.near6)

    def _join_site6(
        self, link: str, index: int, namespace: Namespace, site: SiteSettings, near: IPv6Interface
    ) -> None:
        far = IPv6Interface((near.ip + 1, near.network.prefixlen))
        hosts = [host.address6 for host in site.hosts if host.address6]
        self._enable6(link, index, near)
        namespace.run(lambda: _configure_far6(far, near.ip, hosts))
        self._netlink.route(
            "add", family=socket.AF_INET6, dst="::/0", oif=index, gateway=str(far.ip)
        )

    def _enable6(self, link: str, index: int, address: IPv6Interface) -> None:
        write_sysctl(f"ipv6/conf/{link}/disable_ipv6", 0)
        self._netlink.addr(
            "replace",
            index=index,
            address=str(address.ip),
            prefixlen=address.network.prefixlen,
            flags=_NODAD,
        )

    def plug6(self, port: Port, machine: Namespace) -> None:
        """IPv6 on a NIC's link that is there: both ends by link-local addresses, the machine's
        default route, as router advertisements would have it."""
        index = socket.if_nametoindex(port.link)
        self._enable6(port.link, index, IPv6Interface((GATEWAY, 64)))
        machine.run(lambda: _configure_far6(IPv6Interface((MACHINE, 64)), GATEWAY, ()))

    def apply6(self, routes: frozenset[Route6]) -> None:
        """Makes IPv6 routes exactly these, as far as their links exist."""
        indexes = _indexes()
        wanted = {r: indexes[r.link] for r in routes if r.link in indexes}
        for route, index in self._routes6.items():
            if wanted.get(route) != index:
                self._change_route6("del", route, index)
        for route, index in wanted.items():
            if self._routes6.get(route) != index:
                self._change_route6("replace", route, index)
        self._routes6 = wanted

    def _change_route6(self, verb: str, route: Route6, index: int) -> None:
        _unless_gone(lambda: self._netlink.route(verb, **_route6(route, index)))

    def plug(
        self,
        port: Port,
        machine: Namespace,
        address: IPv4Interface,
        *,
        gateway: IPv4Address,
        mtu: int,
    ) -> None:
        """The NIC's link, with the machine's end configured as Azure's DHCP would. Leaves
        nothing behind when it raises ``FabricError``."""
        try:
            self._plug(port, machine, address, gateway=gateway, mtu=mtu)
        except (NetlinkError, NamespaceError, OSError) as error:
            self.unplug(port.link)
            raise FabricError(f"NIC {port.nic_id} cannot be plugged in: {error}") from error

    def _plug(
        self,
        port: Port,
        machine: Namespace,
        address: IPv4Interface,
        *,
        gateway: IPv4Address,
        mtu: int,
    ) -> None:
        index = self._veth(port.link, machine, port.mac, mtu=mtu)
        write_sysctl(f"ipv4/neigh/{port.link}/proxy_delay", 0)
        write_sysctl(f"ipv4/conf/{port.link}/proxy_arp", 1)
        self._neighbour(index, address.ip, port.mac)
        machine.run(lambda: _configure_far(address, gateway=gateway))

    def unplug(self, link: str) -> None:
        """Removes the link; nothing happens if it is gone."""
        index = _indexes().get(link)
        if index is not None:
            _unless_gone(lambda: self._netlink.link("del", index=index))

    def apply(self, routes: Mapping[tuple[int, IPv4Network], Route], marks: frozenset[int]) -> None:
        """Makes routes and mark rules exactly these, as far as their links exist."""
        indexes = _indexes()
        wanted = {
            key: (route, indexes[route.link])
            for key, route in routes.items()
            if route.link in indexes
        }
        for key, (route, index) in list(self._routes.items()):
            if key not in wanted:
                self._delete_route(route, index)
        for key, (route, index) in wanted.items():
            if self._routes.get(key) != (route, index):
                self._replace_route(route, index)
        self._routes = wanted
        for mark in marks - self._marks:
            self._netlink.rule("add", **_mark_rule(mark))
        for mark in self._marks - marks:
            self._delete_rule(mark)
        self._marks = set(marks)

    def _veth(self, link: str, far: Namespace, far_mac: str, *, mtu: int) -> int:
        self._netlink.link(
            "add",
            ifname=link,
            kind="veth",
            address=GATEWAY_MAC,
            mtu=mtu,
            peer={
                "ifname": "eth0",
                "net_ns_fd": far.descriptor,
                "address": far_mac,
                "mtu": mtu,
            },
        )
        index = socket.if_nametoindex(link)
        self._netlink.link("set", index=index, state="up")
        return index

    def _neighbour(self, index: int, address: IPv4Address, mac: str) -> None:
        self._netlink.neigh(
            "replace", ifindex=index, dst=str(address), lladdr=mac, state=_PERMANENT
        )

    def _replace_route(self, route: Route, index: int) -> None:
        _unless_gone(lambda: self._netlink.route("replace", **_route(route, index)))

    def _delete_rule(self, mark: int) -> None:
        _unless_gone(lambda: self._netlink.rule("del", **_mark_rule(mark)))

    def _delete_route(self, route: Route, index: int) -> None:
        _unless_gone(lambda: self._netlink.route("del", **_route(route, index)))


def netlink_socket() -> Any:
    """A netlink socket of the calling thread and its namespace. pyroute2 makes its methods at
    run time, so they have no types."""
    return IPRoute()  # type: ignore[no-untyped-call]


def _configure_far(
    address: IPv4Interface,
    *,
    gateway: IPv4Address,
    others: Iterable[IPv4Interface] = (),
) -> None:
    """Sets up ``eth0`` in the calling thread's namespace, whatever it was before."""
    with netlink_socket() as netlink:
        netlink.link("set", index=1, state="up")
        index = socket.if_nametoindex("eth0")
        for other in others:
            netlink.addr("replace", index=1, address=str(other.ip), prefixlen=32)
        netlink.addr(
            "replace", index=index, address=str(address.ip), prefixlen=address.network.prefixlen
        )
        netlink.link("set", index=index, state="up")
        netlink.route("replace", dst="default", oif=index, gateway=str(gateway))


def _configure_far6(
    address: IPv6Interface, gateway: IPv6Address, others: Iterable[IPv6Address]
) -> None:
    """IPv6 of ``eth0`` in the calling thread's namespace."""
    for name in ("accept_ra", "accept_dad"):
        write_sysctl(f"ipv6/conf/eth0/{name}", 0)
    for link in ("lo", "eth0"):
        write_sysctl(f"ipv6/conf/{link}/disable_ipv6", 0)
    with netlink_socket() as netlink:
        index = socket.if_nametoindex("eth0")
        for other in others:
            netlink.addr("replace", index=1, address=str(other), prefixlen=128, flags=_NODAD)
        netlink.addr(
            "replace",
            index=index,
            address=str(address.ip),
            prefixlen=address.network.prefixlen,
            flags=_NODAD,
        )
        family = socket.AF_INET6
        netlink.route("replace", family=family, dst="::/0", oif=index, gateway=str(gateway))


def _route6(route: Route6, index: int) -> dict[str, object]:
    return {
        "family": socket.AF_INET6,
        "dst": str(route.destination),
        "oif": index,
        "gateway": str(MACHINE),
    }


def _route(route: Route, index: int) -> dict[str, object]:
    values: dict[str, object] = {"dst": str(route.destination), "oif": index}
    if route.table:
        values["table"] = route.table
    if route.via is None:
        values["scope"] = _SCOPE_LINK
    else:
        values["gateway"] = str(route.via)
        values["flags"] = ["onlink"]
    return values


def _mark_rule(mark: int) -> dict[str, int]:
    return {"fwmark": mark, "table": MARK_TABLE_BASE + mark, "priority": _RULE_PRIORITY}


def _indexes() -> dict[str, int]:
    return {name: index for index, name in socket.if_nameindex()}


def _unless_gone(call: Callable[[], object]) -> None:
    try:
        call()
    except NetlinkError as error:
        if error.code not in _GONE:
            raise
