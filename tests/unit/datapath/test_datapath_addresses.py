"""Texts of strangers become addresses of machines and networks, and nothing else."""

from __future__ import annotations

import ipaddress

import pytest

from egress_gateway.datapath.addresses import parse_address, parse_network, parse_networks
from egress_gateway.node.attachment.model import valid_cidrs

ZONES = [
    "eth0",
    "1",
    " ",
    '"',
    "\n",
    " }\n flush ruleset #",
    '"; delete table inet t; "',
    "\u00e9",
]
"""RFC 4007 leaves them to each machine, and ``ipaddress`` takes all of these."""


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("address", ["fe80::1", "2001:db8::1", "::"])
def test_no_zone_gets_into_rules(address: str, zone: str) -> None:
    text = f"{address}%{zone}"
    assert ipaddress.ip_address(text)
    for parse in (parse_address, parse_network):
        with pytest.raises(ValueError, match="has a zone"):
            parse(text)
    for length in ("", "/64", "/128"):
        assert parse_networks([text + length, "10.0.0.9/8"]) == (
            ipaddress.ip_network("10.0.0.0/8"),
        )
        assert valid_cidrs([text + length, "2001:db8::9/32"]) == ["2001:db8::/32"]


@pytest.mark.parametrize("text", ["", "10.0.0", "010.0.0.1", "10.0.0.1\n", "1::2::3", "x/8"])
def test_what_is_no_address_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_address(text)
    assert parse_networks([text]) == ()
