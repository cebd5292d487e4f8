"""What ``plan`` can ask ``PodSide`` to do, one step each."""

from __future__ import annotations

import msgspec

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.linux.actions import AddRule as AddRule
from egress_gateway.datapath.linux.actions import CreateTunnel as CreateTunnel
from egress_gateway.datapath.linux.actions import DeleteLink as DeleteLink
from egress_gateway.datapath.linux.actions import DeleteRule as DeleteRule
from egress_gateway.datapath.linux.link import Route
from egress_gateway.datapath.pod.origins import NO_ORIGINS, Origins
from egress_gateway.datapath.wireguard.model import Config


class ApplyFilter(msgspec.Struct, frozen=True):
    """Brings the pod's table to ``ruleset`` in one nftables transaction; ``present``: there is one.
    ``origins``: connections from before the hold, which are let live or ended."""

    ruleset: str
    present: bool
    origins: Origins = NO_ORIGINS


class GuardLink(msgspec.Struct, frozen=True):
    """Drops packets with a source that is not the pod's, at the node's end of the pod's link."""


class SetSysctl(msgspec.Struct, frozen=True):
    """In the pod's namespace; ``name`` with slashes, below ``/proc/sys``."""

    name: str
    value: str


class AllowSource(msgspec.Struct, frozen=True):
    """Lets only the gateway at ``source`` answer the tunnel's UDP ``port`` on the node."""

    port: int
    source: IPAddress


class ForgetSource(msgspec.Struct, frozen=True):
    """Ends that rule for a port."""

    port: int


class ConfigureTunnel(msgspec.Struct, frozen=True):
    """Sets key, port and peer of the tunnel ``link``; its session stays if the peer does."""

    config: Config
    link: str


class MoveTunnel(msgspec.Struct, frozen=True):
    """Takes the tunnel ``name`` from the node's namespace into the pod's, where it is ``link``."""

    name: str
    link: str


class RaiseLink(msgspec.Struct, frozen=True):
    """Brings a link up, with ``mtu`` bytes."""

    link: str
    mtu: int


class DeleteRoutes(msgspec.Struct, frozen=True):
    """Routes that are gone already do no harm."""

    routes: tuple[Route, ...]


class ReplaceRoutes(msgspec.Struct, frozen=True):
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
