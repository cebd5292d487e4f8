"""What gateways always refuse never enters a tunnel: else a pod could start and resolve nothing."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress_gateway.datapath.addresses import ALWAYS_REFUSED, IPAddress, IPNetwork
from egress_gateway.datapath.pod.ruleset import render, split

NETWORKS = st.one_of(
    st.ip_addresses(v=4).flatmap(
        lambda a: st.integers(0, 32).map(lambda n: ipaddress.ip_network(f"{a}/{n}", strict=False))
    ),
    st.ip_addresses(v=6).flatmap(
        lambda a: st.integers(0, 128).map(lambda n: ipaddress.ip_network(f"{a}/{n}", strict=False))
    ),
)


def tunneled(
    address: IPAddress, *, default_route: bool, excluded: tuple[IPNetwork, ...] = ()
) -> bool:
    """Whether the routes send an address into the tunnel: the longest prefix decides, and the
    hold lets what is direct pass first."""
    found = split(default_route=default_route, excluded=excluded, exceptions=())
    if any(address in n for n in found.direct if n.version == address.version):
        longest = max(n.prefixlen for n in found.direct if address in n)
        return any(address in n and n.prefixlen > longest for n in found.tunneled)
    return any(address in n for n in found.tunneled if n.version == address.version)


@pytest.mark.parametrize(
    "text",
    [
        "169.254.10.10",  # AKS's LocalDNS, for pods of policy Default
        "169.254.10.11",  # and of policy ClusterFirst
        "169.254.20.10",  # NodeLocal DNSCache
        "169.254.169.254",  # metadata
        "169.254.170.2",
        "169.254.0.1",
        "168.63.129.16",
        "224.0.0.251",  # multicast DNS
        "239.255.255.250",
        "ff05::2",
        "fe80::1",
    ],
)
@pytest.mark.parametrize("default_route", [True, False])
def test_addresses_of_the_node_and_the_link_stay_on_the_pod_s_own_link(
    text: str, default_route: bool
) -> None:
    everything = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    excluded = () if default_route else everything
    address = ipaddress.ip_address(text)
    assert not tunneled(address, default_route=default_route, excluded=excluded)
    assert tunneled(ipaddress.ip_address("9.9.9.9"), default_route=default_route, excluded=excluded)


@given(
    network=st.sampled_from(ALWAYS_REFUSED),
    offset=st.integers(0, 2**128),
    default_route=st.booleans(),
    excluded=st.lists(NETWORKS, max_size=4),
)
def test_nothing_that_a_gateway_refuses_is_sent_to_one(
    network: IPNetwork, offset: int, default_route: bool, excluded: list[IPNetwork]
) -> None:
    address = network[offset % network.num_addresses]
    assert not tunneled(address, default_route=default_route, excluded=tuple(excluded))


def test_the_hold_lets_it_pass() -> None:
    table = render(split(default_route=True, excluded=(), exceptions=()))
    (line,) = [text for text in table.splitlines() if "set direct4" in text]
    for network in ALWAYS_REFUSED:
        if network.version == 4:
            assert str(network) in line
