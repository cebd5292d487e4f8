"""What the Internet sees of gateways is asked all the time, without any setting."""

from __future__ import annotations

import time

import pytest

from egress_gateway_lab.apiserver.wire.client import KubeError
from egress_gateway_lab.demo.world import World, until
from tests.lab.conftest import configured
from tests.lab.test_bad_input import remove
from tests.lab.test_promises import WHATSMYIP
from tests.lab.test_running_pods import becomes, command, cut, degraded, healthy, told

pytestmark = pytest.mark.root
_PATIENCE = 120
"""Seconds; what is promised is thirty, and this machine is loaded."""


async def verified(world: World, name: str, status: str) -> dict[str, object]:
    return await world.configuration_condition(
        name,
        lambda c: (c["type"], c["status"]) == ("EgressVerified", status),
        timeout=_PATIENCE,
    )


async def test_a_gateway_whose_internet_side_is_dead_is_told_and_left(world: World) -> None:
    """Its node side lives, and no setting asks for anything: it used to lose pods for ever."""
    await configured(world, "proven")
    (pod,) = await world.deploy("proven", configuration="proven", replicas=1)
    before = await becomes(world, pod, "Connected")

    async def seen() -> bool:
        found = await world.kube.get("staticgatewayconfigurations", "proven", namespace="default")
        gateways = found["status"]["gateways"]
        return len(gateways) == 2 and all(g.get("seenIp") == g["publicIp"] for g in gateways)

    await until(seen, timeout=_PATIENCE, what="the Internet to see both gateways")
    await verified(world, "proven", "True")
    begun = time.monotonic()
    async with cut(world, "internet", before["gateway"]):
        found = await verified(world, "proven", "False")
        print(f"EgressVerified False after {time.monotonic() - begun:.1f} s")
        said = {c["type"]: c for c in found["status"]["conditions"]}  # type: ignore[index]
        assert before["gateway"] in said["EgressVerified"]["message"]
        await degraded(world, "proven", "True", "AddressNotVerified")
        event = await told(world, pod, "EgressMoved", begun)
        assert before["egressIp"] in event["message"]
        assert await world.curl(pod, WHATSMYIP) != before["egressIp"]
        code, text = await command(world, "status")
        assert code == 1
        assert "InternetUnreachable" in text, text
    await verified(world, "proven", "True")
    await healthy(world, "proven")
    await world.kube.delete("deployments", "proven", namespace="default")
    await remove(world, "proven")


async def test_a_way_that_drops_large_packets_is_told_and_left(world: World) -> None:
    """Small packets pass, so nothing that pings shows it, and large transfers hang."""
    await configured(world, "narrow")
    (pod,) = await world.deploy("narrow", configuration="narrow", replicas=1)
    before = await becomes(world, pod, "Connected")
    await verified(world, "narrow", "True")
    begun = time.monotonic()
    async with cut(world, "large", before["gateway"]):
        found = await verified(world, "narrow", "False")
        print(f"told after {time.monotonic() - begun:.1f} s")
        said = {c["type"]: c for c in found["status"]["conditions"]}  # type: ignore[index]
        assert said["EgressVerified"]["reason"] == "LargePacketsLost"
        assert before["gateway"] in said["EgressVerified"]["message"]
        await degraded(world, "narrow", "True", "LargePacketsLost")
        await told(world, pod, "EgressMoved", begun)
        code, text = await command(world, "status")
        assert code == 1
        assert "LargePacketsLost" in text, text
    await verified(world, "narrow", "True")
    await healthy(world, "narrow")
    await world.kube.delete("deployments", "narrow", namespace="default")
    await remove(world, "narrow")


async def test_azure_that_rejects_the_credential_is_told_before_anything_needs_it(
    world: World,
) -> None:
    await configured(world, "expired")
    await healthy(world, "expired")
    begun = time.monotonic()
    fault = {"kind": "error", "status": 401, "code": "ExpiredAuthenticationToken", "times": None}
    await world.control.call("fault", **fault)
    try:
        found = await world.configuration_condition(
            "expired",
            lambda c: (c["type"], c["reason"]) == ("Degraded", "AzureNotReachable"),
            timeout=180,
        )
        print(f"told after {time.monotonic() - begun:.1f} s")
        said = {c["type"]: c for c in found["status"]["conditions"]}
        assert said["Ready"]["status"] == "True"
        await world.event("expired", "AzureNotReachable")
    finally:
        await world.control.call("fault", clear=True)
    await world.configuration_condition(
        "expired",
        lambda c: (c["type"], c["status"]) == ("Degraded", "False"),
        timeout=180,
    )
    await remove(world, "expired")


async def test_a_configuration_has_verify_targets_of_its_own(world: World) -> None:
    await configured(world, "theirs")
    await configured(world, "own")
    target = {"spec": {"verifyTargets": ["198.51.100.31:3478"]}}
    await world.kube.patch("staticgatewayconfigurations", "own", target, namespace="default")
    await verified(world, "own", "True")
    await verified(world, "theirs", "True")
    # One that does not answer is told, of this configuration alone.
    target = {"spec": {"verifyTargets": ["198.51.100.31:3477"]}}
    await world.kube.patch("staticgatewayconfigurations", "own", target, namespace="default")
    found = await verified(world, "own", "False")
    said = {c["type"]: c for c in found["status"]["conditions"]}  # type: ignore[index]
    assert "no server on the Internet answers" in said["EgressVerified"]["message"]
    # It never answered, so no gateway is left for it: a slip of the pen is no outage.
    code, text = await command(world, "status")
    assert "NOT SERVING" not in text, text
    assert code == 1
    await verified(world, "theirs", "True")
    bad = {"spec": {"verifyTargets": ["no port"]}}
    with pytest.raises(KubeError, match="verifyTargets"):
        await world.kube.patch("staticgatewayconfigurations", "own", bad, namespace="default")
    await remove(world, "own", "theirs")
