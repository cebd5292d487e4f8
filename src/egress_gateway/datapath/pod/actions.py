"""What ``podplan`` may ask ``pod`` to do, one step each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.linux.link import Route, Rule
from egress_gateway.datapath.linux.sockets import Flow
from egress_gateway.datapath.pod.ruleset import LINKS
from egress_gateway.datapath.wireguard.model import Config

TUNNEL_LINK: Final = LINKS[0]


@dataclass(frozen=True, slots=True)
class ApplyFilter:
    ruleset: str
    present: bool
    inbound: tuple[Flow, ...] = ()


@dataclass(frozen=True, slots=True)
class SetSysctl:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class AllowSource:
    port: int
    source: IPAddress


@dataclass(frozen=True, slots=True)
class ForgetSource:
    port: int


@dataclass(frozen=True, slots=True)
class DeleteLink:
    link: str


@dataclass(frozen=True, slots=True)
class DeleteTunnel:
    name: str


@dataclass(frozen=True, slots=True)
class CreateTunnel:
    name: str


@dataclass(frozen=True, slots=True)
class ConfigureTunnel:
    config: Config
    link: str = TUNNEL_LINK


@dataclass(frozen=True, slots=True)
class MoveTunnel:
    name: str
    link: str


@dataclass(frozen=True, slots=True)
class RaiseLink:
    link: str
    mtu: int


@dataclass(frozen=True, slots=True)
class DeleteRoutes:
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class ReplaceRoutes:
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class AddRule:
    rule: Rule


@dataclass(frozen=True, slots=True)
class DeleteRule:
    rule: Rule


Action = (
    ApplyFilter
    | SetSysctl
    | AllowSource
    | ForgetSource
    | DeleteLink
    | DeleteTunnel
    | CreateTunnel
    | ConfigureTunnel
    | MoveTunnel
    | RaiseLink
    | DeleteRoutes
    | ReplaceRoutes
    | AddRule
    | DeleteRule
)
