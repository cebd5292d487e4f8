"""What ``plan`` may ask ``side`` to do, one action each."""

from __future__ import annotations

import ipaddress
from typing import Literal

import msgspec

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.linux.actions import AddRule as AddRule
from egress_gateway.datapath.linux.actions import CreateTunnel as CreateTunnel
from egress_gateway.datapath.linux.actions import DeleteLink as DeleteLink
from egress_gateway.datapath.linux.actions import DeleteRule as DeleteRule
from egress_gateway.datapath.linux.link import Route
from egress_gateway.datapath.wireguard.model import Config

Where = Literal["node", "gateway"]
IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


class CreateNamespace(msgspec.Struct, frozen=True):
    """The gateway's network namespace, by its fixed name."""


class CreatePair(msgspec.Struct, frozen=True):
    """The veth pair between the node and the gateway's namespace."""


class SetSysctl(msgspec.Struct, frozen=True):
    """``name`` with slashes, below ``/proc/sys``."""

    where: Where
    name: str
    value: str


class AddAddress(msgspec.Struct, frozen=True):
    """To a link of the node or of the gateway's namespace."""

    where: Where
    link: str
    address: IPInterface


class RemoveAddress(msgspec.Struct, frozen=True):
    """From the node: packets to an address of its own never come as far as the pair."""

    link: str
    address: IPInterface


class RaiseLink(msgspec.Struct, frozen=True):
    """Brings a link up, with ``mtu`` bytes unless that is None."""

    where: Where
    link: str
    mtu: int | None


class ApplyFilter(msgspec.Struct, frozen=True):
    """Brings a table to ``ruleset`` in one nftables transaction; ``present``: there is one."""

    where: Where
    ruleset: str
    present: bool


class ForgetTranslated(msgspec.Struct, frozen=True):
    """Drops the conntrack entries that were translated to ``address``."""

    address: IPAddress


class DeleteTunnel(msgspec.Struct, frozen=True):
    """A WireGuard interface that is not wanted, or that will be made anew."""

    name: str


class DeleteOtherRule(msgspec.Struct, frozen=True):
    """A routing rule in the gateway's namespace, as ``Links.other_rules`` has it."""

    rule: bytes


class CheckPort(msgspec.Struct, frozen=True):
    """Fails if another program has the UDP port. Checked first, because a userspace interface opens
    its socket only when it comes up, and then does not report a failure."""

    port: int


class ConfigureTunnel(msgspec.Struct, frozen=True):
    """Sets keys, port and peers of a WireGuard interface; its sessions stay where they can."""

    name: str
    config: Config


class MoveTunnel(msgspec.Struct, frozen=True):
    """Takes an interface into the gateway's namespace; its UDP socket stays in the node's."""

    name: str


class ReplaceRoutes(msgspec.Struct, frozen=True):
    """Adds routes, each in place of one to the same destination in its table."""

    where: Where
    routes: tuple[Route, ...]


class DeleteRoutes(msgspec.Struct, frozen=True):
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
