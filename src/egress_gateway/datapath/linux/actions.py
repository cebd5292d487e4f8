"""Steps that the plans of pods and of gateways have in common."""

from __future__ import annotations

import msgspec

from egress_gateway.datapath.linux.link import RoutingRule


class CreateTunnel(msgspec.Struct, frozen=True):
    """In the node's namespace, where its UDP socket is to stay."""

    name: str


class DeleteLink(msgspec.Struct, frozen=True):
    """A tunnel in the namespace that the plan is for: the pod's, or the gateway's."""

    link: str


class AddRule(msgspec.Struct, frozen=True):
    """In the namespace that the plan is for: the pod's, or the gateway's."""

    rule: RoutingRule


class DeleteRule(msgspec.Struct, frozen=True):
    """In the same namespace; nothing happens if the rule is gone."""

    rule: RoutingRule
