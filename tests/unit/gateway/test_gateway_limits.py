"""Who has too many connections, and until when."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.datapath.addresses import IPAddress
from egress_gateway.datapath.gateway.served import ServedConfiguration, WireGuardServer
from egress_gateway.gateway.connections.limits import ConnectionLimits, Excess, excess, full

A, B = IPv4Address("10.244.1.2"), IPv4Address("10.244.1.3")
TABLE = 1000
COUNTS = st.dictionaries(
    st.tuples(st.sampled_from([6000, 6001]), st.sampled_from([A, B])), st.integers(0, 400)
)


def test_a_pod_is_held_back_at_its_limit_and_until_it_has_a_tenth_less() -> None:
    limits = ConnectionLimits(pod=100)
    held = Excess()
    for number, expected in ((99, False), (100, True), (95, True), (91, True), (89, False)):
        held = excess({(6000, A): number, (6000, B): 5}, TABLE, limits, held)
        assert ((6000, A) in held.pods) == expected
        assert (6000, B) not in held.pods
    assert not held


def test_a_configuration_has_its_share_of_the_table() -> None:
    limits = ConnectionLimits(share=50)
    sources: dict[tuple[int, IPAddress], int] = {(6000, A): 300, (6000, B): 200, (6001, A): 499}
    found = excess(sources, TABLE, limits, Excess())
    assert found.zones == {6000: 500}
    assert found.pods == {}


@given(COUNTS)
def test_without_limits_nobody_is_held_back(sources: dict[tuple[int, IPAddress], int]) -> None:
    assert not excess(sources, TABLE, ConnectionLimits(), Excess())


@given(COUNTS, COUNTS, st.integers(1, 300), st.integers(1, 100))
def test_only_who_is_over_his_own_limit_is_held_back(
    before: dict[tuple[int, IPAddress], int],
    now: dict[tuple[int, IPAddress], int],
    pod: int,
    share: int,
) -> None:
    limits = ConnectionLimits(pod=pod, share=share)
    found = excess(now, TABLE, limits, excess(before, TABLE, limits, Excess()))
    for source, number in now.items():
        if number >= pod:
            assert source in found.pods
        if source in found.pods:
            assert number >= pod - pod // 10


def test_a_configuration_is_all_its_interfaces() -> None:
    """While its keys are changed it has two; its zone may be another number than its port."""
    second = WireGuardServer(port=6007, private_key=None)
    one = ServedConfiguration(
        name="ns/one", port=6000, private_key=None, secondary=A, second=second, zone=77
    )
    found = full(Excess({(77, B): 9, (78, B): 9}, {77: 9}), [one])
    assert found.pods == {("wg-6000", B), ("wg-6007", B)}
    assert found.interfaces == {"wg-6000", "wg-6007"}
