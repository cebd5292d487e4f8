"""What ``plan`` can ask ``PodSide`` to do, one step each."""

from __future__ import annotations

from dataclasses import dataclass

from egress_gateway.datapath.actions import AddRule as AddRule
from egress_gateway.datapath.actions import CreateTunnel as CreateTunnel
from egress_gateway.datapath.actions import DeleteRule as DeleteRule
from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.linux.link import Route
from egress_gateway.datapath.pod.origins import NO_ORIGINS, Origins
from egress_gateway.datapath.wireguard.model import Config


@dataclass(frozen=True, slots=True)
class ApplyFilter:
    ruleset: str
    present: bool
    origins: Origins = NO_ORIGINS


@dataclass(frozen=True, slots=True)
class GuardLink:
    """At the node's end of the pod's link."""


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
class ConfigureTunnel:
    config: Config
    link: str


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


Action = (
    ApplyFilter
    | GuardLink
    | SetSysctl
    | AllowSource
    | ForgetSource
    | DeleteLink
    | CreateTunnel
    | ConfigureTunnel
    | MoveTunnel
    | RaiseLink
    | DeleteRoutes
    | ReplaceRoutes
    | AddRule
    | DeleteRule
)
