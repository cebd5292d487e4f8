"""When a gateway asks to be left. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.api.types import DRAINING, INTERNET_UNREACHABLE, ObjectMeta
from egress_gateway.datapath.gateway import reach
from egress_gateway.datapath.gateway.reach import ProbeTarget
from egress_gateway.gateway.health.internet import Reach
from egress_gateway.gateway.health.vetoes import LEAVING_TAINTS, leaving, vetoes
from egress_gateway.kube.resources import Node, NodeCondition, NodeSpec, NodeStatus, Taint

META = ObjectMeta(name="gw-1")
SHUTDOWN = NodeCondition(type="Ready", status="False", message="node is shutting down")
SECONDARY, HOST = IPv4Address("10.224.0.30"), IPv4Address("198.51.100.10")


@pytest.mark.parametrize(
    "node",
    [
        Node(metadata=META, spec=NodeSpec(unschedulable=True)),
        Node(metadata=META, spec=NodeSpec(taints=[Taint(LEAVING_TAINTS[0], "NoSchedule")])),
        Node(metadata=META, status=NodeStatus(conditions=[SHUTDOWN])),
        Node(metadata=ObjectMeta(name="gw-1", deletion_timestamp="2026-01-01T00:00:00Z")),
    ],
)
def test_a_node_that_is_to_go_is_left(node: Node) -> None:
    assert leaving(node)


def test_a_gateways_own_taint_and_a_sick_kubelet_drain_nothing() -> None:
    sick = NodeCondition(type="Ready", status="Unknown", message="Kubelet stopped posting status")
    spec = NodeSpec(taints=[Taint("kubeegressgateway.azure.com/mode", "NoSchedule")])
    node = Node(metadata=META, spec=spec, status=NodeStatus(conditions=[sick]))
    assert leaving(node) == ""


def test_vetoes_name_their_configuration() -> None:
    drain, dead = vetoes("cordoned", {"a/b": "none of 198.51.100.10 answers"})
    assert (drain.reason, drain.static_gateway_configuration) == (DRAINING, "")
    assert (dead.reason, dead.static_gateway_configuration) == (INTERNET_UNREACHABLE, "a/b")
    assert vetoes("", {}) == []


def test_one_lost_round_is_no_loss_and_one_answer_no_recovery() -> None:
    way = Reach(misses=3, recoveries=5)
    for answered in (False, False, True, False, False):
        way.round(answered)
        assert not way.dead
    way.round(False)
    assert way.dead
    for answered in (True, True, True, True, False, True, True, True, True):
        way.round(answered)
        assert way.dead
    way.round(True)
    assert not way.dead


@pytest.mark.parametrize("text", ["", "example.com", "1.2.3.4:0", "1.2.3.4:x", "1.2.3.4:70000"])
def test_a_target_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        ProbeTarget.parse(text)


@given(number=st.integers(0, 2**40), port=st.integers(0, 65535))
def test_questions_are_not_taken_for_answers(number: int, port: int) -> None:
    packet = reach.question(SECONDARY, ProbeTarget(HOST, port), number)
    answer = reach.parse(packet)
    # A TCP question names the target's port as destination; only there could it be mistaken.
    ours = reach.FIRST_PORT <= port < reach.FIRST_PORT + reach.PORTS
    assert (answer is not None) == (port != 0 and ours)


@given(st.binary(max_size=80))
def test_noise_is_no_answer_and_breaks_nothing(noise: bytes) -> None:
    answer = reach.parse(noise)
    assert answer is None or (len(noise) >= 20 and noise[0] >> 4 == 4)  # RFC 791
