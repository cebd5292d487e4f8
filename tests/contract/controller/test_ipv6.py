"""IPv6 through the controller as shipped: real SDKs, Azure's rules, what people are told."""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from tests.contract.controller.test_controller import World, condition, reason


def ipv6(sgc: dict[str, Any]) -> dict[str, Any]:
    return condition(sgc, "IPv6Ready")


async def test_ipv6_waits_for_subnet_and_role_one_by_one_and_ipv4_does_not_wait_for_it(
    world: World,
) -> None:
    azure = world.azure
    before = await azure.resources()
    prefix = await azure.add_prefix("pip-prefix-v6", 126)
    await world.write("dual", publicIpPrefixIdV6=prefix)
    sgc = await world.until("dual", lambda s: reason(s, "IPv6Ready") == "AuthorizationFailed")
    assert "az role assignment create" in ipv6(sgc)["message"]
    await azure.grant(prefix)
    sgc = await world.until("dual", lambda s: reason(s, "IPv6Ready") == "SubnetWithoutIPv6")
    assert "aks-subnet" in ipv6(sgc)["message"]
    sgc = await world.until("dual", lambda s: condition(s, "Provisioned")["status"] == "True")
    four = sgc["status"]["egressIpPrefix"]
    assert four.endswith("/30")
    assert [g.get("secondaryIpV6") for g in sgc["status"]["gateways"]] == [None, None]
    await world.agents_are_ready(sgc)
    await world.until("dual", lambda s: reason(s) == "Ready")

    await azure.add_ipv6("2001:db8:24::/64", "2001:db8:24::/56")
    sgc = await world.until("dual", lambda s: reason(s, "IPv6Ready") == "IPv6Carried")
    six = sgc["status"]["egressIpPrefix"].removeprefix(f"{four},")
    assert six in ipv6(sgc)["message"]
    for gateway in sgc["status"]["gateways"]:
        assert IPv6Address(gateway["publicIpV6"]) in IPv6Network(six)
        assert IPv6Address(gateway["secondaryIpV6"]) in IPv6Network("2001:db8:24::/64")
    assert reason(sgc) == "Ready"
    async with asyncio.timeout(60):
        expected = {("Warning", "SubnetWithoutIPv6"), ("Normal", "IPv6Carried")}
        told: set[tuple[str, str]] = set()
        while not expected <= told:
            await asyncio.sleep(0.05)
            events = await world.kube.list("events", namespace="default")
            told = {(e["type"], e["reason"]) for e in events}

    # A second one finds the network interfaces' only IPv6 address taken.
    other = await azure.add_prefix("pip-prefix-other", 126)
    await azure.grant(other, 2)
    await world.write("second", publicIpPrefixIdV6=other)
    await world.until("second", lambda s: reason(s, "IPv6Ready") == "IPv6ConfigurationTaken")
    await world.until("second", lambda s: condition(s, "Provisioned")["status"] == "True")
    for name in ("dual", "second"):
        await world.kube.delete("staticgatewayconfigurations", name, namespace="default")
        await world.until_gone(name)
    assert await azure.resources() == before
