"""What ``plan`` may ask ``side`` to do, one action each."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal

from egress_gateway.datapath.actions import AddRule as AddRule
from egress_gateway.datapath.actions import CreateTunnel as CreateTunnel
from egress_gateway.datapath.actions import DeleteRule as DeleteRule
from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.linux.link import Route
from egress_gateway.datapath.wireguard.model import Config

Where = Literal["node", "gateway"]
IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True, slots=True)
class CreateNamespace:
    pass


@dataclass(frozen=True, slots=True)
class CreatePair:
    pass


@dataclass(frozen=True, slots=True)
class SetSysctl:
    where: Where
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class AddAddress:
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
    where: Where
    link: str
    mtu: int | None


@dataclass(frozen=True, slots=True)
class ApplyFilter:
    where: Where
    ruleset: str
    present: bool


@dataclass(frozen=True, slots=True)
class ForgetTranslated:
    address: IPAddress


@dataclass(frozen=True, slots=True)
class DeleteTunnel:
    name: str


@dataclass(frozen=True, slots=True)
class CheckPort:
    """Fails if another program has the UDP port. Checked first, because a userspace interface opens
    its socket only when it comes up, and then does not report a failure."""

    port: int


@dataclass(frozen=True, slots=True)
class ConfigureTunnel:
    name: str
    config: Config


@dataclass(frozen=True, slots=True)
class MoveTunnel:
    name: str


@dataclass(frozen=True, slots=True)
class ReplaceRoutes:
    where: Where
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class DeleteRoutes:
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
    | CheckPort
    | CreateTunnel
    | ConfigureTunnel
    | MoveTunnel
    | ReplaceRoutes
    | DeleteRoutes
    | AddRule
    | DeleteRule
)
