"""Addresses and networks, as people and objects write them. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from egress_gateway.datapath.addresses import IPNetwork


def networks(texts: Sequence[str]) -> Iterator[IPNetwork]:
    """Those of ``texts`` that are networks."""
    for text in texts:
        try:
            yield ipaddress.ip_network(text, strict=False)
        except ValueError:
            continue
