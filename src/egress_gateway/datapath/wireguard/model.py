"""WireGuard interfaces, whichever back end makes them: values and the protocol.

An interface is born in the node's namespace under a name that is unique on the node (``name``)
and may then live in another namespace under another name (``link``). Its encrypted socket stays
where it was born. ``wireguard-go`` is reached by the birth name, the kernel by the present one,
so an ``Interface`` carries both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Protocol

from egress_gateway.datapath.addresses import IPAddress, IPNetwork
from egress_gateway.datapath.linux.netns import NetNS


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a peer's encrypted packets go."""

    address: IPAddress
    port: int

    def __str__(self) -> str:
        if isinstance(self.address, IPv6Address):
            return f"[{self.address}]:{self.port}"
        return f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A peer to add or change; ``allowed_ips`` replaces what it had.

    ``fresh`` removes the peer first, in the same call: its session is gone and the next packet
    (or keepalive) starts a handshake at once.
    """

    public_key: str
    allowed_ips: tuple[IPNetwork, ...] = ()
    endpoint: Endpoint | None = None
    keepalive: int = 0
    """Seconds between persistent keepalives; 0 turns them off. With a keepalive a handshake
    starts by itself as soon as the interface is up."""
    fresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A change of an interface; None leaves a value as it is. One call, all or nothing as far
    as the back end allows."""

    private_key: str | None = field(default=None, repr=False)
    listen_port: int | None = None
    fwmark: int | None = None
    replace_peers: bool = False
    peers: tuple[Peer, ...] = ()
    remove_peers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """A peer of a live interface. ``received`` and ``sent`` count bytes, ``keepalive`` seconds."""

    public_key: str
    endpoint: Endpoint | None
    allowed_ips: frozenset[IPNetwork]
    last_handshake: float
    """Seconds since the epoch; 0 if there was none since the peer was (re-)added."""
    received: int
    sent: int
    keepalive: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What an interface has now."""

    public_key: str
    listen_port: int
    fwmark: int
    peers: dict[str, PeerStatus]


@dataclass(frozen=True, slots=True)
class Interface:
    """Handle of an interface: birth name, and where it lives now."""

    name: str
    netns: NetNS
    link: str


class Backend(Protocol):
    """Makes and configures interfaces. Methods block; call them from a worker thread."""

    @property
    def kind(self) -> str:
        """``kernel`` or ``userspace``."""
        ...

    def version(self) -> str:
        """The version of what makes the interfaces here: of the kernel, or of ``wireguard-go``.
        Raises ``DatapathError`` while it is unknown."""
        ...

    def create(self, name: str) -> Interface:
        """Makes the interface in the node's namespace, down and unconfigured. An interface
        of that name which is still there is deleted first."""
        ...

    def configure(self, interface: Interface, config: Config) -> None:
        """Raises ``NoSuchLink``, ``PortInUse``, ``KernelRefused``."""
        ...

    def status(self, interface: Interface) -> Device | None:
        """None if the interface (or the process behind it) is gone."""
        ...

    def delete(self, interface: Interface) -> None:
        """Nothing happens if it is gone."""
        ...
