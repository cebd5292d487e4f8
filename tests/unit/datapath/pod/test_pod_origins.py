"""Who opened a pod's older connections, from sockets' counters and what the node saw. Pure."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.linux.sockets import TCP, UDP, Counters, Flow, Opener, Socket, opener
from egress_gateway.datapath.pod.origins import (
    Origins,
    merged,
    origins,
    server_ports,
    undecided,
    wrongly_marked,
)
from egress_gateway.datapath.pod.ruleset import amendment

OWN = ipaddress.ip_address("10.244.1.2")
REMOTE = ipaddress.ip_address("198.51.100.10")
EPHEMERAL = range(32768, 61000)
_ESTABLISHED, _FIN_WAIT1, _FIN_WAIT2, _CLOSE_WAIT = 1, 4, 5, 8


def counted(
    *, opened: bool, written: int, sent: int, acknowledged: int, again: int, ended: bool = False
) -> Counters:
    """As the kernel counts. ``written`` bytes of which ``sent`` left and ``acknowledged`` arrived;
    ``ended``: the end of the stream was sent after all of them."""
    return Counters(
        sent=sent + again,
        retransmitted=again,
        acknowledged=acknowledged + opened,
        queued=written + ended - acknowledged,
        unsent=written - sent,
    )


_SIZES = st.tuples(*[st.integers(0, 1 << 33)] * 4).map(sorted)


@given(sizes=_SIZES, opened=st.booleans(), state=st.sampled_from([_ESTABLISHED, _CLOSE_WAIT]))
def test_the_counters_tell_who_opened_a_connection(
    sizes: list[int], opened: bool, state: int
) -> None:
    again, acknowledged, sent, written = sizes
    found = counted(
        opened=opened, written=written, sent=sent, acknowledged=acknowledged, again=again
    )
    assert opener(state, found) == ("pod" if opened else "remote")


@given(sizes=_SIZES, opened=st.booleans())
def test_they_tell_it_of_connections_whose_end_was_sent(sizes: list[int], opened: bool) -> None:
    again, acknowledged, written, _ = sizes
    waiting = counted(
        opened=opened,
        written=written,
        sent=written,
        acknowledged=acknowledged,
        again=again,
        ended=True,
    )
    assert opener(_FIN_WAIT1, waiting) == ("pod" if opened else "remote")
    arrived = Counters(
        sent=written + again,
        retransmitted=again,
        acknowledged=written + 1 + opened,
        queued=0,
        unsent=0,
    )
    assert opener(_FIN_WAIT2, arrived) == ("pod" if opened else "remote")


def test_what_does_not_fit_together_is_unknown() -> None:
    assert opener(_ESTABLISHED, Counters(3000, 0, 0, 1500, 0)) == "unknown"
    assert opener(_ESTABLISHED, Counters(0, 0, 5, 0, 0)) == "unknown"


def tcp(who: Opener, port: int = 50000, *, local: int = 8080) -> Socket:
    return Socket(TCP, OWN, local, Flow(REMOTE, port, local), who)


def udp(port: int, *, connected: bool = False, local: str = "0.0.0.0") -> Socket:
    flow = Flow(REMOTE, 443, port, UDP) if connected else None
    return Socket(UDP, ipaddress.ip_address(local), port, flow)


def found(*samples: list[Socket], passed: tuple[Flow, ...] = ()) -> Origins:
    return origins(samples, ephemeral=EPHEMERAL, passed=passed)


@pytest.mark.parametrize(
    ("said", "accepted"),
    [
        (["remote"], True),
        (["unknown", "remote"], True),
        (["remote", "pod"], False),
        (["unknown", "unknown"], False),
        (["pod"], False),
    ],
)
def test_only_a_connection_that_no_look_takes_for_the_pods_came_in(
    said: list[Opener], accepted: bool
) -> None:
    result = found(*([tcp(who)] for who in said))
    assert bool(result.accepted) is accepted


def test_another_look_is_worth_it_while_somebody_is_unknown() -> None:
    assert undecided([[tcp("unknown"), tcp("pod", 1)]])
    assert not undecided([[tcp("unknown")], [tcp("remote")]])
    assert not undecided([[udp(40000)]])


def test_datagrams_of_a_server_are_told_from_those_that_the_pod_began() -> None:
    passed = Flow(REMOTE, 443, 5353, UDP)
    result = found(
        [udp(5353), udp(40000), udp(40001, connected=True), udp(40002, local="127.0.0.1")],
        passed=(passed,),
    )
    assert result.ports == {40000}
    assert result.opened == {passed, Flow(REMOTE, 443, 40001, UDP)}
    assert server_ports([udp(5353), udp(40000), udp(5354, connected=True)], EPHEMERAL) == {5353}


def test_a_pod_without_sockets_has_no_older_connections() -> None:
    assert found([]) == Origins()
    assert found([tcp("pod")]).older


def test_a_second_look_adds_and_refutes() -> None:
    first = found([tcp("remote"), tcp("remote", 2)])
    second = found([tcp("pod"), tcp("remote", 2), tcp("remote", 3)])
    both = merged(first, second)
    assert {flow.remote_port for flow in both.accepted} == {2, 3}
    change = amendment(first, both)
    assert "delete element inet egress_gateway inbound4 { 198.51.100.10 . 50000 . 8080 }" in change
    assert "add element inet egress_gateway inbound4 { 198.51.100.10 . 3 . 8080 }" in change
    assert amendment(both, both).strip() == ""


def test_marks_that_are_taken_off() -> None:
    known = found([tcp("remote", 1), tcp("pod", 2), tcp("unknown", 3), udp(40000), udp(5353)])

    def of(flow: Flow, *, certain: bool, source: IPAddress = REMOTE) -> bool:
        return wrongly_marked(known, [OWN], certain=certain)(source, flow)

    for certain in (False, True):
        assert not of(Flow(REMOTE, 1, 8080), certain=certain)
        assert of(Flow(REMOTE, 2, 8080), certain=certain)
        assert of(Flow(REMOTE, 443, 40000, UDP), certain=certain)
        assert not of(Flow(REMOTE, 443, 5353, UDP), certain=certain)
        assert of(Flow(REMOTE, 443, 5353, UDP), certain=certain, source=OWN)
        assert not of(Flow(REMOTE, 0, 0, 1), certain=certain)
    assert of(Flow(REMOTE, 3, 8080), certain=False)
    assert not of(Flow(REMOTE, 3, 8080), certain=True), "this agent's own tracking knows better"
    assert of(Flow(REMOTE, 0, 0, 47), certain=False)
