"""What ``plan`` may ask ``side`` to do, one action each."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.linux.actions import AddRule as AddRule
from egress_gateway.datapath.linux.actions import CreateTunnel as CreateTunnel
from egress_gateway.datapath.linux.actions import DeleteLink as DeleteLink
from egress_gateway.datapath.linux.actions import DeleteRule as DeleteRule
from egress_gateway.datapath.linux.link import Route
from egress_gateway.datapath.wireguard.model import Config

Where = Literal["node", "gateway"]
IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True, slots=True)
class CreateNamespace:
    """The gateway's network namespace, by its fixed name."""


@dataclass(frozen=True, slots=True)
class CreatePair:
    """The veth pair between the node and the gateway's namespace."""


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """``name`` with slashes, below ``/proc/sys``."""

    where: Where
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class AddAddress:
    """To a link of the node or of the gateway's namespace."""

    where: Where
    link: str
    address: IPInterface


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    """From the node: packets to an address of its own never come as far as the pair."""

    link: str
    address: IPInterface


@dataclass(frozen=True, slots=True)
class RaiseLink:
    """Brings a link up, with ``mtu`` bytes unless that is None."""

    where: Where
    link: str
    mtu: int | None


@dataclass(frozen=True, slots=True)
class ApplyFilter:
    """Brings a table to ``ruleset`` in one nftables transaction; ``present``: there is one."""

    where: Where
    ruleset: str
    present: bool


@dataclass(frozen=True, slots=True)
class ForgetTranslated:
    """Drops the conntrack entries that were translated to ``address``."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class DeleteTunnel:
    """A WireGuard interface that is not wanted, or that will be made anew."""

    name: str


@dataclass(frozen=True, slots=True)
class DeleteOtherRule:
    """A routing rule in the gateway's namespace, as ``Links.other_rules`` has it."""

    rule: bytes


@dataclass(frozen=True, slots=True)
class CheckPort:
    """Fails if another program has the UDP port. Checked first, because a userspace interface opens
    its socket only when it comes up, and then does not report a failure."""

    port: int


@dataclass(frozen=True, slots=True)
class ConfigureTunnel:
    """Sets keys, port and peers of a WireGuard interface; its sessions stay where they can."""

    name: str
    config: Config


@dataclass(frozen=True, slots=True)
class MoveTunnel:
    """Takes an interface into the gateway's namespace; its UDP socket stays in the node's."""

    name: str


@dataclass(frozen=True, slots=True)
class ReplaceRoutes:
    """Adds routes, each in place of one to the same destination in its table."""

    where: Where
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class DeleteRoutes:
    """Routes that are gone already do no harm."""

    where: Where
    routes: tuple[Route, ...]


Action = (
    CreateNamespace
    | CreatePair
    | SetSysctl
    | AddAddress
    | RemoveAddress
    | RaiseLink
    | ApplyFilter
    | ForgetTranslated
    | DeleteTunnel
    | DeleteLink
    | DeleteOtherRule
    | CheckPort
    | CreateTunnel
    | ConfigureTunnel
    | MoveTunnel
    | ReplaceRoutes
    | DeleteRoutes
    | AddRule
    | DeleteRule
)
