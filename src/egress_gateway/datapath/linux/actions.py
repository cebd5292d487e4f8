"""Steps that the plans of pods and of gateways have in common."""

from __future__ import annotations

from dataclasses import dataclass

from egress_gateway.datapath.linux.link import RoutingRule


@dataclass(frozen=True, slots=True)
class CreateTunnel:
    """In the node's namespace, where its UDP socket is to stay."""

    name: str


@dataclass(frozen=True, slots=True)
class DeleteLink:
    """A tunnel in the namespace that the plan is for: the pod's, or the gateway's."""

    link: str


@dataclass(frozen=True, slots=True)
class AddRule:
    """In the namespace that the plan is for: the pod's, or the gateway's."""

    rule: RoutingRule


@dataclass(frozen=True, slots=True)
class DeleteRule:
    """In the same namespace; nothing happens if the rule is gone."""

    rule: RoutingRule
