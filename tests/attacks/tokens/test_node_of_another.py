"""Actor: a kubelet that says its node is the machine of another one, or has everybody's addresses.

A kubelet writes ``spec.providerID`` of its Node when it registers, and later if there is none. The
controller finds the gateways' Nodes by it.
"""

from __future__ import annotations

import ipaddress
import itertools

from egress_gateway.api import names
from egress_gateway.api.types import ObjectMeta
from egress_gateway.controller.observed.reported import by_machine
from egress_gateway.gateway.agent import internal_networks
from egress_gateway.kube.resources import Node, NodeAddress, NodeSpec, NodeStatus

MACHINE = "azure:///subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/a"


def node(name: str, *, created: str, spelled: str = MACHINE, **labels: str) -> Node:
    marks = {names.GATEWAY_NODE_LABEL: "true"} if labels.pop("gateway", "") else {}
    meta = ObjectMeta(name=name, creation_timestamp=created, labels=marks)
    return Node(metadata=meta, spec=NodeSpec(provider_id=spelled))


def test_a_worker_that_names_a_gateways_machine_takes_no_place_in_the_status() -> None:
    """In any order, by any spelling, and also with a Node that is older or comes first by name."""
    gateway = node("gw", created="2026-02-02T00:00:00Z", gateway="true")
    evil = (
        node("aa-older", created="2026-01-01T00:00:00Z"),
        node("zz", created="2026-03-03T00:00:00Z", spelled=MACHINE.upper()),
    )
    for found in itertools.permutations((gateway, *evil)):
        assert by_machine(found) == {MACHINE.lower(): "gw"}


def test_of_two_gateways_the_one_that_was_there_first_keeps_its_machine() -> None:
    """A Node that registers may carry the label (docs/operate/security.md)."""
    first = node("gw", created="2026-01-01T00:00:00Z", gateway="true")
    later = node("aa", created="2026-01-02T00:00:00Z", gateway="true")
    for found in ((first, later), (later, first)):
        assert by_machine(found) == {MACHINE.lower(): "gw"}


def test_a_kubelet_opens_wireguards_ports_to_no_network() -> None:
    """It may write any text into its Node's addresses; an address is one machine's."""
    evil = ["0.0.0.0/0", "10.0.0.0/8", "::/0", "2001:db8::/32", "10.0.0.1/255.0.0.0", "0.0.0.0", ""]
    evil += ["fe80::1%eth0", "2001:db8::1%\n} flush ruleset #"]
    addresses = [NodeAddress(type="InternalIP", address=text) for text in ("10.1.0.9", *evil)]
    registered = Node(metadata=ObjectMeta(name="evil"), status=NodeStatus(addresses=addresses))
    assert internal_networks([registered]) == (ipaddress.ip_network("10.1.0.9"),)


def test_a_kubelet_does_not_fill_the_gateways_rules() -> None:
    """A Node of 1.5 MB has room for some 30,000 addresses, which each gateway would apply."""
    many = [NodeAddress(type="InternalIP", address=f"10.9.{n >> 8}.{n & 255}") for n in range(9000)]
    evil = Node(metadata=ObjectMeta(name="evil"), status=NodeStatus(addresses=many))
    assert len(internal_networks([evil])) < 20
