"""Links, addresses, routes and rules of one namespace (rtnetlink).

Values in, values out; every change is idempotent: adding what is there and deleting what is not
succeed. Formats: rtnetlink(7), linux/rtnetlink.h, linux/if_link.h, linux/fib_rules.h.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from egress_gateway.datapath.addresses import IPAddress, IPNetwork
from egress_gateway.datapath.errors import DatapathError, NoSuchLink, PortInUse, understood
from egress_gateway.datapath.linux import netlink
from egress_gateway.datapath.linux.netlink import Message, NetlinkError, NetlinkSocket
from egress_gateway.datapath.linux.netns import NetNS, read_sysctl

MAIN: Final = 254
"""The table that ordinary routes live in."""
LOCAL: Final = 255
"""The table that the kernel keeps of its own addresses, and looks into first."""
DEFAULT: Final = 253
"""The table that is looked into last."""

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 3, 4, 18, 28
_IFLA_STATS64 = 23
_STATS64 = struct.Struct("=QQQQ")
"""Begins ``struct rtnl_link_stats64``: packets and bytes that were received and sent."""
_IFLA_LINK, _IFLA_LINK_NETNSID = 5, 37
_INFO_KIND, _INFO_DATA, _PORT_KIND, _VETH_PEER = 1, 2, 4, 1
_GETNSID, _NETNSA_NSID, _NETNSA_FD = 90, 1, 3
_UP: Final = 1
_UNICAST, _BLACKHOLE, _UNREACHABLE, _PROHIBIT, _THROW = 1, 6, 7, 8, 9
_TYPES: Final = {
    "unicast": _UNICAST,
    "blackhole": _BLACKHOLE,
    "unreachable": _UNREACHABLE,
    "prohibit": _PROHIBIT,
    "throw": _THROW,
}
_NAMES: Final = {number: name for name, number in _TYPES.items()}
_OURS: Final = 101
"""``rtm_protocol`` of routes that we add: who looks at ``ip route`` sees ``proto 101``."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a link has carried since it was made, seen from this side."""

    received_packets: int = 0
    sent_packets: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface, as RTM_GETLINK tells it (rtnetlink(7))."""

    index: int
    name: str
    up: bool
    mtu: int
    kind: str = ""
    """As ``ip link add ... type`` has it; "" of hardware and the loopback link."""
    traffic: Traffic = field(default=Traffic(), compare=False)
    peer: int = 0
    """Index of the other end (of a veth) or of the link below; 0: none."""
    peer_netns: int = -1
    """``Links.namespace_id`` of the namespace that the peer is in; -1: this one."""
    bridged: bool = False
    """A port of a bridge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route. ``device`` by name; ``source`` is the address preferred for packets of our own;
    ``onlink`` takes the gateway to be on the device whatever its addresses say."""

    destination: IPNetwork
    kind: str = "unicast"
    device: str | None = None
    gateway: IPAddress | None = None
    source: IPAddress | None = None
    table: int = MAIN
    onlink: bool = False
    metric: int = field(default=0, compare=False)
    """Of a route that was read, for its deletion: of two to one destination, the kernel takes the
    first that is like it, and for IPv6 an unreachable one is like any other. 0: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingRule:
    """A routing rule: packets of ``family`` with ``mark`` (under ``mask``), come in by
    ``device`` if one is named, look into ``table``."""

    family: Literal[4, 6]
    priority: int
    table: int
    mark: int = 0
    mask: int = 0
    device: str | None = None


class Links:
    """rtnetlink of one namespace. The socket stays there, so any thread may call."""

    def __init__(self, netns: NetNS) -> None:
        self._where = netns.path
        self._netlink = NetlinkSocket(netlink.ROUTE, netns)

    def close(self) -> None:
        """The socket keeps its namespace alive until then."""
        self._netlink.close()

    def __enter__(self) -> Links:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Links.

    def links(self) -> dict[str, Link]:
        """All links by name."""
        asked = Message(_GETLINK, netlink.DUMP, _link_header())
        answers = self._netlink.query(asked, f"listing links in {self._where}")
        return {link.name: link for link in map(decode_link, answers)}

    def link(self, name: str) -> Link | None:
        """None if there is no link of that name."""
        return self._one(_link_header() + netlink.text(_IFLA_IFNAME, name), name)

    def at(self, index: int) -> Link | None:
        """The link of this index."""
        return self._one(_link_header(index), str(index))

    def _one(self, payload: bytes, what: str) -> Link | None:
        asked = Message(_GETLINK, 0, payload)
        try:
            answers = self._netlink.query(asked, f"looking for link {what} in {self._where}")
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return decode_link(answers[0])

    def add(self, name: str, kind: str) -> None:
        """A link of a kind that needs no more words (``wireguard``, ``dummy``)."""
        info = netlink.nested(_IFLA_LINKINFO, netlink.text(_INFO_KIND, kind))
        self._create(_link_header() + netlink.text(_IFLA_IFNAME, name) + info, name)

    def add_veth(self, name: str, peer: str, peer_netns: NetNS) -> None:
        """A pair of links, the other half directly in ``peer_netns``."""
        other = (
            _link_header()
            + netlink.text(_IFLA_IFNAME, peer)
            + netlink.u32(_IFLA_NET_NS_FD, peer_netns.fileno())
        )
        info = netlink.nested(
            _IFLA_LINKINFO,
            netlink.text(_INFO_KIND, "veth"),
            netlink.nested(_INFO_DATA, netlink.attribute(_VETH_PEER, other)),
        )
        self._create(_link_header() + netlink.text(_IFLA_IFNAME, name) + info, name)

    def set_up(self, name: str, *, up: bool = True, mtu: int | None = None) -> None:
        """Sets the link up (or down) and its MTU in bytes. The kernel's WireGuard opens its socket
        only now: raises ``PortInUse``."""
        payload = _link_header(self._index(name), _UP if up else 0, _UP)
        if mtu is not None:
            payload += netlink.u32(_IFLA_MTU, mtu)
        try:
            self._ask(Message(_NEWLINK, 0, payload), f"setting up link {name}")
        except NetlinkError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"the UDP port of link {name} is taken by another socket of the node; free it"
                ) from error
            raise

    def move(self, name: str, target: NetNS, new_name: str) -> None:
        """Moves the link into ``target`` and renames it there, in one step."""
        payload = (
            _link_header(self._index(name))
            + netlink.u32(_IFLA_NET_NS_FD, target.fileno())
            + netlink.text(_IFLA_IFNAME, new_name)
        )
        self._ask(Message(_NEWLINK, 0, payload), f"moving link {name} to {target.path}")

    def delete(self, name: str) -> None:
        """Nothing if it is gone already."""
        with contextlib.suppress(NoSuchLink):
            payload = _link_header(self._index(name))
            message = Message(_DELLINK, 0, payload)
            self._ask(message, f"deleting link {name}", fine=(errno.ENODEV,))

    def namespace_id(self, other: NetNS) -> int:
        """The number that this namespace knows ``other`` by; -1 if it has none."""
        asked = Message(
            _GETNSID, 0, struct.pack("=Bxxx", 0) + netlink.u32(_NETNSA_FD, other.fileno())
        )
        answers = self._netlink.query(asked, f"asking for a namespace's id in {self._where}")
        found = netlink.attributes(answers[0].payload, 4)
        return int(struct.unpack("=i", found[_NETNSA_NSID])[0])

    # Addresses.

    def addresses(self, name: str) -> set[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
        """Addresses of a link, link-local ones of IPv6 left out."""
        return {address for _, address in self._addresses(self._index(name))}

    def every_address(self) -> set[tuple[str, ipaddress.IPv4Interface | ipaddress.IPv6Interface]]:
        """Addresses of all links, each with its link's name."""
        names = {link.index: link.name for link in self.links().values()}
        return {(names[i], address) for i, address in self._addresses(0) if i in names}

    def _addresses(
        self, index: int
    ) -> set[tuple[int, ipaddress.IPv4Interface | ipaddress.IPv6Interface]]:
        asked = Message(_GETADDR, netlink.DUMP, struct.pack("=BBBBI", 0, 0, 0, 0, index))
        found = set()
        for answer in self._netlink.query(asked, f"listing addresses in {self._where}"):
            family, length, _, _, owner = struct.unpack_from("=BBBBI", answer.payload)
            if index not in (0, owner):
                continue
            got = netlink.attributes(answer.payload, 8)
            # IFA_LOCAL is the address itself, IFA_ADDRESS the peer's on point-to-point links.
            raw = got.get(2) or got[1]
            if family in (socket.AF_INET, socket.AF_INET6):
                value = ipaddress.ip_interface((raw, length))
                if not (value.version == 6 and value.ip.is_link_local):
                    found.add((owner, value))
        return found

    def add_address(
        self, name: str, address: ipaddress.IPv4Interface | ipaddress.IPv6Interface
    ) -> None:
        """Nothing happens if the link has it. Raises ``NoSuchLink``, ``NetlinkError``."""
        self._address(_NEWADDR, name, address)

    def delete_address(
        self, name: str, address: ipaddress.IPv4Interface | ipaddress.IPv6Interface
    ) -> None:
        """Nothing happens if the link does not have it. Raises ``NoSuchLink``, ``NetlinkError``."""
        self._address(_DELADDR, name, address)

    def _address(
        self, kind: int, name: str, address: ipaddress.IPv4Interface | ipaddress.IPv6Interface
    ) -> None:
        family = _family(address.version)
        length = address.network.prefixlen
        # IFA_F_NODAD: an address that nobody else can have need not wait to be usable.
        flags = 0x02 if address.version == 6 else 0
        payload = struct.pack("=BBBBI", family, length, flags, 0, self._index(name))
        payload += netlink.attribute(2, address.packed) + netlink.attribute(1, address.packed)
        create = netlink.CREATE | netlink.REPLACE if kind == _NEWADDR else 0
        fine = (errno.EEXIST,) if kind == _NEWADDR else (errno.EADDRNOTAVAIL,)
        self._ask(Message(kind, create, payload), f"address {address} on {name}", fine=fine)

    # Routes.

    def routes(self, table: int, family: Literal[4, 6]) -> set[Route]:
        """Routes of one table."""
        header = struct.pack("=BBBBBBBBI", _family(family), 0, 0, 0, 0, 0, 0, 0, 0)
        asked = Message(_GETROUTE, netlink.DUMP, header + netlink.u32(15, table))
        try:
            answers = self._netlink.query(asked, f"listing routes of table {table}")
        except NetlinkError as error:
            if error.errno == errno.ENOENT:  # a table without routes does not exist
                return set()
            raise
        names = {link.index: link.name for link in self.links().values()} if answers else {}
        return {
            route for a in answers if (route := decode_route(a, names)) and route.table == table
        }

    def way(self, destination: IPAddress) -> str:
        """The link by which a packet of no mark would go there, as ``ip route get`` asks. Raises
        ``NetlinkError`` if there is no way."""
        length = destination.max_prefixlen
        header = struct.pack("=BBBBBBBBI", _family(destination.version), length, *[0] * 6, 0)
        asked = Message(_GETROUTE, 0, header + netlink.attribute(1, destination.packed))
        answers = self._netlink.query(asked, f"looking up the way to {destination}")
        (index,) = struct.unpack("=I", netlink.attributes(answers[0].payload, 12)[4])
        found = self.at(index)
        return found.name if found else ""

    def replace_routes(self, routes: Sequence[Route]) -> None:
        """Adds all, replacing those of the same destination and table. One batch."""
        self._routes(_NEWROUTE, netlink.CREATE | netlink.REPLACE, routes, fine=())

    def delete_routes(self, routes: Sequence[Route]) -> None:
        """Whoever made them. Those that are gone already are passed over."""
        self._routes(_DELROUTE, 0, routes, fine=(errno.ESRCH, errno.ENODEV))

    def _routes(
        self, kind: int, flags: int, routes: Sequence[Route], fine: tuple[int, ...]
    ) -> None:
        devices = {r.device for r in routes if r.device}
        try:
            indices = {name: self._index(name) for name in devices}
        except NoSuchLink:
            if kind == _DELROUTE:  # routes go with their link
                self._routes(kind, flags, [r for r in routes if r.device is None], fine)
                return
            raise
        maker = 0 if kind == _DELROUTE else _OURS
        messages = [Message(kind, flags, _encode_route(r, indices, maker)) for r in routes]
        for route, refused in zip(routes, self._netlink.batch(messages), strict=True):
            if refused and refused[0] not in fine:
                verb = "adding" if kind == _NEWROUTE else "deleting"
                raise NetlinkError(f"{verb} {route} in {self._where}", *refused)

    # Rules.

    def rules(self, family: Literal[4, 6]) -> set[RoutingRule]:
        """Rules that select by mark, incoming link or nothing; ``other_rules`` has the others."""
        return {rule for a in self._every_rule(family) if (rule := decode_rule(a, family))}

    def other_rules(self, family: Literal[4, 6]) -> set[bytes]:
        """What ``rules`` leaves out, as the kernel tells it."""
        return {a.payload for a in self._every_rule(family) if decode_rule(a, family) is None}

    def _every_rule(self, family: Literal[4, 6]) -> list[Message]:
        header = struct.pack("=BBBBBBBBI", _family(family), 0, 0, 0, 0, 0, 0, 0, 0)
        asked = Message(_GETRULE, netlink.DUMP, header)
        return self._netlink.query(asked, f"listing rules in {self._where}")

    def add_rule(self, rule: RoutingRule) -> None:
        """Nothing if it is there already."""
        message = Message(_NEWRULE, netlink.CREATE | netlink.EXCLUSIVE, _encode_rule(rule))
        self._ask(message, f"adding {rule}", fine=(errno.EEXIST,))

    def delete_rule(self, rule: RoutingRule) -> None:
        """Nothing if it is gone already."""
        message = Message(_DELRULE, 0, _encode_rule(rule))
        self._ask(message, f"deleting {rule}", fine=(errno.ENOENT,))

    def delete_other_rule(self, rule: bytes) -> None:
        """One of ``other_rules``. Nothing if it is gone already."""
        message = Message(_DELRULE, 0, rule)
        self._ask(message, "deleting a rule", fine=(errno.ENOENT,))

    # The rest.

    def _create(self, payload: bytes, name: str) -> None:
        flags = netlink.CREATE | netlink.EXCLUSIVE
        self._ask(Message(_NEWLINK, flags, payload), f"making link {name}")

    def _ask(self, message: Message, doing: str, fine: tuple[int, ...] = ()) -> None:
        try:
            self._netlink.ask(message, f"{doing} in {self._where}")
        except NetlinkError as error:
            if error.errno not in fine:
                raise

    def _index(self, name: str) -> int:
        link = self.link(name)
        if link is None:
            raise NoSuchLink(f"link {name} does not exist in {self._where}")
        return link.index


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _link_header(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, flags, change)


@understood(DatapathError, "the kernel's answer about a link")
def decode_link(message: Message) -> Link:
    """Of RTM_NEWLINK. Raises ``DatapathError`` for what is none."""
    _, _, index, flags, _ = struct.unpack_from("=BxHiII", message.payload)
    found = netlink.attributes(message.payload, 16)
    name = found[_IFLA_IFNAME].rstrip(b"\0").decode()
    about = netlink.attributes(found.get(_IFLA_LINKINFO, b""))
    stats = found.get(_IFLA_STATS64, b"")
    received, sent, received_bytes, sent_bytes = (
        _STATS64.unpack_from(stats) if len(stats) >= _STATS64.size else (0, 0, 0, 0)
    )
    return Link(
        index,
        name,
        bool(flags & _UP),
        struct.unpack("=I", found[_IFLA_MTU])[0],
        traffic=Traffic(received, sent, received_bytes, sent_bytes),
        kind=about.get(_INFO_KIND, b"").rstrip(b"\0").decode(),
        peer=int.from_bytes(found.get(_IFLA_LINK, b""), sys.byteorder),
        peer_netns=struct.unpack("=i", found.get(_IFLA_LINK_NETNSID, b"\xff" * 4))[0],
        bridged=about.get(_PORT_KIND, b"").rstrip(b"\0") == b"bridge",
    )


def _encode_route(route: Route, indices: dict[str, int], maker: int) -> bytes:
    """``maker`` 0: a route of whatever maker and scope."""
    # Scope "link" for direct routes over a device, "universe" otherwise, as iproute2 chooses.
    direct = route.destination.version == 4 and route.device and not route.gateway
    scope = 253 if direct else 0
    payload = struct.pack(
        "=BBBBBBBBI",
        _family(route.destination.version),
        route.destination.prefixlen,
        0,
        0,
        0,  # the table is given by its attribute, which has room for more than eight bits
        maker,
        scope if maker else 255,  # RT_SCOPE_NOWHERE: any
        _TYPES[route.kind],
        4 if route.onlink else 0,
    )
    payload += netlink.attribute(1, route.destination.network_address.packed)
    payload += netlink.u32(15, route.table)
    if route.device:
        payload += netlink.u32(4, indices[route.device])
    if route.gateway:
        payload += netlink.attribute(5, route.gateway.packed)
    if route.source:
        payload += netlink.attribute(7, route.source.packed)
    if route.metric and not maker:
        payload += netlink.u32(6, route.metric)
    return payload


@understood(DatapathError, "the kernel's answer about a route")
def decode_route(message: Message, names: dict[int, str]) -> Route | None:
    """Of RTM_NEWROUTE; ``names``: links by index. None: a kind that is not ours to touch. Raises
    ``DatapathError`` for what is none."""
    header = struct.unpack_from("=BBBBBBBBI", message.payload)
    family, length, table, kind, flags = header[0], header[1], header[4], header[7], header[8]
    found = netlink.attributes(message.payload, 12)
    if kind not in _NAMES:
        return None
    nothing = bytes(4 if family == socket.AF_INET else 16)
    address = ipaddress.ip_address(found.get(1, nothing))
    # The kernel puts unreachable IPv6 routes on the loopback link; nobody asked for that.
    device = names.get(struct.unpack("=I", found[4])[0]) if 4 in found else None
    return Route(
        destination=ipaddress.ip_network((address, length)),
        kind=_NAMES[kind],
        device=device if kind == _UNICAST else None,
        gateway=ipaddress.ip_address(found[5]) if 5 in found else None,
        source=ipaddress.ip_address(found[7]) if 7 in found else None,
        table=struct.unpack("=I", found[15])[0] if 15 in found else table,
        onlink=bool(flags & 4),
        metric=struct.unpack("=I", found[6])[0] if 6 in found else 0,
    )


def _encode_rule(rule: RoutingRule) -> bytes:
    header = struct.pack("=BBBBBBBBI", _family(rule.family), 0, 0, 0, 0, 0, 0, 1, 0)
    payload = header + netlink.u32(6, rule.priority) + netlink.u32(15, rule.table)
    if rule.device:
        payload += netlink.text(3, rule.device)
    if rule.mask:
        payload += netlink.u32(10, rule.mark) + netlink.u32(16, rule.mask)
    return payload


@understood(DatapathError, "the kernel's answer about a rule")
def decode_rule(message: Message, family: Literal[4, 6]) -> RoutingRule | None:
    """Of RTM_NEWRULE; None for a rule that ``RoutingRule`` cannot express. Raises ``DatapathError``
    for what is none."""
    found = netlink.attributes(message.payload, 12)

    def number(kind: int) -> int:
        return int(struct.unpack("=I", found[kind])[0]) if kind in found else 0

    # Prefixes, outgoing link, L3 domain, user ids, protocol and ports (FRA_* of fib_rules.h).
    selectors = {1, 2, 17, 19, 20, 22, 23, 24} & found.keys()
    action = message.payload[7]
    if selectors or action != 1:
        return None
    return RoutingRule(
        family=family,
        priority=number(6),
        table=number(15),
        mark=number(10),
        mask=number(16),
        device=found[3].rstrip(b"\0").decode() if 3 in found else None,
    )


def families(netns: NetNS) -> tuple[Literal[4, 6], ...]:
    """4, and 6 where the kernel has it: without, asking for IPv6 routes is an error."""
    known = read_sysctl(netns, "net/ipv6/conf/all/disable_ipv6") is not None
    return (4, 6) if known else (4,)
