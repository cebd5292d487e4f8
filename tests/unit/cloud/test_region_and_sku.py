"""Load balancers and prefixes of another region, SKU or tier, however Azure spells them."""

from __future__ import annotations

from typing import Any

import pytest

from egress_gateway.cloud.azure.balancer import read_balancer
from egress_gateway.cloud.azure.documents import read_prefix

ID = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/publicIPPrefixes/p"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, ""),
        ({"sku": None, "location": None}, ""),
        ({"sku": {"name": None, "tier": None}}, ""),
        ({"sku": {"name": "standard"}}, ""),
        ({"sku": {"name": "Standard", "tier": "regional"}}, ""),
        ({"location": "West Europe"}, ""),
        ({"location": "WESTEUROPE"}, ""),
        ({"sku": {"name": "Basic"}}, "SKU Basic"),
        ({"sku": {"name": "BASIC"}}, "SKU BASIC"),
        ({"sku": {"name": "Gateway"}}, "SKU Gateway"),
        ({"sku": {"name": "Standard", "tier": "GLOBAL"}}, "tier GLOBAL"),
        ({"location": "northeurope"}, "region northeurope"),
    ],
)
def test_only_what_gateways_cannot_use_is_named(changes: dict[str, Any], named: str) -> None:
    sku = {"name": "Standard", "tier": "Regional"}
    document = {"id": ID, "name": "p", "location": "westeurope", "sku": sku, "properties": {}}
    balancer = read_balancer(document | changes, location="westeurope").unusable
    prefix = read_prefix(document | changes, location="westeurope").unusable
    for said in (balancer, prefix):
        assert named in said
        assert bool(said) == bool(named)
