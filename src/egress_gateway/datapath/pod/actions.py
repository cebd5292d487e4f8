"""What ``plan`` can ask ``PodSide`` to do, one step each."""

from __future__ import annotations

from dataclasses import dataclass

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.linux.actions import AddRule as AddRule
from egress_gateway.datapath.linux.actions import CreateTunnel as CreateTunnel
from egress_gateway.datapath.linux.actions import DeleteLink as DeleteLink
from egress_gateway.datapath.linux.actions import DeleteRule as DeleteRule
from egress_gateway.datapath.linux.link import Route
from egress_gateway.datapath.pod.origins import NO_ORIGINS, Origins
from egress_gateway.datapath.wireguard.model import Config


@dataclass(frozen=True, slots=True)
class ApplyFilter:
    """Brings the pod's table to ``ruleset`` in one nftables transaction; ``present``: there is one.
    ``origins``: connections from before the hold, which are let live or ended."""

    ruleset: str
    present: bool
    origins: Origins = NO_ORIGINS


@dataclass(frozen=True, slots=True)
class GuardLink:
    """Drops packets with a source that is not the pod's, at the node's end of the pod's link."""


@dataclass(frozen=True, slots=True)
class SetSysctl:
    """In the pod's namespace; ``name`` with slashes, below ``/proc/sys``."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class AllowSource:
    """Lets only the gateway at ``source`` answer the tunnel's UDP ``port`` on the node."""

    port: int
    source: IPAddress


@dataclass(frozen=True, slots=True)
class ForgetSource:
    """Ends that rule for a port."""

    port: int


@dataclass(frozen=True, slots=True)
class ConfigureTunnel:
    """Sets key, port and peer of the tunnel ``link``; its session stays if the peer does."""

    config: Config
    link: str


@dataclass(frozen=True, slots=True)
class MoveTunnel:
    """Takes the tunnel ``name`` from the node's namespace into the pod's, where it is ``link``."""

    name: str
    link: str


@dataclass(frozen=True, slots=True)
class RaiseLink:
    """Brings a link up, with ``mtu`` bytes."""

    link: str
    mtu: int


@dataclass(frozen=True, slots=True)
class DeleteRoutes:
    """Routes that are gone already do no harm."""

    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class ReplaceRoutes:
    """Adds routes, each in place of one to the same destination in its table."""

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
