"""WireGuard's cross-platform configuration protocol as functions over text.

https://www.wireguard.com/xplatform/: keys in hexadecimal, one ``key=value`` a line, an empty line
ends a message. Sockets live elsewhere.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from egress_gateway.api import keys
from egress_gateway.datapath.addresses import parse_network
from egress_gateway.datapath.errors import DatapathError, understood
from egress_gateway.datapath.wireguard.model import Config, Device, Endpoint, Peer, PeerStatus

GET = "get=1\n\n"
_LINE: Final = re.compile(r"^([^=\n]*)=(.*)", re.MULTILINE)


def encode(config: Config) -> str:
    """The ``set`` request for a change. Device values precede peers, as the protocol wants."""
    return "\n".join(["set=1", *_device_lines(config), "\n"])


def _device_lines(config: Config) -> Iterator[str]:
    if config.private_key is not None:
        yield f"private_key={_hex(config.private_key)}"
    if config.listen_port is not None:
        yield f"listen_port={config.listen_port}"
    if config.fwmark is not None:
        yield f"fwmark={config.fwmark}"
    if config.replace_peers:
        yield "replace_peers=true"
    for key in config.remove_peers:
        yield from (f"public_key={_hex(key)}", "remove=true")
    for peer in config.peers:
        yield "\n".join(_peer_lines(peer))


def _peer_lines(peer: Peer) -> Iterator[str]:
    if peer.fresh:
        yield from (f"public_key={_hex(peer.public_key)}", "remove=true")
    yield f"public_key={_hex(peer.public_key)}"
    if peer.endpoint is not None:
        yield f"endpoint={peer.endpoint}"
    yield f"persistent_keepalive_interval={peer.keepalive}"
    yield "replace_allowed_ips=true"
    for network in peer.allowed_ips:
        yield f"allowed_ip={network}"


@understood(DatapathError, "WireGuard's answer")
def decode_errno(answer: str) -> int:
    """0, or the errno that refused a ``set``."""
    for line in answer.splitlines():
        name, _, value = line.partition("=")
        if name == "errno":
            return abs(int(value))
    raise DatapathError("WireGuard's answer carries no errno")


@understood(DatapathError, "WireGuard's answer")
def decode(answer: str) -> Device:
    """The device out of the answer to ``get``."""
    device: dict[str, str] = {}
    peers: dict[str, PeerStatus] = {}
    lines: list[tuple[str, str]] | None = None

    def finish() -> None:
        # One peer at a time: ten thousand as lines would take more memory than as values.
        if lines:
            status = _peer(lines)
            peers[status.public_key] = status

    # One line at a time, for the same reason.
    for name, value in (found.groups() for found in _LINE.finditer(answer)):
        if name == "public_key":
            finish()
            lines = []
        if lines is not None and name != "errno":
            lines.append((name, value))
        else:
            device[name] = value
    finish()
    private = device.get("private_key", "")
    # A device without a key answers with zeros, or leaves the line out.
    known = bool(private.strip("0"))
    public = keys.public_key(keys.encode(bytes.fromhex(private))) if known else ""
    return Device(
        public_key=public,
        listen_port=int(device.get("listen_port", "0")),
        fwmark=int(device.get("fwmark", "0")),
        peers=peers,
    )


def _peer(lines: list[tuple[str, str]]) -> PeerStatus:
    values = dict(lines)
    seconds = int(values.get("last_handshake_time_sec", "0"))
    nanoseconds = int(values.get("last_handshake_time_nsec", "0"))
    return PeerStatus(
        public_key=keys.encode(bytes.fromhex(values["public_key"])),
        endpoint=parse_endpoint(values["endpoint"]) if "endpoint" in values else None,
        allowed_ips=frozenset(
            parse_network(value) for name, value in lines if name == "allowed_ip"
        ),
        last_handshake=seconds + nanoseconds / 1e9,
        received=int(values.get("rx_bytes", "0")),
        sent=int(values.get("tx_bytes", "0")),
        keepalive=int(values.get("persistent_keepalive_interval", "0")),
    )


def parse_endpoint(text: str) -> Endpoint:
    """``1.2.3.4:51820`` or ``[2001:db8::1]:51820``."""
    address, _, port = text.rpartition(":")
    return Endpoint(ipaddress.ip_address(address.strip("[]").partition("%")[0]), int(port))


def _hex(key: str) -> str:
    return keys.decode(key).hex()
