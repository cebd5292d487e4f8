"""Azure's rules for IPv6: prefixes, subnets and network interfaces of both families."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from egress_gateway_lab.azure.client import RequestFailed
from tests.contract.controller.azure_lab import GROUP, AzureLab, azure_lab

NETWORK = f"{GROUP}/providers/Microsoft.Network"
SUBNET = f"{NETWORK}/virtualNetworks/v/subnets/s"
VERSION = "2024-05-01"


async def refused(lab: AzureLab, path: str, properties: dict[str, Any], code: str) -> None:
    body = {"location": "swedencentral", "sku": {"name": "Standard"}, "properties": properties}
    with pytest.raises(RequestFailed, match=code):
        await lab.person.put(path, body, VERSION)


def network(*subnet: str) -> dict[str, Any]:
    properties = {"addressPrefixes": list(subnet)}
    return {
        "addressSpace": {"addressPrefixes": ["10.9.0.0/16", "2001:db8:9::/48"]},
        "subnets": [{"name": "s", "properties": properties}],
    }


def ip_config(name: str, version: str, *, primary: bool = False, **more: Any) -> dict[str, Any]:
    of = {"privateIPAddressVersion": version, "primary": primary, "subnet": {"id": SUBNET}}
    return {"name": name, "properties": of | more}


async def test_prefixes_subnets_and_interfaces_of_both_families(tmp_path: Path) -> None:
    async def story(lab: AzureLab) -> None:
        for length in (123, 128, 64):
            path = f"{NETWORK}/publicIPPrefixes/p{length}"
            properties = {"prefixLength": length, "publicIPAddressVersion": "IPv6"}
            await refused(lab, path, properties, "between 124 and 127 for IPv6")
        six = await lab.add_prefix("six", 127)
        found = await lab.person.get(six, VERSION)
        assert IPv6Network(found["properties"]["ipPrefix"]).prefixlen == 127

        vnet = f"{NETWORK}/virtualNetworks/v"
        await refused(lab, vnet, network("10.9.0.0/24", "2001:db8:9::/56"), "64")
        await refused(lab, vnet, network("10.9.0.0/24", "2001:db8:8::/64"), "outside")
        await refused(lab, vnet, network("2001:db8:9::/64"), "no IPv4")

        async def put(subnet: dict[str, Any]) -> None:
            body = {"location": "swedencentral", "properties": subnet}
            await lab.person.put(vnet, body, VERSION)

        four = ip_config("one", "IPv4", primary=True)
        nic = f"{NETWORK}/networkInterfaces/n"
        await put(network("10.9.0.0/24"))
        both = {"ipConfigurations": [four, ip_config("two", "IPv6")]}
        await refused(lab, nic, both, "no IPv6 address prefix")
        await put(network("10.9.0.0/24", "2001:db8:9::/64"))
        three = {"ipConfigurations": [*both["ipConfigurations"], ip_config("three", "IPv6")]}
        await refused(lab, nic, three, "one IP configuration of IPv6")
        first = {"ipConfigurations": [ip_config("one", "IPv6", primary=True)]}
        await refused(lab, nic, first, "must be of IPv4")

        address = f"{NETWORK}/publicIPAddresses/a"
        of_prefix = {"publicIPPrefix": {"id": six}, "publicIPAllocationMethod": "Static"}
        await refused(lab, address, of_prefix, "whose version is IPv6")
        of_prefix["publicIPAddressVersion"] = "IPv6"
        body = {"location": "swedencentral", "sku": {"name": "Standard"}, "properties": of_prefix}
        made = await lab.person.put(address, body, VERSION)
        network6 = IPv6Network(found["properties"]["ipPrefix"])
        assert IPv6Address(made["properties"]["ipAddress"]) in network6

        body = {"location": "swedencentral", "properties": both}
        done = await lab.person.put(nic, body, VERSION)
        private = {
            c["name"]: c["properties"]["privateIPAddress"]
            for c in done["properties"]["ipConfigurations"]
        }
        assert private == {"one": "10.9.0.4", "two": "2001:db8:9::4"}

    async with azure_lab(tmp_path) as lab:
        await story(lab)
