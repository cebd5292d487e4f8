"""WireGuard in the kernel, over generic netlink (linux/wireguard.h).

The kernel wants to be asked in the namespace where the link is now.
"""

from __future__ import annotations

import errno
import ipaddress
import platform
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from egress_gateway.api import keys
from egress_gateway.datapath.addresses import IPNetwork, parse_network
from egress_gateway.datapath.errors import (
    DatapathError,
    KernelRefused,
    NoSuchLink,
    PortInUse,
    understood,
)
from egress_gateway.datapath.linux import netlink
from egress_gateway.datapath.linux.link import Links
from egress_gateway.datapath.linux.netlink import Message, NetlinkError, NetlinkSocket
from egress_gateway.datapath.linux.netns import NetNS
from egress_gateway.datapath.wireguard.model import (
    Config,
    Device,
    Endpoint,
    Interface,
    Peer,
    PeerStatus,
)

_GET_DEVICE, _SET_DEVICE = 0, 1
_IFNAME, _PRIVATE_KEY, _PUBLIC_KEY, _FLAGS, _LISTEN_PORT, _FWMARK, _PEERS = 2, 3, 4, 5, 6, 7, 8
_REPLACE_PEERS: Final = 1
(
    _PEER_KEY,
    _PEER_FLAGS,
    _PEER_ENDPOINT,
    _PEER_KEEPALIVE,
    _PEER_HANDSHAKE,
    _PEER_RX,
    _PEER_TX,
    _PEER_ALLOWED,
) = (1, 3, 4, 5, 6, 7, 8, 9)
_REMOVE_ME, _REPLACE_ALLOWED = 1, 2
_AI_FAMILY, _AI_ADDRESS, _AI_MASK = 1, 2, 3
_CTRL: Final = 16
_PEERS_PER_MESSAGE: Final = 200
"""A nested attribute holds at most 64 KiB; a peer with a few addresses takes some 150 bytes."""


class KernelBackend:
    """The kernel's interfaces. Thread-safe: each call has a socket of its own."""

    kind = "kernel"

    def __init__(self, *, node: NetNS | None = None) -> None:
        self._node = node or NetNS.current()
        self._family = 0

    def version(self) -> str:
        """The running kernel's release: WireGuard is part of it."""
        return f"linux {platform.release()}"

    def create(self, name: str) -> Interface:
        """``RTM_NEWLINK`` of kind wireguard, in the node's namespace."""
        with Links(self._node) as links:
            links.delete(name)
            links.add(name, "wireguard")
        return Interface(name, self._node, name)

    def configure(self, interface: Interface, config: Config) -> None:
        """``WG_CMD_SET_DEVICE`` (linux/wireguard.h), in as many messages as its peers need. Raises
        ``NoSuchLink``, ``PortInUse``, ``NetlinkError``."""
        connection = NetlinkSocket(netlink.GENERIC, interface.netns)
        try:
            family = self._resolve(connection)
            for payload in encode(interface.link, config):
                connection.ask(
                    Message(family, 0, payload), f"configuring WireGuard link {interface.link}"
                )
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                raise NoSuchLink(f"WireGuard link {interface.link} does not exist") from error
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"UDP port {config.listen_port} for {interface.link} is taken by another "
                    "socket of the node; free it"
                ) from error
            raise
        finally:
            connection.close()

    def status(self, interface: Interface) -> Device | None:
        """``WG_CMD_GET_DEVICE``. None also for a link of another kind."""
        connection = NetlinkSocket(netlink.GENERIC, interface.netns)
        payload = _header(_GET_DEVICE) + netlink.text(_IFNAME, interface.link)
        try:
            asked = Message(self._resolve(connection), netlink.DUMP, payload)
            answers = connection.query(asked, f"reading WireGuard link {interface.link}")
        except NetlinkError as error:
            if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):
                return None
            raise
        finally:
            connection.close()
        return decode([a.payload[4:] for a in answers])

    def delete(self, interface: Interface) -> None:
        """Its socket and its sessions end with it."""
        with Links(interface.netns) as links:
            links.delete(interface.link)

    def _resolve(self, connection: NetlinkSocket) -> int:
        if not self._family:
            payload = struct.pack("=BBH", 3, 1, 0) + netlink.text(2, "wireguard")
            try:
                answers = connection.query(Message(_CTRL, 0, payload), "looking for WireGuard")
            except KernelRefused as error:
                raise DatapathError(
                    "this kernel has no WireGuard; load the module or use wireguard-go"
                ) from error
            found = netlink.attributes(answers[0].payload, 4)
            self._family = struct.unpack("=H", found[1])[0]
        return self._family


def _header(command: int) -> bytes:
    return struct.pack("=BBH", command, 1, 0)


def encode(link: str, config: Config) -> Iterator[bytes]:
    """Requests for a change: one, unless there are very many peers."""
    peers = [*map(_removal, config.remove_peers), *(p for q in config.peers for p in _peer(q))]
    head = netlink.text(_IFNAME, link)
    if config.private_key is not None:
        head += netlink.attribute(_PRIVATE_KEY, keys.decode(config.private_key))
    if config.replace_peers:
        head += netlink.u32(_FLAGS, _REPLACE_PEERS)
    if config.listen_port is not None:
        head += netlink.attribute(_LISTEN_PORT, struct.pack("=H", config.listen_port))
    if config.fwmark is not None:
        head += netlink.u32(_FWMARK, config.fwmark)
    for start in range(0, max(len(peers), 1), _PEERS_PER_MESSAGE):
        chunk = peers[start : start + _PEERS_PER_MESSAGE]
        yield _header(_SET_DEVICE) + head + netlink.nested(_PEERS, *chunk)
        head = netlink.text(_IFNAME, link)


def _removal(key: str) -> bytes:
    return netlink.nested(
        0, netlink.attribute(_PEER_KEY, keys.decode(key)), netlink.u32(_PEER_FLAGS, _REMOVE_ME)
    )


def _peer(peer: Peer) -> Iterator[bytes]:
    if peer.fresh:
        yield _removal(peer.public_key)
    parts = [
        netlink.attribute(_PEER_KEY, keys.decode(peer.public_key)),
        netlink.u32(_PEER_FLAGS, _REPLACE_ALLOWED),
    ]
    if peer.endpoint is not None:
        parts.append(netlink.attribute(_PEER_ENDPOINT, _socket_address(peer.endpoint)))
    parts.append(netlink.attribute(_PEER_KEEPALIVE, struct.pack("=H", peer.keepalive)))
    parts.append(netlink.nested(_PEER_ALLOWED, *map(_allowed, peer.allowed_ips)))
    yield netlink.nested(0, *parts)


def _allowed(network: IPNetwork) -> bytes:
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    return netlink.nested(
        0,
        netlink.attribute(_AI_FAMILY, struct.pack("=H", family)),
        netlink.attribute(_AI_ADDRESS, network.network_address.packed),
        netlink.attribute(_AI_MASK, struct.pack("=B", network.prefixlen)),
    )


def _socket_address(endpoint: Endpoint) -> bytes:
    port = struct.pack("!H", endpoint.port)
    if endpoint.address.version == 4:
        return struct.pack("=H", socket.AF_INET) + port + endpoint.address.packed + bytes(8)
    family = struct.pack("=H", socket.AF_INET6)
    return family + port + bytes(4) + endpoint.address.packed + bytes(4)


@understood(DatapathError, "the kernel's answer about a WireGuard interface")
def decode(payloads: Sequence[bytes]) -> Device:
    """A device out of its dump, which may take several messages."""
    device: dict[int, bytes] = {}
    peers: dict[str, PeerStatus] = {}
    for payload in payloads:
        found = netlink.attributes(payload)
        device = {**found, **device}
        for _, raw in netlink.each_attribute(found.get(_PEERS, b"")):
            status = _status(raw)
            before = peers.get(status.public_key)
            # The allowed addresses of one peer may be cut by a message's end.
            peers[status.public_key] = _joined(before, status) if before else status
    return Device(
        public_key=keys.encode(device[_PUBLIC_KEY]) if _PUBLIC_KEY in device else "",
        listen_port=struct.unpack("=H", device.get(_LISTEN_PORT, b"\0\0"))[0],
        fwmark=struct.unpack("=I", device.get(_FWMARK, bytes(4)))[0],
        peers=peers,
    )


def _joined(first: PeerStatus, second: PeerStatus) -> PeerStatus:
    return PeerStatus(
        public_key=first.public_key,
        endpoint=first.endpoint,
        allowed_ips=first.allowed_ips | second.allowed_ips,
        last_handshake=first.last_handshake,
        received=first.received,
        sent=first.sent,
        keepalive=first.keepalive,
    )


def _status(raw: bytes) -> PeerStatus:
    found = netlink.attributes(raw)
    seconds, nanoseconds = struct.unpack("=qq", found.get(_PEER_HANDSHAKE, bytes(16)))
    return PeerStatus(
        public_key=keys.encode(found[_PEER_KEY]),
        endpoint=_endpoint(found[_PEER_ENDPOINT]) if _PEER_ENDPOINT in found else None,
        allowed_ips=frozenset(
            _network(one) for _, one in netlink.each_attribute(found.get(_PEER_ALLOWED, b""))
        ),
        last_handshake=seconds + nanoseconds / 1e9,
        received=struct.unpack("=Q", found.get(_PEER_RX, bytes(8)))[0],
        sent=struct.unpack("=Q", found.get(_PEER_TX, bytes(8)))[0],
        keepalive=struct.unpack("=H", found.get(_PEER_KEEPALIVE, bytes(2)))[0],
    )


def _endpoint(raw: bytes) -> Endpoint:
    port = struct.unpack_from("!H", raw, 2)[0]
    if struct.unpack_from("=H", raw)[0] == socket.AF_INET:
        return Endpoint(ipaddress.IPv4Address(raw[4:8]), port)
    return Endpoint(ipaddress.IPv6Address(raw[8:24]), port)


def _network(raw: bytes) -> IPNetwork:
    found = netlink.attributes(raw)
    family = socket.AF_INET if len(found[_AI_ADDRESS]) == 4 else socket.AF_INET6
    return parse_network(f"{socket.inet_ntop(family, found[_AI_ADDRESS])}/{found[_AI_MASK][0]}")
