"""The node's filter of outer packets, after a change that failed."""

from __future__ import annotations

import ipaddress

import pytest

from egress_gateway.datapath.errors import DatapathError
from egress_gateway.datapath.linux.nft import Nftables
from egress_gateway.datapath.pod.sources import SourceFilter

GATEWAY = ipaddress.ip_address("10.1.1.4")


def test_a_port_is_opened_although_the_table_could_not_be_made_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    applied: list[str] = []

    def apply(_: Nftables, ruleset: str) -> None:
        applied.append(ruleset)
        if len(applied) == 1:
            raise DatapathError("busy")

    monkeypatch.setattr(Nftables, "apply", apply)
    monkeypatch.setattr(Nftables, "table", lambda *_: None)
    sources = SourceFilter()
    with pytest.raises(DatapathError):
        sources.sync({20000: GATEWAY})
    sources.allow(20000, GATEWAY)
    assert "add element inet egress_gateway_node ports { 20000 }" in applied[-1]
    assert "{ 20000 . 10.1.1.4 }" in applied[-1]
